/* nvidia-modprobe of a fake node: -u makes the nodes of CUDA's memory manager, -cN that of a GPU
 * and the control node, -f FILE that of the capability in FILE. They are /dev/null's, as those of `fakenode.sh --null-nodes`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int failed;

static void make(const char *path) {
    if (access(path, F_OK) == 0)
        return;
    umask(0);
    if (mknod(path, S_IFCHR | 0666, makedev(1, 3))) {
        fprintf(stderr, "cannot make %s\n", path);
        failed = 1;
    }
}

int main(int argc, char **argv) {
    for (int word = 1; word < argc; word++) {
        if (!strcmp(argv[word], "-u")) {
            make("/dev/nvidia-uvm");
            make("/dev/nvidia-uvm-tools");
        } else if (!strncmp(argv[word], "-c", 2)) {
            char path[64];
            snprintf(path, sizeof path, "/dev/nvidia%d", atoi(argv[word] + 2));
            make(path);
            make("/dev/nvidiactl");
        } else if (!strcmp(argv[word], "-f") && word + 1 < argc) {
            char path[64];
            int minor = -1;
            FILE *file = fopen(argv[++word], "r");
            if (!file || fscanf(file, "DeviceFileMinor: %d", &minor) != 1)
                return 3;
            fclose(file);
            mkdir("/dev/nvidia-caps", 0755);
            snprintf(path, sizeof path, "/dev/nvidia-caps/nvidia-cap%d", minor);
            make(path);
        } else {
            return 2;
        }
    }
    return failed;
}
