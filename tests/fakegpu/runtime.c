/* The CUDA runtime of a device that takes every order and computes nothing. Preloaded, it stands before libcudart.
 *
 * Kernels end at once. Events are always reached, streams are always done, 5 ms lie between any two events. What a
 * program asks about the device is answered as an H100 answers.
 */
#define _GNU_SOURCE
#include "pretended.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUCCEEDS(name, ...)                                                                                            \
    cudaError_t name(__VA_ARGS__) { return cudaSuccess; }
#define GIVES_A_HANDLE(name, type, ...)                                                                                \
    cudaError_t name(type *handle, ##__VA_ARGS__) {                                                                    \
        *handle = (type)new_handle();                                                                                  \
        return cudaSuccess;                                                                                            \
    }

#define LARGEST_BLOCK 1024    /* threads */
#define LARGEST_SHARED 232448 /* bytes that a block of a Hopper may ask for */

static __thread cudaError_t last_error;

static cudaError_t fail(cudaError_t error) {
    last_error = error;
    return error;
}

/* CUDA_VISIBLE_DEVICES= hides the device, as it does a real one. */
static int num_devices(void) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    return visible && (!*visible || *visible == '-') ? 0 : 1;
}

/* ---- devices ---- */

cudaError_t cudaGetDeviceCount(int *count) {
    *count = num_devices();
    return *count ? cudaSuccess : fail(cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return num_devices() ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaSetDevice(int device) { return device < num_devices() ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, DEVICE_NAME);
    p->uuid.bytes[0] = 1;
    p->pciBusID = 1;
    p->major = 9;
    p->minor = 0;
    p->totalGlobalMem = DEVICE_BYTES;
    p->totalConstMem = 65536;
    p->l2CacheSize = 52428800;
    p->memoryBusWidth = 5120;
    p->multiProcessorCount = 132;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->regsPerMultiprocessor = 65536;
    p->sharedMemPerMultiprocessor = 233472;
    p->warpSize = 32;
    p->maxThreadsPerBlock = LARGEST_BLOCK;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->regsPerBlock = 65536;
    p->sharedMemPerBlock = 49152;
    p->sharedMemPerBlockOptin = LARGEST_SHARED;
    p->reservedSharedMemPerBlock = 1024;
    p->memPitch = 2147483647;
    p->textureAlignment = 512;
    p->canMapHostMemory = p->managedMemory = p->unifiedAddressing = 1;
    p->concurrentKernels = p->cooperativeLaunch = 1;
    p->asyncEngineCount = 3;
    return cudaSuccess;
}

/* Attributes by their number in `enum cudaDeviceAttr`; those that are not named here are features, which it has. */
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: *value = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrTotalConstantMemory: *value = 65536; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrClockRate: *value = 1980000; break;
    case cudaDevAttrTextureAlignment: *value = 512; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMemoryClockRate: *value = 2619000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = 5120; break;
    case cudaDevAttrL2CacheSize: *value = 52428800; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = LARGEST_SHARED; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = 1024; break;
    default: *value = 1;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *name, int num_bytes, int device) {
    snprintf(name, num_bytes, "0000:01:00.0");
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = num_devices() ? DRIVER_VERSION : 0;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = DRIVER_VERSION;
    return cudaSuccess;
}

SUCCEEDS(cudaDeviceEnablePeerAccess, int peer, unsigned flags)
SUCCEEDS(cudaDeviceSynchronize, void)
SUCCEEDS(cudaProfilerStart, void)
SUCCEEDS(cudaProfilerStop, void)

/* ---- errors ---- */

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

const char *cudaGetErrorString(cudaError_t error) {
    static __thread char text[64];
    snprintf(text, sizeof text, "error %d of the pretended GPU", error);
    return text;
}

const char *cudaGetErrorName(cudaError_t error) { return "pretendedCudaError"; }

/* ---- memory ---- */

