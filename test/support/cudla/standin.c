/* SPDX-FileCopyrightText: The yolox_trt authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * A stand-in for libcudla, libnvscibuf and libnvscisync that keeps the documented rules (handles,
 * states, registered memory, tasks that run later and in the order of their stream, the return
 * codes) and computes by a callback. It stands for no timing and no precision of a DLA.
 *
 * standin_*() is the tests' side: CUDA memory, streams, failures on request, what is left over.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cudla_abi.h"

enum { MAX = 256, CORES = 2 };
#define CUDA_ALIGNMENT 256 /* cudaMalloc's, CUDA C++ Programming Guide */
#define BUF_ALIGNMENT 512  /* that of NVIDIA's sample cuDLAStandaloneMode */
#define MAGIC "STANDIN\1"

/* A loadable: this header and the descriptors of its inputs and outputs. */
typedef struct {
    char magic[8];
    uint32_t dla_version;
    uint32_t inputs, outputs;
    uint32_t padding;
    uint64_t bytes; /* of the whole loadable */
} Header;

typedef void (*Compute)(const uint64_t *const *inputs, uint64_t *const *outputs);

struct cudlaModule_t {
    int alive;
    cudlaDevHandle device;
    Header header;
    cudlaModuleTensorDescriptor tensors[MAX];
};

struct cudlaDevHandle_t {
    int alive;
    uint32_t mode;
    unsigned core, timeout_ms;
    cudlaModule module;
    cudlaStatus last;
    cudlaStatus unreported;
};

enum { FREE = 0, CUDA_MEMORY, REGISTERED, SEMAPHORE, SCI_OBJECT };
typedef struct {
    int kind;
    char *start;
    size_t size;
    cudlaDevHandle device;
    const void *object;
} Range;

typedef struct {
    uint64_t number; /* what a fence holds; 0 is a cleared one */
    cudlaDevHandle device;
    void *stream;
    int noop, hangs, done;
    double gives_up; /* when one that hangs fails, by the device's timeout */
    uint32_t inputs, outputs;
    const uint64_t *in[MAX];
    uint64_t *out[MAX];
} Job;

static struct cudlaDevHandle_t devices[MAX];
static struct cudlaModule_t modules[MAX];
static Range ranges[MAX];
static Job jobs[MAX];
static unsigned first, last; /* of jobs; some between them may be done */
static int worker_started, violations;
static Compute compute;
static unsigned delay_us;
static uint32_t hardware = 2000;
static uint64_t library = 1002001, cores = CORES;
static char failing[64];
static int failing_status, failing_after, task_failure, next_hangs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static int fails(const char *function) {
    if (strcmp(failing, function) != 0 || failing_after-- > 0) return 0;
    failing[0] = 0;
    return failing_status;
}

#define ENTER(function) \
    pthread_mutex_lock(&lock); \
    cudlaStatus status = (cudlaStatus)fails(function); \
    if (status != cudlaSuccess) goto out;
#define LEAVE \
    out: \
    pthread_mutex_unlock(&lock); \
    return status;
#define REFUSE(condition, code) \
    if (condition) { \
        status = code; \
        goto out; \
    }

static int is_device(cudlaDevHandle d) { return d >= devices && d < devices + MAX && d->alive; }
static int is_module(cudlaModule m) { return m >= modules && m < modules + MAX && m->alive; }

static Range *find(int kind, const void *start) {
    for (int i = 0; i < MAX; i++)
        if (ranges[i].kind == kind && ranges[i].start == (const char *)start) return &ranges[i];
    return NULL;
}

static Range *holding(int kind, const void *start, size_t size) {
    for (int i = 0; i < MAX; i++) {
        Range *r = &ranges[i];
        if (r->kind == kind && (char *)start >= r->start && (char *)start + size <= r->start + r->size)
            return r;
    }
    return NULL;
}

static Range *add(int kind, void *start, size_t size, cudlaDevHandle device, const void *object) {
    for (int i = 0; i < MAX; i++)
        if (ranges[i].kind == FREE) {
            ranges[i] = (Range){kind, start, size, device, object};
            return &ranges[i];
        }
    abort();
}

