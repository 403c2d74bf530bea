# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Structs, enums and functions of cudla.h, nvscibuf.h and nvscisync.h, for ctypes.

Sources: cudla.h 1.2.1 (JetPack 5), the cuDLA API reference of CUDA 13 and NVIDIA's Cython
declarations of it (cuda-python, cycudla.pxd) for what came later; nvscibuf.h 2.7 and nvscisync.h
2.8 (JetPack 6). What is used of them has the same values and layouts in all of these. The names are
NVIDIA's, without their prefixes.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, Union
from enum import IntEnum, IntFlag

NAME_BYTES = 81
"""CUDLA_RUNTIME_TENSOR_DESC_NAME_MAX_LEN and the zero behind it."""
STRIDES = 8
"""CUDLA_LOADABLE_TENSOR_DESC_NUM_STRIDES."""


class Status(IntEnum):
    """enum cudlaStatus."""

    Success = 0
    ErrorInvalidParam = 1
    ErrorOutOfResources = 2
    ErrorCreationFailed = 3
    ErrorInvalidAddress = 4
    ErrorOs = 5
    ErrorCuda = 6
    ErrorUmd = 7
    ErrorInvalidDevice = 8
    ErrorInvalidAttribute = 9
    ErrorIncompatibleDlaSWVersion = 10
    ErrorMemoryRegistered = 11
    ErrorInvalidModule = 12
    ErrorUnsupportedOperation = 13
    ErrorNvSci = 14
    ErrorDlaErrInvalidInput = 0x40000001
    ErrorDlaErrInvalidPreAction = 0x40000002
    ErrorDlaErrNoMem = 0x40000003
    ErrorDlaErrProcessorBusy = 0x40000004
    ErrorDlaErrTaskStatusMismatch = 0x40000005
    ErrorDlaErrEngineTimeout = 0x40000006
    ErrorDlaErrDataMismatch = 0x40000007
    ErrorUnknown = 0x7FFFFFFF


class Mode(IntEnum):
    """enum cudlaMode: flags of cudlaCreateDevice."""

    CUDA_DLA = 0
    """Hybrid: tasks on a CUDA stream."""
    STANDALONE = 1
    """No CUDA context; NvSciBuf and NvSciSync."""


class ModuleAttributeType(IntEnum):
    """enum cudlaModuleAttributeType."""

    NUM_INPUT_TENSORS = 0
    NUM_OUTPUT_TENSORS = 1
    INPUT_TENSOR_DESCRIPTORS = 2
    OUTPUT_TENSOR_DESCRIPTORS = 3
    # Later than 1.2.1:
    NUM_OUTPUT_TASK_STATISTICS = 4
    OUTPUT_TASK_STATISTICS_DESCRIPTORS = 5


class DevAttributeType(IntEnum):
    """enum cudlaDevAttributeType."""

    UNIFIED_ADDRESSING = 0
    DEVICE_VERSION = 1


class DataFormat(IntEnum):
    """CUDLA_DATA_FORMAT_*."""

    UNKNOWN = 0
    NCHW = 1
    NHWC = 2
    NCxHWx = 3


class DataType(IntEnum):
    """CUDLA_DATA_TYPE_*."""

    UNKNOWN = 0
    FLOAT = 1
    HALF = 2
    INT16 = 3
    INT8 = 4
    UINT8 = 5
    UINT16 = 6


class NvSciSyncAttributes(IntEnum):
    """enum cudlaNvSciSyncAttributes."""

    WAIT = 1
    SIGNAL = 2


class FenceType(IntEnum):
    """enum cudlaFenceType: the end of a task, or its start."""

    NVSCISYNC_FENCE = 1
    NVSCISYNC_FENCE_SOF = 2


class SubmissionFlags(IntFlag):
    """enum cudlaSubmissionFlags, of cudlaSubmitTask."""

    SUBMIT_NOOP = 1
    SUBMIT_SKIP_LOCK_ACQUIRE = 2
    SUBMIT_DIAGNOSTICS_TASK = 4  # later than 1.2.1


class AccessPermissionFlags(IntFlag):
    """enum cudlaAccessPermissionFlags, of cudlaImportExternalMemory."""

    READ_WRITE_PERM = 0
    READ_ONLY_PERM = 1
    TASK_STATISTICS = 2  # later than 1.2.1