cudaError_t cudaMalloc(void **start, size_t num_bytes) {
    if (!has_room_for(num_bytes) || !(*start = map_memory(num_bytes)))
        return fail(cudaErrorMemoryAllocation);
    remember_region(*start, num_bytes, DEVICE);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **start, size_t num_bytes, unsigned flags) {
    if (!(*start = map_memory(num_bytes)))
        return fail(cudaErrorMemoryAllocation);
    remember_region(*start, num_bytes, HOST);
    return cudaSuccess;
}

static cudaError_t release(void *start) {
    struct region released = forget_region(start);
    if (released.start)
        unmap_memory(released.start, released.num_bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void *start) { return release(start); }
cudaError_t cudaFreeHost(void *start) { return release(start); }
cudaError_t cudaMallocHost(void **start, size_t num_bytes) { return cudaHostAlloc(start, num_bytes, 0); }
cudaError_t cudaMallocAsync(void **start, size_t num_bytes, cudaStream_t stream) { return cudaMalloc(start, num_bytes); }
cudaError_t cudaFreeAsync(void *start, cudaStream_t stream) { return cudaFree(start); }

cudaError_t cudaHostRegister(void *start, size_t num_bytes, unsigned flags) {
    remember_region(start, num_bytes, HOST);
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *start) {
    forget_region(start);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
    *total = DEVICE_BYTES;
    *left = free_bytes();
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *address) {
    struct region found = region_of(address);
    memset(attributes, 0, sizeof *attributes);
    if (!found.start) {
        attributes->type = cudaMemoryTypeUnregistered;
        attributes->device = -1;
        return cudaSuccess;
    }
    attributes->type = found.kind == HOST ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    attributes->devicePointer = (void *)address;
    attributes->hostPointer = found.kind == HOST ? (void *)address : NULL;
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t num_bytes, enum cudaMemcpyKind kind) {
    copy_memory(to, from, num_bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t num_bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    copy_memory(to, from, num_bytes);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *start, int value, size_t num_bytes) {
    fill_memory(start, value, num_bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *start, int value, size_t num_bytes, cudaStream_t stream) {
    fill_memory(start, value, num_bytes);
    return cudaSuccess;
}

cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
    *address = map_memory(4096);
    return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
    memset(value, 0, 8);
    return cudaSuccess;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *start) { return cudaErrorNotSupported; }

GIVES_A_HANDLE(cudaDeviceGetDefaultMemPool, cudaMemPool_t, int device)
SUCCEEDS(cudaMemcpyToSymbol, const void *symbol, const void *from, size_t num_bytes, size_t offset,
         enum cudaMemcpyKind kind)
SUCCEEDS(cudaMemPoolSetAttribute, cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
SUCCEEDS(cudaMemPoolSetAccess, cudaMemPool_t pool, const struct cudaMemAccessDesc *access, size_t count)
SUCCEEDS(cudaMemPoolTrimTo, cudaMemPool_t pool, size_t num_bytes)

/* ---- events and streams ---- */

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = 5.0f;
    return cudaSuccess;
}

GIVES_A_HANDLE(cudaEventCreate, cudaEvent_t)
GIVES_A_HANDLE(cudaEventCreateWithFlags, cudaEvent_t, unsigned flags)
SUCCEEDS(cudaEventDestroy, cudaEvent_t event)
SUCCEEDS(cudaEventQuery, cudaEvent_t event)
SUCCEEDS(cudaEventRecord, cudaEvent_t event, cudaStream_t stream)
SUCCEEDS(cudaEventRecordWithFlags, cudaEvent_t event, cudaStream_t stream, unsigned flags)
SUCCEEDS(cudaEventSynchronize, cudaEvent_t event)

static cudaError_t captures_nothing(enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    return captures_nothing(status);
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *count) {
    if (id)
        *id = 0;
    return captures_nothing(status);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = NULL;
    return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    *priority = 0;
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    function(data);
    return cudaSuccess;
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void *data, unsigned flags) {
    function(stream, cudaSuccess, data);
    return cudaSuccess;
}

GIVES_A_HANDLE(cudaStreamCreate, cudaStream_t)
GIVES_A_HANDLE(cudaStreamCreateWithPriority, cudaStream_t, unsigned flags, int priority)
SUCCEEDS(cudaStreamDestroy, cudaStream_t stream)
SUCCEEDS(cudaStreamBeginCapture, cudaStream_t stream, enum cudaStreamCaptureMode mode)
SUCCEEDS(cudaStreamQuery, cudaStream_t stream)
SUCCEEDS(cudaStreamSynchronize, cudaStream_t stream)
SUCCEEDS(cudaStreamWaitEvent, cudaStream_t stream, cudaEvent_t event, unsigned flags)
SUCCEEDS(cudaThreadExchangeStreamCaptureMode, enum cudaStreamCaptureMode *mode)

/* ---- kernels ---- */

/* What a real device refuses is refused here too: a kernel asked for with an impossible shape is a fault of ours. */
cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                             cudaStream_t stream) {
    int is_possible = grid.x && block.x && block.x * block.y * block.z <= LARGEST_BLOCK;
    return is_possible && shared_bytes <= LARGEST_SHARED ? cudaSuccess : fail(cudaErrorInvalidConfiguration);
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = LARGEST_BLOCK;
    attributes->numRegs = 32;
    attributes->binaryVersion = attributes->ptxVersion = 90;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *function, int threads, size_t shared) {
    *count = 2;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *function, int threads,
                                                                   size_t shared, unsigned flags) {
    *count = 2;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int *count, const void *function, const cudaLaunchConfig_t *config) {
    *count = 16;
    return cudaSuccess;
}

SUCCEEDS(cudaFuncSetAttribute, const void *function, enum cudaFuncAttribute attribute, int value)
SUCCEEDS(__cudaLaunchKernel, cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
         cudaStream_t stream)
SUCCEEDS(cudaLaunchCooperativeKernel, const void *function, dim3 grid, dim3 block, void **arguments, size_t shared,
         cudaStream_t stream)
SUCCEEDS(cudaLaunchKernelExC, const cudaLaunchConfig_t *config, const void *function, void **arguments)

/* What nvcc puts into every library with kernels: registration, and the stack of launch configurations. */

struct launch {
    dim3 grid, block;
    size_t shared_bytes;
    void *stream;
};

static __thread struct launch launches[8];
static __thread int num_launches;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, struct CUstream_st *stream) {
    launches[num_launches++] = (struct launch){grid, block, shared_bytes, stream};
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, void *stream) {
    struct launch last = launches[--num_launches];
    *grid = last.grid;
    *block = last.block;
    *shared_bytes = last.shared_bytes;
    *(void **)stream = last.stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

void **__cudaRegisterFatBinary(void *binary) {
    static void *none[4];
    return none;
}

void __cudaRegisterFatBinaryEnd(void **binary) {}
void __cudaUnregisterFatBinary(void **binary) {}
void __cudaRegisterFunction(void **binary, const char *host, char *device, const char *name, int limit, void *thread_id,
                            void *block_id, void *block, void *grid, int *warps) {}
void __cudaRegisterVar(void **binary, char *host, char *device, const char *name, int is_external, size_t num_bytes,
                       int is_constant, int is_global) {}
SUCCEEDS(__cudaInitModule, void **binary)

/* The driver's functions, for those who ask the runtime for them: by their name, or by its second version. */
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags, enum cudaDriverEntryPointQueryResult *status) {
    static void *driver;
    char second[256];
    if (!driver)
        driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    snprintf(second, sizeof second, "%s_v2", name);
    *function = driver ? dlsym(driver, name) : NULL;
    if (driver && !*function)
        *function = dlsym(driver, second);
    if (status)
        *status = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
