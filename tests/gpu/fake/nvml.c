/* libnvidia-ml.so.1 of a fake node; FAKE_NVML_INIT is what initialisation answers.
 *
 * The handle of a GPU is its minor number plus 1; that of a MIG device has its place above it.
 */
#include <string.h>
#include "node.h"

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4 };
enum { NOT_FOUND = 6, NOT_LOADED = 9, MISMATCH = 18 };
typedef int Result;
typedef void *Device;
static int initialized;

#define MINOR(device) ((int)((long)(device)&0xff) - 1)
#define PART(device) ((int)((long)(device) >> 8) - 1)
#define HANDLE(minor, part) ((Device)(long)(((part) + 1) << 8 | ((minor) + 1)))

#define GIS 15
#define CIS 8

/* Whether the compute instance exists (in /proc), and its two nodes may be read. */
static int has_part(int minor, int gi, int ci) {
    char path[512];
    int cap = 3 + 135 * minor + 9 * gi;
    snprintf(path, sizeof path, "%s/proc/driver/nvidia/capabilities/gpu%d/mig/gi%d/ci%d/access",
             root(), minor, gi, ci);
    return access(path, F_OK) == 0 && opens_for("nvidia-caps/nvidia-cap", cap, O_RDONLY) &&
           opens_for("nvidia-caps/nvidia-cap", cap + 1 + ci, O_RDONLY);
}

/* Number `index` of the parts of a GPU, as 8 * gi + ci; -1 when there are not so many. The order
 * falls with gi, so that neither can stand for the other. */
static int part_of(int minor, unsigned index) {
    for (int part = GIS * CIS - 1; part >= 0; part--)
        if (has_part(minor, part / CIS, part % CIS) && index-- == 0)
            return part;
    return -1;
}

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
    *device = HANDLE(minor, -1);
    return minor < 0 ? INVALID : OK;
}

Result nvmlDeviceGetName(Device device, char *text, unsigned size) {
    snprintf(text, size, PART(device) < 0 ? "NVIDIA Fake GPU" : "NVIDIA Fake GPU MIG 1g.10gb");
    return OK;
}

Result nvmlDeviceGetUUID(Device device, char *text, unsigned size) {
    int part = PART(device);
    if (part < 0)
        snprintf(text, size, "GPU-f000000%d-1111-2222-3333-444455556666", MINOR(device));
    else
        snprintf(text, size, "MIG-f000000%d-%04x-%04x-3333-444455556666", MINOR(device),
                 part / CIS, part % CIS);
    return OK;
}

Result nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending) {
    char path[512];
    snprintf(path, sizeof path, "%s/proc/driver/nvidia/capabilities/gpu%d/mig", root(),
             MINOR(device));
    *current = *pending = access(path, F_OK) == 0;
    return *current ? OK : NOT_SUPPORTED;
}

Result nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *count) {
    (void)device;
    *count = 7;
    return OK;
}

Result nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *part) {
    int found = part_of(MINOR(device), index);
    *part = HANDLE(MINOR(device), found);
    return found < 0 ? NOT_FOUND : OK;
}

Result nvmlDeviceGetGpuInstanceId(Device device, unsigned *id) {
    *id = PART(device) / CIS;
    return PART(device) < 0 ? NOT_SUPPORTED : OK;
}

Result nvmlDeviceGetComputeInstanceId(Device device, unsigned *id) {
    *id = PART(device) % CIS;
    return PART(device) < 0 ? NOT_SUPPORTED : OK;
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

Result nvmlDeviceGetCudaComputeCapability(Device device, int *major, int *minor) {
    (void)device;
    *major = 9;
    *minor = 0;
    return OK;
}

Result nvmlDeviceGetBrand(Device device, unsigned *brand) {
    (void)device;
    *brand = 14; /* NVML_BRAND_NVIDIA */
    return OK;
}
