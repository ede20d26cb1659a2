/* nvidia-modprobe of a fake node: -u makes the nodes of CUDA's memory manager, -cN that of a GPU
 * and the control node. They are /dev/null's, as those of `fakenode.sh --null-nodes`. */
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
        } else {
            return 2;
        }
    }
    return failed;
}
