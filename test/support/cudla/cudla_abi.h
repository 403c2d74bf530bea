/* SPDX-FileCopyrightText: The yolox_trt authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * The documented ABI of cuDLA 1.2.1 and of what the package uses of NvSciBuf 2.7 and NvSciSync 2.8,
 * declared anew from NVIDIA's reference:
 *   https://docs.nvidia.com/cuda/cudla-api/index.html (types, values, functions, return codes)
 *   https://developer.nvidia.com/docs/drive/drive-os/6.0.9/public/drive-os-linux-sdk/api_reference/
 *     (groups nvscibuf_attr_key, nvscibuf_datatype, nvsci_sync)
 * Where NVIDIA's own headers are installed, the tests compile against them, too.
 */
#ifndef CUDLA_ABI_H
#define CUDLA_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    cudlaSuccess = 0,
    cudlaErrorInvalidParam = 1,
    cudlaErrorOutOfResources = 2,
    cudlaErrorCreationFailed = 3,
    cudlaErrorInvalidAddress = 4,
    cudlaErrorOs = 5,
    cudlaErrorCuda = 6,
    cudlaErrorUmd = 7,
    cudlaErrorInvalidDevice = 8,
    cudlaErrorInvalidAttribute = 9,
    cudlaErrorIncompatibleDlaSWVersion = 10,
    cudlaErrorMemoryRegistered = 11,
    cudlaErrorInvalidModule = 12,
    cudlaErrorUnsupportedOperation = 13,
    cudlaErrorNvSci = 14,
    cudlaErrorDlaErrInvalidInput = 0x40000001,
    cudlaErrorDlaErrInvalidPreAction = 0x40000002,
    cudlaErrorDlaErrNoMem = 0x40000003,
    cudlaErrorDlaErrProcessorBusy = 0x40000004,
    cudlaErrorDlaErrTaskStatusMismatch = 0x40000005,
    cudlaErrorDlaErrEngineTimeout = 0x40000006,
    cudlaErrorDlaErrDataMismatch = 0x40000007,
    cudlaErrorUnknown = 0x7fffffff
} cudlaStatus;

typedef enum { CUDLA_CUDA_DLA = 0, CUDLA_STANDALONE = 1 } cudlaMode;
typedef enum { CUDLA_NVSCISYNC_ATTR_WAIT = 1, CUDLA_NVSCISYNC_ATTR_SIGNAL = 2 } cudlaNvSciSyncAttributes;
typedef enum {
    CUDLA_NUM_INPUT_TENSORS = 0,
    CUDLA_NUM_OUTPUT_TENSORS = 1,
    CUDLA_INPUT_TENSOR_DESCRIPTORS = 2,
    CUDLA_OUTPUT_TENSOR_DESCRIPTORS = 3,
    CUDLA_NUM_OUTPUT_TASK_STATISTICS = 4,        /* of CUDA 13's reference, not of 1.2.1, as */
    CUDLA_OUTPUT_TASK_STATISTICS_DESCRIPTORS = 5 /* all that LATER stands for in layout.c */
} cudlaModuleAttributeType;
typedef enum {
    CUDLA_SUBMIT_NOOP = 1,
    CUDLA_SUBMIT_SKIP_LOCK_ACQUIRE = 1 << 1,
    CUDLA_SUBMIT_DIAGNOSTICS_TASK = 1 << 2
} cudlaSubmissionFlags;
typedef enum {
    CUDLA_READ_WRITE_PERM = 0,
    CUDLA_READ_ONLY_PERM = 1,
    CUDLA_TASK_STATISTICS = 1 << 1
} cudlaAccessPermissionFlags;
typedef enum { CUDLA_MODULE_DEFAULT = 0, CUDLA_MODULE_ENABLE_FAULT_DIAGNOSTICS = 1 } cudlaModuleLoadFlags;
typedef enum { CUDLA_UNIFIED_ADDRESSING = 0, CUDLA_DEVICE_VERSION = 1 } cudlaDevAttributeType;
typedef enum { CUDLA_NVSCISYNC_FENCE = 1, CUDLA_NVSCISYNC_FENCE_SOF = 2 } cudlaFenceType;

