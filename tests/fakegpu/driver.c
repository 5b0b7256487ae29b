/* libcuda.so.1, the driver, for those who call it directly: Triton, and torch's allocator of expandable segments.
 *
 * It is a library of its own because both open it by name. What it is asked about the device it asks the runtime.
 */
#define _GNU_SOURCE
#include "pretended.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define NOT_FOUND 500
#define NOT_SUPPORTED 801
#define INVALID_VALUE 1
#define OUT_OF_MEMORY 2
#define GRANULARITY ((size_t)2 << 20)

typedef unsigned long long address;

#define SUCCEEDS(name)                                                                                                 \
    int name() { return 0; }
#define REFUSES(name)                                                                                                  \
    int name() { return NOT_SUPPORTED; }
#define GIVES_A_HANDLE(name)                                                                                           \
    int name(void **handle) {                                                                                          \
        *handle = new_handle();                                                                                        \
        return 0;                                                                                                      \
    }

static void *const context = (void *)0x77;

/* ---- device and context ---- */

int cuDriverGetVersion(int *version) {
    *version = DRIVER_VERSION;
    return 0;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}

int cuDeviceGetName(char *name, int num_bytes, int device) {
    snprintf(name, num_bytes, DEVICE_NAME);
    return 0;
}

int cuDeviceGetUuid_v2(char *uuid, int device) {
    memset(uuid, 1, 16);
    return 0;
}

int cuDeviceTotalMem_v2(size_t *num_bytes, int device) {
    *num_bytes = DEVICE_BYTES;
    return 0;
}

int cuDeviceGetPCIBusId(char *name, int num_bytes, int device) {
    snprintf(name, num_bytes, "0000:01:00.0");
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int (*of_runtime)(int *, int, int) = dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute");
    *value = 1;
    return of_runtime ? of_runtime(value, attribute, device) : 0;
}

int cuCtxGetCurrent(void **current) {
    *current = context;
    return 0;
}

int cuCtxPopCurrent_v2(void **current) { return cuCtxGetCurrent(current); }
int cuDevicePrimaryCtxRetain(void **current, int device) { return cuCtxGetCurrent(current); }

int cuStreamGetCtx(void *stream, void **current) { return cuCtxGetCurrent(current); }

int cuCtxGetDevice(int *device) {
    *device = 0;
    return 0;
}

int cuCtxGetLimit(size_t *value, int limit) {
    *value = 1 << 20;
    return 0;
}

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
    *flags = 0;
    *is_active = 1;
    return 0;
}

SUCCEEDS(cuInit)
SUCCEEDS(cuCtxSetCurrent)
SUCCEEDS(cuCtxPushCurrent_v2)
SUCCEEDS(cuCtxSetLimit)
SUCCEEDS(cuCtxSynchronize)
SUCCEEDS(cuDevicePrimaryCtxRelease_v2)

int cuGetErrorString(int error, const char **text) {
    *text = "error of the pretended driver";
    return 0;
}

int cuGetErrorName(int error, const char **name) {
    *name = "PRETENDED";
    return 0;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, address flags, int *status) {
    *function = dlsym(RTLD_DEFAULT, name);
    if (status)
        *status = *function ? 0 : 1;
    return 0;
}

int cuGetExportTable() { return NOT_FOUND; }

/* ---- kernels: loaded, configured, launched, never run ---- */

GIVES_A_HANDLE(cuModuleLoad)
GIVES_A_HANDLE(cuModuleLoadData)
GIVES_A_HANDLE(cuModuleLoadDataEx)
GIVES_A_HANDLE(cuModuleGetFunction)
GIVES_A_HANDLE(cuLibraryLoadData)
GIVES_A_HANDLE(cuLibraryGetModule)
GIVES_A_HANDLE(cuLibraryGetKernel)
GIVES_A_HANDLE(cuFuncGetModule)

int cuKernelGetFunction(void **function, void *kernel) {
    *function = kernel;
    return 0;
}

int cuModuleGetGlobal_v2(address *start, size_t *num_bytes, void *module, const char *name) {
    *start = 0;
    return 0;
}

#define MAX_THREADS_PER_BLOCK 0
#define NUM_REGISTERS 4

