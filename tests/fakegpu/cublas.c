/* cuBLAS and cuBLASLt that multiply nothing. Only what torch calls is here; anything else reaches the real libraries. */
#include "pretended.h"

#include <string.h>

#define SUCCEEDS(name)                                                                                                 \
    int name() { return 0; }
#define GIVES_A_HANDLE(name)                                                                                           \
    int name(void **handle) {                                                                                          \
        *handle = new_handle();                                                                                        \
        return 0;                                                                                                      \
    }
#define CLEARS(name)                                                                                                   \
    int name(void *object, size_t num_bytes) {                                                                         \
        memset(object, 0, num_bytes);                                                                                  \
        return 0;                                                                                                      \
    }

GIVES_A_HANDLE(cublasCreate_v2)
SUCCEEDS(cublasDestroy_v2)
SUCCEEDS(cublasSetMathMode)
SUCCEEDS(cublasSetPointerMode_v2)
SUCCEEDS(cublasSetStream_v2)
SUCCEEDS(cublasSetWorkspace_v2)

int cublasGetMathMode(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

int cublasGetPointerMode_v2(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

const char *cublasGetStatusString(int status) { return "status of the pretended cuBLAS"; }

SUCCEEDS(cublasCdotc_v2)
SUCCEEDS(cublasCdotu_v2)
SUCCEEDS(cublasCgelsBatched)
SUCCEEDS(cublasCgemmStridedBatched)
SUCCEEDS(cublasCgemm_v2)
SUCCEEDS(cublasCgemv_v2)
SUCCEEDS(cublasDdot_v2)
SUCCEEDS(cublasDgemmStridedBatched)
SUCCEEDS(cublasDgemm_v2)
SUCCEEDS(cublasDgemv_v2)
SUCCEEDS(cublasDotEx)
SUCCEEDS(cublasDtrsm_v2)
SUCCEEDS(cublasGemmEx)
SUCCEEDS(cublasGemmStridedBatchedEx)
SUCCEEDS(cublasSdot_v2)
SUCCEEDS(cublasSgemmEx)
SUCCEEDS(cublasSgemmStridedBatched)
SUCCEEDS(cublasSgemm_v2)
SUCCEEDS(cublasSgemv_v2)

GIVES_A_HANDLE(cublasLtCreate)
GIVES_A_HANDLE(cublasLtMatmulDescCreate)
GIVES_A_HANDLE(cublasLtMatrixLayoutCreate)
GIVES_A_HANDLE(cublasLtMatmulPreferenceCreate)
CLEARS(cublasLtMatmulDescInit_internal)
CLEARS(cublasLtMatmulPreferenceInit_internal)
SUCCEEDS(cublasLtGroupedMatrixLayoutInit_internal)
SUCCEEDS(cublasLtDestroy)
SUCCEEDS(cublasLtMatmul)
SUCCEEDS(cublasLtMatmulDescDestroy)
SUCCEEDS(cublasLtMatmulDescSetAttribute)
SUCCEEDS(cublasLtMatmulPreferenceDestroy)
SUCCEEDS(cublasLtMatmulPreferenceSetAttribute)
SUCCEEDS(cublasLtMatrixLayoutDestroy)
SUCCEEDS(cublasLtMatrixLayoutSetAttribute)

/* One algorithm, which needs no workspace: `cublasLtMatmulHeuristicResult_t` has 96 bytes. */
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, char *results, int *found) {
    memset(results, 0, 96);
    *found = 1;
    return 0;
}

int cublasLtMatmulAlgoConfigGetAttribute(void *algorithm, int attribute, void *value, size_t num_bytes,
                                         size_t *written) {
    memset(value, 0, num_bytes);
    if (written)
        *written = num_bytes;
    return 0;
}
