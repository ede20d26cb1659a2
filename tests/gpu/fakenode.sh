#!/bin/bash
# fakenode.sh [--user NAME | --ids UID:GID[,GROUP]...] [--null-nodes] [--deny MINOR]...
#             TREE COMMAND...
#
# Run COMMAND on this machine dressed as the GPU node TREE (from drivertree.py). All happens in a
# private mount namespace that ends with COMMAND; nothing outside it changes. Root only.
#
#   --user NAME     run COMMAND as that user
#   --ids UID:GID   run it as a user without a name, with further GROUPs or none
#   --null-nodes    device nodes that can be opened (they are /dev/null's); without it they have
#                   NVIDIA's numbers and open(2) says ENXIO: node present, no driver behind it
#   --deny MINOR    /dev/nvidiaMINOR may not be opened by users: another job's GPU
set -eu

user='' ids='' null='' deny=''
while :; do
    case ${1:-} in
    --user) user=$2; shift 2 ;;
    --ids) ids=$2; shift 2 ;;
    --null-nodes) null=yes; shift ;;
    --deny) deny="$deny $2"; shift 2 ;;
    *) break ;;
    esac
done
if [ $# -lt 2 ]; then
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
[ "$(id -u)" = 0 ] || { echo "fakenode.sh: only root can dress a machine" >&2; exit 2; }
tree=$(readlink -f "$1")
shift

if [ -z "${FAKENODE_INSIDE:-}" ]; then
    work=$(mktemp -d)
    trap 'rmdir "$work"' EXIT
    options=(${user:+--user "$user"} ${ids:+--ids "$ids"} ${null:+--null-nodes})
    for minor in $deny; do options+=(--deny "$minor"); done
    status=0
    FAKENODE_INSIDE=$work unshare --mount --propagation private \
        bash "$0" "${options[@]}" "$tree" "$@" || status=$?
    exit "$status"
fi

# Everything of ours lies in this file system in memory, which goes with the namespace.
work=$FAKENODE_INSIDE
unset FAKENODE_INSIDE
mount -t tmpfs -o mode=755 tmpfs "$work"
cp -a "$tree" "$work/tree"
tree=$work/tree

overlay() { # DIRECTORY: lay the tree's, if any, over the machine's; what is written goes to neither
    mkdir -p "$tree$1" "$work/upper$1" "$work/work$1"
    mount -t overlay overlay \
        -o "lowerdir=$tree$1:$1,upperdir=$work/upper$1,workdir=$work/work$1" "$1"
}

replace() { # DIRECTORY: show the tree's in the place of the machine's
    [ -d "$tree$1" ] || return 0
    mount --rbind "$tree$1" "$1"
}

overlay /usr
overlay /etc
overlay /run
replace /proc/driver
[ ! -d "$tree/sys/bus/pci/devices" ] || replace /sys/bus/pci/devices
[ ! -f "$tree/proc/devices" ] || mount --bind "$tree/proc/devices" /proc/devices

if [ -d "$tree/sys/module" ]; then
    for module in /sys/module/*; do mkdir -p "$tree/sys/module/${module##*/}"; done
    replace /sys/module
fi

if [ -d "$tree/sys/class" ]; then
    for class in /sys/class/*; do
        mkdir -p "$tree$class"
        mount --bind "$class" "$tree$class"
    done
    replace /sys/class
fi

# Always a /dev of ours, so that nodes which COMMAND makes are never the machine's. Nodes are made
# anew where that is allowed: a hundred mounts more are on no real machine, and programs that make
# containers read the list of all again and again.
mkdir -p "$tree/dev"
mkdir "$work/dev"
mount -t tmpfs -o mode=755,dev tmpfs "$work/dev"
for entry in /dev/*; do
    copy=$work/dev/${entry##*/}
    if [ -L "$entry" ]; then
        cp -a "$entry" "$copy"
    elif [ -c "$entry" ] && [ "$entry" != /dev/console ] && cp -a "$entry" "$copy" 2>/dev/null; then
        : # /dev/console is a terminal of its own file system in a container
    elif [ -d "$tree$entry" ]; then
        mkdir "$copy" # the tree's own
    elif [ -d "$entry" ]; then
        mkdir "$copy"
        mount --rbind "$entry" "$copy"
    else
        : >"$copy"
        mount --bind "$entry" "$copy"
    fi
done
(cd "$tree/dev" && find . -type f) | while read -r node; do
    read -r _ number <"$tree/dev/$node"
    [ -z "$null" ] || number=1:3
    mkdir -p "$(dirname "$work/dev/$node")"
    mode=$(stat -c %a "$tree/dev/$node")
    group=$(stat -c %g "$tree/dev/$node")
    mknod -m "$mode" "$work/dev/$node" c "${number%%:*}" "${number##*:}"
    chgrp "$group" "$work/dev/$node"
done
(cd "$tree/dev" && find . -type l) | while read -r link; do
    mkdir -p "$(dirname "$work/dev/$link")"
    cp -a "$tree/dev/$link" "$work/dev/$link"
done
for minor in $deny; do chmod 000 "$work/dev/nvidia$minor"; done
mount --move "$work/dev" /dev

# As the driver's installer does, all links being there. A rename in an overlay whose lower
# directory somebody changes meanwhile may fail: so the file is written elsewhere. What ldconfig
# notes for its next run is the machine's.
[ ! -d /var/cache/ldconfig ] || overlay /var/cache/ldconfig
ldconfig -X -C "$work/ld.so.cache"
cat "$work/ld.so.cache" >/etc/ld.so.cache
umount --lazy "$work" # what shows of it has mounts of its own

if [ -n "$user" ]; then
    home=$(getent passwd "$user" | cut -d: -f6)
    exec setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups \
        env HOME="$home" USER="$user" LOGNAME="$user" "$@"
fi
if [ -n "$ids" ]; then
    owner=${ids%%,*}
    groups=--clear-groups
    [ "$owner" = "$ids" ] || groups=--groups=${ids#*,}
    exec setpriv --reuid="${owner%%:*}" --regid="${owner##*:}" "$groups" "$@"
fi
exec "$@"
