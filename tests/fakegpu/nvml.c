/* libnvidia-ml.so.1, which torch asks how many devices there are, and whether one belongs to an NVLink fabric. */
#include "pretended.h"

#include <stdio.h>

#define NOT_SUPPORTED 3

#define SUCCEEDS(name)                                                                                                 \
    int name() { return 0; }
#define REFUSES(name)                                                                                                  \
    int name() { return NOT_SUPPORTED; }

static void *const device = (void *)0x78;

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 1;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = device;
    return index ? NOT_SUPPORTED : 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *name, void **handle) { return nvmlDeviceGetHandleByIndex_v2(0, handle); }
int nvmlDeviceGetHandleByUUID(const char *name, void **handle) { return nvmlDeviceGetHandleByIndex_v2(0, handle); }

int nvmlDeviceGetUUID(void *handle, char *text, unsigned num_bytes) {
    snprintf(text, num_bytes, "GPU-01010101-0101-0101-0101-010101010101");
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = DRIVER_VERSION;
    return 0;
}

/* Asked for the message of an error: the processes that fill the memory. */
int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned *count, void *processes) {
    *count = 0;
    return 0;
}

/* The caller has filled the answer with zeros, and the state 0 is: no fabric. */
int nvmlDeviceGetGpuFabricInfoV(void *handle, void *answer) { return 0; }

const char *nvmlErrorString(int error) { return "error of the pretended NVML"; }

SUCCEEDS(nvmlInit)
SUCCEEDS(nvmlInit_v2)
SUCCEEDS(nvmlShutdown)
REFUSES(nvmlDeviceGetNvLinkRemoteDeviceType)
REFUSES(nvmlDeviceGetNvLinkRemotePciInfo_v2)
REFUSES(nvmlDeviceGetP2PStatus)