class ModuleLoadFlags(IntFlag):
    """enum cudlaModuleLoadFlags, of cudlaModuleLoadFromMemory; later than 1.2.1."""

    MODULE_DEFAULT = 0
    MODULE_ENABLE_FAULT_DIAGNOSTICS = 1


class ModuleTensorDescriptor(Structure):
    """cudlaModuleTensorDescriptor: one tensor of a loadable.

    Of stride[], a loadable on an Orin showed the bytes of a row in [1] and, in NCHW, of a plane in
    [2] (NVIDIA/cuda-samples, issue 192). Its names end in an apostrophe, which TensorRT adds.
    """

    _fields_ = (
        ("name", ctypes.c_char * NAME_BYTES),
        ("size", ctypes.c_uint64),
        ("n", ctypes.c_uint64),
        ("c", ctypes.c_uint64),
        ("h", ctypes.c_uint64),
        ("w", ctypes.c_uint64),
        ("dataFormat", ctypes.c_uint8),
        ("dataType", ctypes.c_uint8),
        ("dataCategory", ctypes.c_uint8),
        ("pixelFormat", ctypes.c_uint8),
        ("pixelMapping", ctypes.c_uint8),
        ("stride", ctypes.c_uint32 * STRIDES),
    )


class ModuleAttribute(Union):
    """cudlaModuleAttribute: what cudlaModuleGetAttributes answers."""

    _fields_ = (
        ("numInputTensors", ctypes.c_uint32),
        ("numOutputTensors", ctypes.c_uint32),
        ("inputTensorDesc", POINTER(ModuleTensorDescriptor)),
        ("outputTensorDesc", POINTER(ModuleTensorDescriptor)),
    )


class DevAttribute(Union):
    """cudlaDevAttribute: what cudlaDeviceGetAttribute answers."""

    _fields_ = (
        ("unifiedAddressingSupported", ctypes.c_uint8),
        ("deviceVersion", ctypes.c_uint32),
    )


class ExternalMemoryHandleDesc(Structure):
    """cudlaExternalMemoryHandleDesc: an NvSciBufObj and its bytes."""

    _fields_ = (("extBufObject", ctypes.c_void_p), ("size", ctypes.c_ulonglong))


class ExternalSemaphoreHandleDesc(Structure):
    """cudlaExternalSemaphoreHandleDesc: an NvSciSyncObj."""

    _fields_ = (("extSyncObject", ctypes.c_void_p),)


class Fence(Structure):
    """CudlaFence."""

    _fields_ = (("fence", ctypes.c_void_p), ("type", ctypes.c_int))


class WaitEvents(Structure):
    """cudlaWaitEvents."""

    _fields_ = (("preFences", POINTER(Fence)), ("numEvents", ctypes.c_uint32))


class SignalEvents(Structure):
    """cudlaSignalEvents."""

    _fields_ = (
        ("devPtrs", POINTER(ctypes.c_void_p)),
        ("eofFences", POINTER(Fence)),
        ("numEvents", ctypes.c_uint32),
    )


class Task(Structure):
    """cudlaTask: one run of a module."""

    _fields_ = (
        ("moduleHandle", ctypes.c_void_p),
        ("outputTensor", POINTER(ctypes.c_void_p)),
        ("numOutputTensors", ctypes.c_uint32),
        ("numInputTensors", ctypes.c_uint32),
        ("inputTensor", POINTER(ctypes.c_void_p)),
        ("waitEvents", POINTER(WaitEvents)),
        ("signalEvents", POINTER(SignalEvents)),
    )


class NvSciSyncFence(Structure):
    """NvSciSyncFence: all zeroes is a cleared one."""

    _fields_ = (("payload", ctypes.c_uint64 * 6),)


class NvSciAttribute(Structure):
    """NvSciBufAttrKeyValuePair and NvSciSyncAttrKeyValuePair, which are laid out alike."""

    _fields_ = (("key", ctypes.c_int), ("value", ctypes.c_void_p), ("len", ctypes.c_size_t))


# NvSciBufAttrKey, NvSciBufType, NvSciBufAttrValAccessPerm.
BUF_TYPES, BUF_NEED_CPU_ACCESS, BUF_REQUIRED_PERM = 1, 2, 3
BUF_RAW_SIZE, BUF_RAW_ALIGN = 0x10000, 0x10001
BUF_TYPE_RAW = 1
BUF_READ_WRITE = 3
# NvSciSyncAttrKey, NvSciSyncAccessPerm (64 bits wide).
SYNC_NEED_CPU_ACCESS, SYNC_REQUIRED_PERM = 1, 2
SYNC_WAIT_ONLY = 1