#define CUDLA_DATA_FORMAT_UNKNOWN 0U
#define CUDLA_DATA_FORMAT_NCHW 1U
#define CUDLA_DATA_FORMAT_NHWC 2U
#define CUDLA_DATA_FORMAT_NCxHWx 3U
#define CUDLA_DATA_TYPE_UNKNOWN 0U
#define CUDLA_DATA_TYPE_FLOAT 1U
#define CUDLA_DATA_TYPE_HALF 2U
#define CUDLA_DATA_TYPE_INT16 3U
#define CUDLA_DATA_TYPE_INT8 4U
#define CUDLA_DATA_TYPE_UINT8 5U
#define CUDLA_DATA_TYPE_UINT16 6U

typedef struct cudlaDevHandle_t *cudlaDevHandle;
typedef struct cudlaModule_t *cudlaModule;

typedef struct {
    const void *extBufObject;
    unsigned long long size;
} cudlaExternalMemoryHandleDesc;

typedef struct {
    const void *extSyncObject;
} cudlaExternalSemaphoreHandleDesc;

typedef struct {
    char name[80 + 1];
    uint64_t size;
    uint64_t n, c, h, w;
    uint8_t dataFormat, dataType, dataCategory, pixelFormat, pixelMapping;
    uint32_t stride[8];
} cudlaModuleTensorDescriptor;

typedef union {
    uint32_t numInputTensors;
    uint32_t numOutputTensors;
    cudlaModuleTensorDescriptor *inputTensorDesc;
    cudlaModuleTensorDescriptor *outputTensorDesc;
} cudlaModuleAttribute;

typedef union {
    uint8_t unifiedAddressingSupported;
    uint32_t deviceVersion;
} cudlaDevAttribute;

typedef struct {
    void *fence;
    cudlaFenceType type;
} CudlaFence;

typedef struct {
    const CudlaFence *preFences;
    uint32_t numEvents;
} cudlaWaitEvents;

typedef struct {
    uint64_t *const *devPtrs;
    CudlaFence *eofFences;
    uint32_t numEvents;
} cudlaSignalEvents;

typedef struct {
    cudlaModule moduleHandle;
    uint64_t *const *outputTensor;
    uint32_t numOutputTensors;
    uint32_t numInputTensors;
    const uint64_t *const *inputTensor;
    const cudlaWaitEvents *waitEvents;
    cudlaSignalEvents *signalEvents;
} cudlaTask;

/* NvSci */

typedef int NvSciError; /* an enum: 0 is success */
typedef enum { NvSciBufType_RawBuffer = 1 } NvSciBufType;
typedef enum {
    NvSciBufGeneralAttrKey_Types = 1,
    NvSciBufGeneralAttrKey_NeedCpuAccess = 2,
    NvSciBufGeneralAttrKey_RequiredPerm = 3,
    NvSciBufRawBufferAttrKey_Size = 1 << 16,
    NvSciBufRawBufferAttrKey_Align
} NvSciBufAttrKey;
typedef enum { NvSciBufAccessPerm_Readonly = 1, NvSciBufAccessPerm_ReadWrite = 3 } NvSciBufAttrValAccessPerm;
typedef struct {
    NvSciBufAttrKey key;
    const void *value;
    size_t len;
} NvSciBufAttrKeyValuePair;

typedef enum { NvSciSyncAttrKey_NeedCpuAccess = 1, NvSciSyncAttrKey_RequiredPerm = 2 } NvSciSyncAttrKey;
typedef uint64_t NvSciSyncAccessPerm;
#define NvSciSyncAccessPerm_WaitOnly ((uint64_t)1U << 0U)
#define NvSciSyncAccessPerm_SignalOnly ((uint64_t)1U << 1U)
typedef struct {
    NvSciSyncAttrKey attrKey;
    const void *value;
    size_t len;
} NvSciSyncAttrKeyValuePair;
typedef struct {
    uint64_t payload[6];
} NvSciSyncFence;

#endif
