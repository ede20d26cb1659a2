#!/bin/sh
# debiandriver.sh DIRECTORY
#
# Unpack the user's part of NVIDIA's driver, as Debian packages it (non-free), below DIRECTORY:
# some 700 MB of real libraries and programs, nothing of which is installed or run. For
#
#   UDOCKER_TEST_DRIVER=DIRECTORY pytest tests/gpu/test_realdriver.py
set -eu

[ $# = 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
directory=$(readlink -f "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/sources" "$work/packages"
sed '/^Components:/s/main.*/main non-free/' /etc/apt/sources.list.d/debian.sources \
    >"$work/sources/debian.sources"
apt() {
    apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources" \
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o APT::Sandbox::User=root "$@"
}
apt update
cd "$work/packages"
apt download libcuda1 libcudadebugger1 libegl-nvidia0 libgles-nvidia1 libgles-nvidia2 \
    libglx-nvidia0 libnvcuvid1 libnvidia-allocator1 libnvidia-api1 libnvidia-cfg1 \
    libnvidia-eglcore libnvidia-encode1 libnvidia-fbc1 libnvidia-glcore libnvidia-glvkspirv \
    libnvidia-ml1 libnvidia-ngx1 libnvidia-nvvm4 libnvidia-opticalflow1 \
    libnvidia-pkcs11-openssl3 libnvidia-ptxjitcompiler1 libnvidia-rtcore libnvoptix1 \
    nvidia-driver-bin nvidia-egl-common nvidia-opencl-common nvidia-opencl-icd nvidia-smi \
    nvidia-vdpau-driver nvidia-vulkan-common nvidia-vulkan-icd
for package in *.deb; do
    dpkg-deb -x "$package" "$directory"
done