int cuFuncGetAttribute(int *value, int attribute, void *function) {
    *value = attribute == MAX_THREADS_PER_BLOCK ? 1024 : attribute == NUM_REGISTERS ? 64 : 0;
    return 0;
}

int cuOccupancyMaxActiveClusters(int *count) {
    *count = 16;
    return 0;
}

int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count) {
    *count = 2;
    return 0;
}

SUCCEEDS(cuModuleUnload)
SUCCEEDS(cuFuncSetAttribute)
SUCCEEDS(cuFuncSetCacheConfig)
SUCCEEDS(cuLaunchKernel)
SUCCEEDS(cuLaunchKernelEx)
SUCCEEDS(cuLaunchCooperativeKernel)
SUCCEEDS(cuTensorMapEncodeTiled)
SUCCEEDS(cuStreamWriteValue32)
SUCCEEDS(cuStreamWriteValue32_v2)
SUCCEEDS(cuStreamWaitValue32_v2)
SUCCEEDS(cuStreamBatchMemOp)
SUCCEEDS(cuLinkDestroy)
REFUSES(cuLinkCreate_v2)
REFUSES(cuLinkAddData_v2)
REFUSES(cuLinkAddFile_v2)
REFUSES(cuLinkComplete)

/* ---- memory: an expandable segment reserves addresses, and maps pieces of physical memory into them ---- */

int cuMemAddressReserve(address *start, size_t num_bytes, size_t alignment, address hint, address flags) {
    *start = (address)map_memory(num_bytes);
    return *start ? 0 : INVALID_VALUE;
}

int cuMemAddressFree(address start, size_t num_bytes) {
    unmap_memory((void *)start, num_bytes);
    return 0;
}

int cuMemCreate(void **piece, size_t num_bytes, const void *properties, address flags) {
    if (!has_room_for(num_bytes))
        return OUT_OF_MEMORY;
    *piece = new_handle();
    remember_region(*piece, num_bytes, PIECE);
    return 0;
}

int cuMemRelease(void *piece) {
    forget_region(piece);
    return 0;
}

int cuMemMap(address start, size_t num_bytes, size_t offset, void *piece, address flags) {
    remember_region((void *)start, num_bytes, MAPPED);
    return 0;
}

/* Each piece is unmapped as it was mapped (torch: `ExpandableSegment::unmapHandles`). */
int cuMemUnmap(address start, size_t num_bytes) {
    forget_region((void *)start);
    drop_pages((void *)start, num_bytes);
    return 0;
}

int cuMemGetAllocationGranularity(size_t *num_bytes, const void *properties, int option) {
    *num_bytes = GRANULARITY;
    return 0;
}

int cuMemGetInfo_v2(size_t *left, size_t *total) {
    *total = DEVICE_BYTES;
    *left = free_bytes();
    return 0;
}

int cuMemGetAddressRange_v2() { return INVALID_VALUE; }

#define MEMORY_TYPE 2
#define DEVICE_POINTER 3
#define ON_DEVICE 2

/* Triton asks where a tensor is before it launches. */
int cuPointerGetAttribute(void *value, int attribute, address pointer) {
    if (attribute == DEVICE_POINTER)
        *(address *)value = pointer;
    else
        *(int *)value = attribute == MEMORY_TYPE ? ON_DEVICE : 0;
    return 0;
}

SUCCEEDS(cuMemSetAccess)
SUCCEEDS(cuMemsetD32)
SUCCEEDS(cuMemsetD32Async)
REFUSES(cuMemExportToShareableHandle)
REFUSES(cuMemImportFromShareableHandle)
REFUSES(cuMemRetainAllocationHandle)
REFUSES(cuMemGetAllocationPropertiesFromHandle)
REFUSES(cuMulticastCreate)
REFUSES(cuMulticastAddDevice)
REFUSES(cuMulticastBindMem)
REFUSES(cuMulticastUnbind)
REFUSES(cuMulticastGetGranularity)

/* ---- parts of a device ---- */

REFUSES(cuCtxFromGreenCtx)
REFUSES(cuDevResourceGenerateDesc)
REFUSES(cuDevSmResourceSplitByCount)
REFUSES(cuDeviceGetDevResource)
REFUSES(cuGreenCtxCreate)
REFUSES(cuGreenCtxDestroy)
REFUSES(cuGreenCtxStreamCreate)
