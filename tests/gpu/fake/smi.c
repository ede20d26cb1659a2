/* nvidia-smi of a fake node. `-L` lists GPUs as the real one does; without it, the version and
 * the file from which NVML was loaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

static void *nvml;

static void *function(const char *name) {
    return dlsym(nvml, name);
}

int main(int argc, char **argv) {
    nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!nvml) {
        printf("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.\n%s\n", dlerror());
        return 12;
    }
    int result = ((int (*)(void))function("nvmlInit_v2"))();
    if (result) {
        const char *(*text)(int) = (const char *(*)(int))function("nvmlErrorString");
        printf("Failed to initialize NVML: %s\n", text(result));
        return result;
    }
    if (argc > 1 && !strcmp(argv[1], "-L")) {
        unsigned count;
        ((int (*)(unsigned *))function("nvmlDeviceGetCount_v2"))(&count);
        for (unsigned index = 0; index < count; index++) {
            void *device;
            char name[96], uuid[96];
            ((int (*)(unsigned, void **))function("nvmlDeviceGetHandleByIndex_v2"))(index, &device);
            ((int (*)(void *, char *, unsigned))function("nvmlDeviceGetName"))(device, name, 96);
            ((int (*)(void *, char *, unsigned))function("nvmlDeviceGetUUID"))(device, uuid, 96);
            printf("GPU %u: %s (UUID: %s)\n", index, name, uuid);
        }
        return 0;
    }
    char version[96];
    struct link_map *map;
    ((int (*)(char *, unsigned))function("nvmlSystemGetDriverVersion"))(version, 96);
    dlinfo(nvml, RTLD_DI_LINKMAP, &map);
    printf("NVIDIA-SMI %s NVML %s\n", version, map->l_name);
    return 0;
}
