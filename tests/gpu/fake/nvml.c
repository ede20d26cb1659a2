/* libnvidia-ml.so.1 of a fake node; FAKE_NVML_INIT is what initialisation answers. */
#include <string.h>
#include "node.h"

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NO_PERMISSION = 4, NOT_LOADED = 9, MISMATCH = 18 };
typedef int Result;
typedef void *Device;
static int initialized;

#define MINOR(device) ((int)(long)(device)-1)

Result nvmlInit_v2(void) {
    const char *answer = getenv("FAKE_NVML_INIT");
    if (answer && *answer)
        return atoi(answer);
    if (!opens("nvidiactl", -1))
        return NOT_LOADED;
    initialized = 1;
    return OK;
}

Result nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return nvmlInit_v2();
}

Result nvmlShutdown(void) {
    initialized = 0;
    return OK;
}

const char *nvmlErrorString(Result result) {
    switch (result) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID: return "Invalid Argument";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_LOADED: return "Driver Not Loaded";
    case MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

Result nvmlSystemGetDriverVersion(char *text, unsigned size) {
    snprintf(text, size, "%s", DRIVER_VERSION);
    return OK;
}

Result nvmlDeviceGetCount_v2(unsigned *count) {
    if (!initialized)
        return UNINITIALIZED;
    for (*count = 0; minor_of(*count) >= 0; ++*count)
        ;
    return OK;
}

Result nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
    int minor = initialized ? minor_of(index) : -1;
    *device = (Device)(long)(minor + 1);
    return minor < 0 ? INVALID : OK;
}

Result nvmlDeviceGetName(Device device, char *text, unsigned size) {
    (void)device;
    snprintf(text, size, "NVIDIA Fake GPU");
    return OK;
}

Result nvmlDeviceGetUUID(Device device, char *text, unsigned size) {
    snprintf(text, size, "GPU-f000000%d-1111-2222-3333-444455556666", MINOR(device));
    return OK;
}

Result nvmlDeviceGetMinorNumber(Device device, unsigned *minor) {
    *minor = MINOR(device);
    return OK;
}

typedef struct {
    char old_bus_id[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} PciInfo;

Result nvmlDeviceGetPciInfo_v3(Device device, PciInfo *info) {
    memset(info, 0, sizeof *info);
    info->bus = BUS(MINOR(device));
    snprintf(info->old_bus_id, sizeof info->old_bus_id, "0000:%02X:00.0", info->bus);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus);
    return OK;
}

typedef struct {
    unsigned long long total, free, used;
} Memory;

Result nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
    (void)device;
    memory->total = 80ULL << 30;
    memory->used = 1ULL << 30;
    memory->free = memory->total - memory->used;
    return OK;
}
