/* libcuda.so.1 of a fake node: initialises when it can reach a GPU and the memory manager. */
#include "node.h"

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_NOT_SUPPORTED = 801,
    CUDA_ERROR_UNKNOWN = 999
};

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

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return minor_of(ordinal) < 0 ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

int cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, size, "NVIDIA Fake GPU");
    return minor_of(device) < 0 ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

/* Here it ends: nothing computes. */
int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    *context = 0;
    return CUDA_ERROR_NOT_SUPPORTED;
}
