/* The GPUs of a fake node: GPU of minor M exists when /dev/nvidiaM may be opened.
 *
 * Their PCI addresses fall as the minors rise, so that neither order can stand for the other.
 * FAKE_DRIVER_ROOT stands before /dev. A node whose driver is absent (ENXIO) counts as opened.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_GPUS 8
#define BUS(minor) (0x22 - (minor))

static const char *root(void) {
    const char *named = getenv("FAKE_DRIVER_ROOT");
    return named ? named : "";
}

static int opens_for(const char *name, int number, int how) {
    char path[512];
    snprintf(path, sizeof path, number < 0 ? "%s/dev/%s" : "%s/dev/%s%d", root(), name, number);
    int fd = open(path, how | O_CLOEXEC);
    if (fd < 0)
        return errno == ENXIO;
    close(fd);
    return 1;
}

static int opens(const char *name, int number) {
    return opens_for(name, number, O_RDWR);
}

/* The minor of the GPU that is number `index` in PCI order; -1 when there are not so many. */
static int minor_of(unsigned index) {
    for (int minor = MAX_GPUS - 1; minor >= 0; minor--)
        if (opens("nvidia", minor) && index-- == 0)
            return minor;
    return -1;
}
