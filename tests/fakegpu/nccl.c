/* NCCL of a group of one rank, whose collectives hand back what they are given.
 *
 * A group of several ranks is refused: it would have to move data between processes, and nothing here does.
 */
#include "pretended.h"

#include <cuda_runtime_api.h>
#include <string.h>

#define INVALID_ARGUMENT 4
#define LARGEST_COPY ((size_t)1 << 20)
#define SUCCEEDS(name)                                                                                                 \
    int name() { return 0; }

typedef struct {
    char bytes[128];
} unique_id;

static int new_communicator(void **communicator, int num_ranks) {
    *communicator = new_handle();
    return num_ranks == 1 ? 0 : INVALID_ARGUMENT;
}

int ncclGetUniqueId(unique_id *id) {
    memset(id, 7, sizeof *id);
    return 0;
}

int ncclCommInitRank(void **communicator, int num_ranks, unique_id id, int rank) {
    return new_communicator(communicator, num_ranks);
}

int ncclCommInitRankConfig(void **communicator, int num_ranks, unique_id id, int rank, void *config) {
    return new_communicator(communicator, num_ranks);
}

int ncclCommInitRankScalable(void **communicator, int num_ranks, int rank, int num_ids, void *ids, void *config) {
    return new_communicator(communicator, num_ranks);
}

int ncclCommSplit(void *whole, int color, int key, void **part, void *config) { return new_communicator(part, 1); }

int ncclCommGetAsyncError(void *communicator, int *error) {
    *error = 0;
    return 0;
}

int ncclCommCount(void *communicator, int *count) {
    *count = 1;
    return 0;
}

int ncclCommUserRank(void *communicator, int *rank) {
    *rank = 0;
    return 0;
}

int ncclGetVersion(int *version) {
    *version = 22809;
    return 0;
}

const char *ncclGetErrorString(int error) { return "the pretended NCCL has one rank"; }
const char *ncclGetLastError(void *communicator) { return "the pretended NCCL has one rank"; }

/* Bytes of a number, by `ncclDataType_t`. */
static size_t size_of(int type) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return sizes[type];
}

static int hand_back(const void *given, void *received, size_t count, int type) {
    size_t num_bytes = count * size_of(type);
    if (given != received && num_bytes <= LARGEST_COPY)
        memmove(received, given, num_bytes);
    return 0;
}

int ncclAllReduce(const void *given, void *received, size_t count, int type, int operation, void *communicator,
                  void *stream) {
    return hand_back(given, received, count, type);
}

int ncclBroadcast(const void *given, void *received, size_t count, int type, int root, void *communicator,
                  void *stream) {
    return hand_back(given, received, count, type);
}

int ncclAllGather(const void *given, void *received, size_t count, int type, void *communicator, void *stream) {
    return hand_back(given, received, count, type);
}

int ncclReduceScatter(const void *given, void *received, size_t count, int type, int operation, void *communicator,
                      void *stream) {
    return hand_back(given, received, count, type);
}

int ncclMemAlloc(void **start, size_t num_bytes) { return cudaMalloc(start, num_bytes); }
int ncclMemFree(void *start) { return cudaFree(start); }

int ncclRedOpCreatePreMulSum(int *operation, void *scalar, int type, int residence, void *communicator) {
    *operation = 5;
    return 0;
}

SUCCEEDS(ncclAlltoAll)
SUCCEEDS(ncclBcast)
SUCCEEDS(ncclReduce)
SUCCEEDS(ncclSend)
SUCCEEDS(ncclRecv)
SUCCEEDS(ncclGroupStart)
SUCCEEDS(ncclGroupEnd)
SUCCEEDS(ncclRedOpDestroy)
SUCCEEDS(ncclCommAbort)
SUCCEEDS(ncclCommDestroy)
SUCCEEDS(ncclCommFinalize)
SUCCEEDS(ncclCommRegister)
SUCCEEDS(ncclCommDeregister)
SUCCEEDS(ncclCommWindowRegister)
SUCCEEDS(ncclCommWindowDeregister)
