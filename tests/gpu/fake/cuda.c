/* libcuda.so.1 of a fake node: initialises when it can reach a GPU and the memory manager. */
#include "node.h"

enum { CUDA_SUCCESS = 0, CUDA_ERROR_NO_DEVICE = 100, CUDA_ERROR_UNKNOWN = 999 };

int cuInit(unsigned flags) {
    (void)flags;
    if (!opens("nvidia-uvm", -1))
        return CUDA_ERROR_UNKNOWN;
    return minor_of(0) < 0 ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

int cuDeviceGetCount(int *count) {
    for (*count = 0; minor_of(*count) >= 0; ++*count)
        ;
    return CUDA_SUCCESS;
}

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return CUDA_SUCCESS;
}