_P, _U32, _U64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
_OUT = POINTER(ctypes.c_void_p)

#: Functions of libcudla and the types of their arguments; each returns a cudlaStatus.
CUDLA_FUNCTIONS: dict[str, tuple[type, ...]] = {
    "cudlaGetVersion": (POINTER(_U64),),
    "cudlaDeviceGetCount": (POINTER(_U64),),
    "cudlaCreateDevice": (_U64, _OUT, _U32),
    "cudlaMemRegister": (_P, _P, ctypes.c_size_t, _OUT, _U32),
    "cudlaModuleLoadFromMemory": (_P, ctypes.c_char_p, ctypes.c_size_t, _OUT, _U32),
    "cudlaModuleGetAttributes": (_P, ctypes.c_int, POINTER(ModuleAttribute)),
    "cudlaModuleUnload": (_P, _U32),
    "cudlaSubmitTask": (_P, POINTER(Task), _U32, _P, _U32),
    "cudlaDeviceGetAttribute": (_P, ctypes.c_int, POINTER(DevAttribute)),
    "cudlaMemUnregister": (_P, _P),
    "cudlaGetLastError": (_P,),
    "cudlaDestroyDevice": (_P,),
    "cudlaImportExternalMemory": (_P, POINTER(ExternalMemoryHandleDesc), _OUT, _U32),
    "cudlaGetNvSciSyncAttributes": (_P, _U32),
    "cudlaImportExternalSemaphore": (_P, POINTER(ExternalSemaphoreHandleDesc), _OUT, _U32),
}
#: Functions that came after cuDLA 1.2.1.
CUDLA_LATER_FUNCTIONS: dict[str, tuple[type, ...]] = {"cudlaSetTaskTimeoutInMs": (_P, _U32)}

#: Functions of libnvscibuf; each returns an NvSciError but those of NVSCI_VOID.
NVSCIBUF_FUNCTIONS: dict[str, tuple[type, ...]] = {
    "NvSciBufModuleOpen": (_OUT,),
    "NvSciBufModuleClose": (_P,),
    "NvSciBufAttrListCreate": (_P, _OUT),
    "NvSciBufAttrListFree": (_P,),
    "NvSciBufAttrListSetAttrs": (_P, POINTER(NvSciAttribute), ctypes.c_size_t),
    "NvSciBufAttrListReconcile": (_OUT, ctypes.c_size_t, _OUT, _OUT),
    "NvSciBufObjAlloc": (_P, _OUT),
    "NvSciBufObjFree": (_P,),
    "NvSciBufObjGetCpuPtr": (_P, _OUT),
}
#: Functions of libnvscisync.
NVSCISYNC_FUNCTIONS: dict[str, tuple[type, ...]] = {
    "NvSciSyncModuleOpen": (_OUT,),
    "NvSciSyncModuleClose": (_P,),
    "NvSciSyncAttrListCreate": (_P, _OUT),
    "NvSciSyncAttrListFree": (_P,),
    "NvSciSyncAttrListSetAttrs": (_P, POINTER(NvSciAttribute), ctypes.c_size_t),
    "NvSciSyncAttrListReconcile": (_OUT, ctypes.c_size_t, _OUT, _OUT),
    "NvSciSyncObjAlloc": (_P, _OUT),
    "NvSciSyncObjFree": (_P,),
    "NvSciSyncCpuWaitContextAlloc": (_P, _OUT),
    "NvSciSyncCpuWaitContextFree": (_P,),
    "NvSciSyncFenceWait": (POINTER(NvSciSyncFence), _P, ctypes.c_int64),
    "NvSciSyncFenceClear": (POINTER(NvSciSyncFence),),
}
NVSCI_VOID = frozenset(
    {
        "NvSciBufModuleClose", "NvSciBufAttrListFree", "NvSciBufObjFree", "NvSciSyncModuleClose",
        "NvSciSyncAttrListFree", "NvSciSyncObjFree", "NvSciSyncCpuWaitContextFree",
        "NvSciSyncFenceClear",
    }
)  # fmt: skip