/* Errors of tasks that ran before may be returned by later calls. */
static cudlaStatus earlier(cudlaDevHandle device) {
    cudlaStatus found = device->unreported;
    device->unreported = cudlaSuccess;
    return found;
}

static int pending(cudlaDevHandle device, void *stream) {
    for (unsigned i = first; i != last; i++) {
        Job *job = &jobs[i % MAX];
        if (!job->done && (device == NULL || job->device == device) && (stream == NULL || job->stream == stream))
            return 1;
    }
    return 0;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The first task that runs: one that hangs holds up those behind it on its core. */
static Job *next_job(void) {
    int held[CORES] = {0};
    for (unsigned i = first; i != last; i++) {
        Job *job = &jobs[i % MAX];
        if (job->done || held[job->device->core]) continue;
        if (!job->hangs || now() > job->gives_up) return job;
        held[job->device->core] = 1;
    }
    return NULL;
}

static void *work(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        Job *job;
        while ((job = next_job()) == NULL) {
            struct timespec look; /* again, for one that hangs until its timeout */
            clock_gettime(CLOCK_REALTIME, &look);
            look.tv_sec += (look.tv_nsec += 5000000) / 1000000000;
            look.tv_nsec %= 1000000000;
            if (first == last) pthread_cond_wait(&changed, &lock);
            else pthread_cond_timedwait(&changed, &lock, &look);
        }
        int failure = job->hangs ? cudlaErrorDlaErrEngineTimeout : task_failure;
        if (!job->hangs) task_failure = 0;
        pthread_mutex_unlock(&lock);
        struct timespec pause = {0, delay_us * 1000L};
        nanosleep(&pause, NULL);
        if (!failure && !job->noop) compute(job->in, job->out);
        pthread_mutex_lock(&lock);
        job->device->last = failure;
        if (failure) job->device->unreported = failure;
        job->done = 1;
        while (first != last && jobs[first % MAX].done) first++;
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

/* ---- cuDLA */

cudlaStatus cudlaGetVersion(uint64_t *const version) {
    ENTER("cudlaGetVersion")
    REFUSE(version == NULL, cudlaErrorInvalidParam)
    *version = library;
    LEAVE
}

cudlaStatus cudlaDeviceGetCount(uint64_t *const count) {
    ENTER("cudlaDeviceGetCount")
    REFUSE(count == NULL, cudlaErrorInvalidParam)
    *count = cores;
    LEAVE
}

cudlaStatus cudlaCreateDevice(uint64_t const core, cudlaDevHandle *const handle, uint32_t const flags) {
    ENTER("cudlaCreateDevice")
    REFUSE(handle == NULL || core >= cores || flags > CUDLA_STANDALONE, cudlaErrorInvalidParam)
    for (int i = 0; i < MAX; i++)
        if (!devices[i].alive) {
            devices[i] = (struct cudlaDevHandle_t){.alive = 1, .mode = flags, .core = (unsigned)core};
            *handle = &devices[i];
            goto out;
        }
    status = cudlaErrorOutOfResources;
    LEAVE
}

cudlaStatus cudlaDeviceGetAttribute(
    cudlaDevHandle const device, cudlaDevAttributeType const type, cudlaDevAttribute *const found) {
    ENTER("cudlaDeviceGetAttribute")
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    REFUSE(found == NULL, cudlaErrorInvalidParam)
    REFUSE(type != CUDLA_UNIFIED_ADDRESSING && type != CUDLA_DEVICE_VERSION, cudlaErrorInvalidAttribute)
    if (type == CUDLA_UNIFIED_ADDRESSING) found->unifiedAddressingSupported = 1;
    else found->deviceVersion = hardware;
    LEAVE
}

cudlaStatus cudlaModuleLoadFromMemory(
    cudlaDevHandle const device, const uint8_t *const data, size_t const size, cudlaModule *const handle,
    uint32_t const flags) {
    ENTER("cudlaModuleLoadFromMemory")
    Header header;
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    REFUSE(data == NULL || handle == NULL || flags != 0, cudlaErrorInvalidParam)
    REFUSE(device->module != NULL, cudlaErrorUnsupportedOperation)
    REFUSE(size < sizeof header, cudlaErrorUmd)
    memcpy(&header, data, sizeof header);
    REFUSE(memcmp(header.magic, MAGIC, 8) != 0 || header.bytes != size, cudlaErrorUmd)
    REFUSE(header.dla_version != hardware, cudlaErrorIncompatibleDlaSWVersion)
    for (int i = 0; i < MAX; i++)
        if (!modules[i].alive) {
            modules[i].alive = 1;
            modules[i].device = device;
            modules[i].header = header;
            memcpy(modules[i].tensors, data + sizeof header,
                   (header.inputs + header.outputs) * sizeof modules[i].tensors[0]);
            *handle = device->module = &modules[i];
            goto out;
        }
    status = cudlaErrorOutOfResources;
    LEAVE
}

cudlaStatus cudlaModuleGetAttributes(
    cudlaModule const module, cudlaModuleAttributeType const type, cudlaModuleAttribute *const found) {
    ENTER("cudlaModuleGetAttributes")
    REFUSE(!is_module(module), cudlaErrorInvalidModule)
    REFUSE(found == NULL, cudlaErrorInvalidParam)
    uint32_t inputs = module->header.inputs, outputs = module->header.outputs;
    size_t one = sizeof module->tensors[0];
    switch (type) {
        case CUDLA_NUM_INPUT_TENSORS: found->numInputTensors = inputs; break;
        case CUDLA_NUM_OUTPUT_TENSORS: found->numOutputTensors = outputs; break;
        case CUDLA_INPUT_TENSOR_DESCRIPTORS:
            memcpy(found->inputTensorDesc, module->tensors, inputs * one);
            break;
        case CUDLA_OUTPUT_TENSOR_DESCRIPTORS:
            memcpy(found->outputTensorDesc, module->tensors + inputs, outputs * one);
            break;
        default: status = cudlaErrorInvalidAttribute;
    }
    LEAVE
}

cudlaStatus cudlaModuleUnload(cudlaModule const module, uint32_t const flags) {
    ENTER("cudlaModuleUnload")
    REFUSE(!is_module(module), cudlaErrorInvalidModule)
    REFUSE(!is_device(module->device), cudlaErrorInvalidDevice)
    REFUSE(flags != 0, cudlaErrorInvalidParam)
    violations += pending(module->device, NULL);
    module->alive = 0;
    module->device->module = NULL;
    status = earlier(module->device);
    LEAVE
}

cudlaStatus cudlaMemRegister(
    cudlaDevHandle const device, const uint64_t *const start, size_t const size, uint64_t **const mapped,
    uint32_t const flags) {
    ENTER("cudlaMemRegister")
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    REFUSE(mapped == NULL || flags != 0 || device->mode != CUDLA_CUDA_DLA, cudlaErrorInvalidParam)
    REFUSE(start == NULL || size == 0 || (uintptr_t)start % CUDA_ALIGNMENT != 0 ||
               !holding(CUDA_MEMORY, start, size), cudlaErrorInvalidAddress)
    for (int i = 0; i < MAX; i++)
        REFUSE(ranges[i].kind == REGISTERED && ranges[i].start == (char *)start, cudlaErrorMemoryRegistered)
    add(REGISTERED, (void *)start, size, device, NULL);
    *mapped = (uint64_t *)start;
    status = earlier(device);
    LEAVE
}

static Range *imported(const uint64_t *mapped, cudlaDevHandle device) {
    for (int i = 0; i < MAX; i++) {
        Range *r = &ranges[i];
        if ((r->kind == REGISTERED || r->kind == SEMAPHORE) && r->device == device &&
            (const uint64_t *)r->start == mapped)
            return r;
    }
    return NULL;
}

cudlaStatus cudlaMemUnregister(cudlaDevHandle const device, const uint64_t *const mapped) {
    ENTER("cudlaMemUnregister")
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    Range *range = imported(mapped, device);
    REFUSE(range == NULL, cudlaErrorInvalidAddress)
    violations += pending(device, NULL);
    range->kind = FREE;
    status = earlier(device);
    LEAVE
}

cudlaStatus cudlaImportExternalMemory(
    cudlaDevHandle const device, const cudlaExternalMemoryHandleDesc *const desc, uint64_t **const mapped,
    uint32_t const flags) {
    ENTER("cudlaImportExternalMemory")
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    REFUSE(desc == NULL || mapped == NULL || flags != 0, cudlaErrorInvalidParam)
    REFUSE(device->mode != CUDLA_STANDALONE, cudlaErrorUnsupportedOperation)
    Range *object = find(SCI_OBJECT, desc->extBufObject);
    REFUSE(object == NULL || object->size < desc->size || (uintptr_t)object->start % BUF_ALIGNMENT != 0,
           cudlaErrorNvSci)
    REFUSE(find(REGISTERED, object->start), cudlaErrorMemoryRegistered)
    add(REGISTERED, object->start, desc->size, device, object->start);
    *mapped = (uint64_t *)object->start;
    LEAVE
}

cudlaStatus cudlaGetNvSciSyncAttributes(uint64_t *list, uint32_t const flags) {
    ENTER("cudlaGetNvSciSyncAttributes")
    REFUSE(list == NULL || flags == 0 || flags > 3, cudlaErrorInvalidParam)
    *list |= (uint64_t)flags << 32;
    LEAVE
}

cudlaStatus cudlaImportExternalSemaphore(
    cudlaDevHandle const device, const cudlaExternalSemaphoreHandleDesc *const desc, uint64_t **const mapped,
    uint32_t const flags) {
    ENTER("cudlaImportExternalSemaphore")
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    REFUSE(desc == NULL || mapped == NULL || flags != 0, cudlaErrorInvalidParam)
    REFUSE(device->mode != CUDLA_STANDALONE, cudlaErrorUnsupportedOperation)
    REFUSE(find(SCI_OBJECT, desc->extSyncObject) == NULL, cudlaErrorNvSci)
    add(SEMAPHORE, (void *)desc->extSyncObject, 1, device, desc->extSyncObject);
    *mapped = (uint64_t *)desc->extSyncObject;
    LEAVE
}

cudlaStatus cudlaSubmitTask(
    cudlaDevHandle const device, const cudlaTask *const tasks, uint32_t const count, void *const stream,
    uint32_t const flags) {
    ENTER("cudlaSubmitTask")
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    REFUSE(tasks == NULL || count != 1 || flags > 3, cudlaErrorInvalidParam)
    REFUSE(!is_module(tasks->moduleHandle) || tasks->moduleHandle->device != device, cudlaErrorInvalidModule)
    Header *header = &tasks->moduleHandle->header;
    cudlaModuleTensorDescriptor *descriptors = tasks->moduleHandle->tensors;
    int hybrid = device->mode == CUDLA_CUDA_DLA;
    REFUSE(tasks->numInputTensors != header->inputs || tasks->numOutputTensors != header->outputs,
           cudlaErrorInvalidParam)
    REFUSE(!hybrid && stream != NULL, cudlaErrorInvalidParam)
    REFUSE(hybrid && (tasks->waitEvents || tasks->signalEvents), cudlaErrorUnsupportedOperation)
    REFUSE(!tasks->inputTensor || !tasks->outputTensor, cudlaErrorUnsupportedOperation)
    static uint64_t number;
    Job job = {.number = ++number, .device = device, .stream = stream, .noop = flags & 1,
               .hangs = next_hangs, .inputs = header->inputs, .outputs = header->outputs};
    job.gives_up = device->timeout_ms ? now() + 1e-3 * device->timeout_ms : 1e300;
    for (uint32_t i = 0; i < header->inputs; i++) {
        Range *range = imported(tasks->inputTensor[i], device);
        REFUSE(range == NULL || range->size < descriptors[i].size, cudlaErrorInvalidAddress)
        job.in[i] = tasks->inputTensor[i];
    }
    for (uint32_t i = 0; i < header->outputs; i++) {
        Range *range = imported(tasks->outputTensor[i], device);
        REFUSE(range == NULL || range->size < descriptors[header->inputs + i].size, cudlaErrorInvalidAddress)
        job.out[i] = tasks->outputTensor[i];
    }
    if (tasks->signalEvents) {
        CudlaFence *fence = tasks->signalEvents->eofFences;
        REFUSE(tasks->signalEvents->numEvents != 1 || fence->type != CUDLA_NVSCISYNC_FENCE,
               cudlaErrorUnsupportedOperation)
        REFUSE(!imported(tasks->signalEvents->devPtrs[0], device), cudlaErrorInvalidParam)
        NvSciSyncFence *sync = fence->fence;
        REFUSE(sync->payload[0] != 0, cudlaErrorNvSci) /* not cleared */
        sync->payload[0] = job.number;
    }
    status = earlier(device);
    if (status != cudlaSuccess) goto out;
    next_hangs = 0;
    if (!worker_started) {
        pthread_t thread;
        worker_started = pthread_create(&thread, NULL, work, NULL) == 0;
        pthread_detach(thread);
    }
    jobs[last % MAX] = job;
    last++;
    pthread_cond_broadcast(&changed);
    LEAVE
}

cudlaStatus cudlaGetLastError(cudlaDevHandle const device) {
    ENTER("cudlaGetLastError")
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    status = device->last;
    if (status == device->unreported) device->unreported = cudlaSuccess;
    LEAVE
}

cudlaStatus cudlaDestroyDevice(cudlaDevHandle const device) {
    ENTER("cudlaDestroyDevice")
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    violations += pending(device, NULL) || device->module != NULL;
    for (int i = 0; i < MAX; i++)
        violations += (ranges[i].kind == REGISTERED || ranges[i].kind == SEMAPHORE) && ranges[i].device == device;
    device->alive = 0;
    LEAVE
}

cudlaStatus cudlaSetTaskTimeoutInMs(cudlaDevHandle const device, uint32_t const timeout) {
    ENTER("cudlaSetTaskTimeoutInMs")
    REFUSE(!is_device(device), cudlaErrorInvalidDevice)
    REFUSE(timeout == 0, cudlaErrorInvalidParam)
    device->timeout_ms = timeout;
    LEAVE
}

/* ---- NvSci: attribute lists are 64 bits, objects are memory */

static int alive; /* modules, lists and contexts */

static NvSciError give(const char *function, void **out, size_t size) {
    pthread_mutex_lock(&lock);
    int status = fails(function);
    if (!status) {
        *out = calloc(1, size);
        alive++;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static void take(void *handle) {
    if (handle == NULL) return;
    pthread_mutex_lock(&lock);
    free(handle);
    alive--;
    pthread_mutex_unlock(&lock);
}

typedef struct {
    uint64_t seen; /* low half: keys that were set; high half: what cuDLA asked for */
    uint64_t size, align;
    int cpu, permission, type;
} List;

NvSciError NvSciBufModuleOpen(void **out) { return give("NvSciBufModuleOpen", out, 8); }
void NvSciBufModuleClose(void *module) { take(module); }
NvSciError NvSciBufAttrListCreate(void *module, void **out) {
    (void)module;
    return give("NvSciBufAttrListCreate", out, sizeof(List));
}
void NvSciBufAttrListFree(void *list) { take(list); }

NvSciError NvSciBufAttrListSetAttrs(List *list, const NvSciBufAttrKeyValuePair *pairs, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t length = pairs[i].len;
        switch (pairs[i].key) {
            case NvSciBufGeneralAttrKey_Types:
                if (length != sizeof(NvSciBufType)) return 1;
                list->type = *(const NvSciBufType *)pairs[i].value;
                break;
            case NvSciBufGeneralAttrKey_NeedCpuAccess:
                if (length != sizeof(bool)) return 1;
                list->cpu = *(const bool *)pairs[i].value;
                break;
            case NvSciBufGeneralAttrKey_RequiredPerm:
                if (length != sizeof(NvSciBufAttrValAccessPerm)) return 1;
                list->permission = *(const NvSciBufAttrValAccessPerm *)pairs[i].value;
                break;
            case NvSciBufRawBufferAttrKey_Size:
                /* Keys of a type may be set only once the type is. */
                if (length != sizeof(uint64_t) || list->type != NvSciBufType_RawBuffer) return 1;
                list->size = *(const uint64_t *)pairs[i].value;
                break;
            case NvSciBufRawBufferAttrKey_Align:
                if (length != sizeof(uint64_t) || list->type != NvSciBufType_RawBuffer) return 1;
                list->align = *(const uint64_t *)pairs[i].value;
                break;
            default: return 1;
        }
    }
    return 0;
}

NvSciError NvSciBufAttrListReconcile(List *const *lists, size_t count, void **out, void **conflict) {
    *conflict = NULL;
    if (count != 1 || lists[0]->size == 0) return 2;
    NvSciError status = give("NvSciBufAttrListReconcile", out, sizeof(List));
    if (!status) memcpy(*out, lists[0], sizeof(List));
    return status;
}

NvSciError NvSciBufObjAlloc(List *list, void **out) {
    pthread_mutex_lock(&lock);
    int status = fails("NvSciBufObjAlloc");
    if (!status) {
        size_t align = list->align < 64 ? 64 : list->align;
        *out = aligned_alloc(align, (list->size + align - 1) / align * align);
        memset(*out, 0xCD, list->size);
        add(SCI_OBJECT, *out, list->size, NULL, list->cpu && list->permission == 3 ? "cpu" : NULL);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static void free_object(void *object) {
    pthread_mutex_lock(&lock);
    Range *range = find(SCI_OBJECT, object);
    if (range == NULL || find(REGISTERED, object) || find(SEMAPHORE, object)) violations++;
    if (range) range->kind = FREE;
    free(object);
    pthread_mutex_unlock(&lock);
}
void NvSciBufObjFree(void *object) { free_object(object); }

NvSciError NvSciBufObjGetCpuPtr(void *object, void **out) {
    Range *range = find(SCI_OBJECT, object);
    if (range == NULL || range->object == NULL) return 3; /* no access was asked for */
    *out = object;
    return 0;
}

NvSciError NvSciSyncModuleOpen(void **out) { return give("NvSciSyncModuleOpen", out, 8); }
void NvSciSyncModuleClose(void *module) { take(module); }
NvSciError NvSciSyncAttrListCreate(void *module, void **out) {
    (void)module;
    return give("NvSciSyncAttrListCreate", out, sizeof(List));
}
void NvSciSyncAttrListFree(void *list) { take(list); }

NvSciError NvSciSyncAttrListSetAttrs(List *list, const NvSciSyncAttrKeyValuePair *pairs, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (pairs[i].attrKey == NvSciSyncAttrKey_NeedCpuAccess && pairs[i].len == sizeof(bool))
            list->cpu = *(const bool *)pairs[i].value;
        else if (pairs[i].attrKey == NvSciSyncAttrKey_RequiredPerm && pairs[i].len == sizeof(uint64_t))
            list->permission = (int)*(const uint64_t *)pairs[i].value;
        else
            return 1;
    }
    return 0;
}

NvSciError NvSciSyncAttrListReconcile(List *const *lists, size_t count, void **out, void **conflict) {
    *conflict = NULL;
    int signals = 0, waits = 0;
    for (size_t i = 0; i < count; i++) {
        signals |= (lists[i]->seen >> 32) == CUDLA_NVSCISYNC_ATTR_SIGNAL;
        waits |= lists[i]->cpu && lists[i]->permission == NvSciSyncAccessPerm_WaitOnly;
    }
    if (!signals || !waits) return 2; /* one who signals and one who waits */
    return give("NvSciSyncAttrListReconcile", out, sizeof(List));
}

NvSciError NvSciSyncObjAlloc(void *list, void **out) {
    (void)list;
    pthread_mutex_lock(&lock);
    int status = fails("NvSciSyncObjAlloc");
    if (!status) {
        *out = calloc(1, 8);
        add(SCI_OBJECT, *out, 1, NULL, NULL);
    }
    pthread_mutex_unlock(&lock);
    return status;
}
void NvSciSyncObjFree(void *object) { free_object(object); }
NvSciError NvSciSyncCpuWaitContextAlloc(void *module, void **out) {
    (void)module;
    return give("NvSciSyncCpuWaitContextAlloc", out, 8);
}
void NvSciSyncCpuWaitContextFree(void *context) { take(context); }

static int reached(uint64_t number) {
    for (unsigned i = first; i != last; i++)
        if (jobs[i % MAX].number == number && !jobs[i % MAX].done) return 0;
    return 1;
}

NvSciError NvSciSyncFenceWait(const NvSciSyncFence *fence, void *context, int64_t timeout_us) {
    (void)context;
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    int64_t ns = end.tv_nsec + (timeout_us % 1000000) * 1000;
    end.tv_sec += timeout_us / 1000000 + ns / 1000000000;
    end.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&lock);
    int status = fails("NvSciSyncFenceWait");
    while (!status && !reached(fence->payload[0]))
        if (pthread_cond_timedwait(&changed, &lock, &end)) status = 5;
    pthread_mutex_unlock(&lock);
    return status;
}
void NvSciSyncFenceClear(NvSciSyncFence *fence) { memset(fence, 0, sizeof *fence); }

/* ---- the tests' side */

/* Let the next task that is submitted hang; let those that hang go on. */
void standin_hang(void) { next_hangs = 1; }
void standin_release(void) {
    pthread_mutex_lock(&lock);
    next_hangs = 0;
    for (unsigned i = 0; i < MAX; i++) jobs[i].hangs = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void standin_reset(Compute function, unsigned task_delay_us) {
    standin_release();
    pthread_mutex_lock(&lock);
    while (first != last) pthread_cond_wait(&changed, &lock);
    memset(devices, 0, sizeof devices);
    memset(modules, 0, sizeof modules);
    memset(ranges, 0, sizeof ranges);
    compute = function;
    delay_us = task_delay_us;
    violations = alive = task_failure = 0;
    failing[0] = 0;
    hardware = 2000;
    library = 1002001;
    cores = CORES;
    pthread_mutex_unlock(&lock);
}

void standin_versions(uint64_t of_library, uint32_t of_hardware, uint64_t number_of_cores) {
    library = of_library;
    hardware = of_hardware;
    cores = number_of_cores;
}

/* Let a function fail with a code, after so many calls; a task fail when it runs. */
void standin_fail(const char *function, int code, int after) {
    strncpy(failing, function, sizeof failing - 1);
    failing_status = code;
    failing_after = after;
}
void standin_fail_task(int code) { task_failure = code; }

void *standin_cuda_malloc(size_t size) {
    void *start = aligned_alloc(CUDA_ALIGNMENT, (size + CUDA_ALIGNMENT - 1) / CUDA_ALIGNMENT * CUDA_ALIGNMENT);
    memset(start, 0xCD, size);
    pthread_mutex_lock(&lock);
    add(CUDA_MEMORY, start, size, NULL, NULL);
    pthread_mutex_unlock(&lock);
    return start;
}

void standin_cuda_free(void *start) {
    pthread_mutex_lock(&lock);
    Range *range = find(CUDA_MEMORY, start);
    for (int i = 0; range && i < MAX; i++)
        violations += ranges[i].kind == REGISTERED && holding(CUDA_MEMORY, ranges[i].start, 1) == range;
    if (range) range->kind = FREE;
    pthread_mutex_unlock(&lock);
    free(start);
}

/* Wait for the tasks of a stream; NULL: for all. */
void standin_wait(void *stream) {
    pthread_mutex_lock(&lock);
    while (pending(NULL, stream)) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

/* What is alive: handles, registered memory, NvSci's lists and objects, CUDA memory. */
int standin_alive(void) {
    int count = alive;
    for (int i = 0; i < MAX; i++) count += devices[i].alive + modules[i].alive + (ranges[i].kind != FREE);
    return count;
}

int standin_violations(void) { return violations; }
