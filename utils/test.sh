#!/bin/sh
# Check everything: sh utils/test.sh [PYTEST OPTIONS]
# Linters, types, then all tests; the exit status is 0 when all of them passed.
#
# Programs that the tests need are installed with apt-get as root or where sudo asks for no
# password; elsewhere the rest runs, and what is missing is named in the last lines.
# $PYTHON chooses the interpreter. With CI=true a test that is skipped has failed.
set -eu
cd "$(dirname "$0")/.."

# program:package of Debian; a path stands for a file
needs="docker-registry:docker-registry skopeo:skopeo umoci:umoci podman:podman
    proot:proot fakechroot:fakechroot runc:runc crun:crun bwrap:bubblewrap newuidmap:uidmap
    debootstrap:debootstrap busybox:busybox-static musl-gcc:musl-tools
    gcc:gcc /usr/include/stdio.h:libc6-dev
    aarch64-linux-gnu-as:binutils-aarch64-linux-gnu qemu-aarch64-static:qemu-user-static
    zstd:zstd gpg:gnupg gpgv:gpgv openssl:openssl htpasswd:apache2-utils
    shellcheck:shellcheck setpriv:util-linux"
python=${PYTHON:-python3}
failed=

say() {
    printf '%s\n' "$*" >&2
}

is_there() {
    # sbin is not on every user's PATH
    case $1 in
        /*) [ -e "$1" ] ;;
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

missing_packages() {
    for need in $needs; do
        is_there "${need%:*}" || printf '%s ' "${need#*:}"
    done
    "$python" -c 'import ensurepip' 2>/dev/null || printf 'python3-venv '
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

can_install() {
    command -v apt-get >/dev/null && as_root true 2>/dev/null
}

# Install packages; lists that are missing or old are fetched once.
install_packages() {
    as_root apt-get install -y -qq --no-install-recommends "$@" >&2 ||
        { as_root apt-get update -qq >&2 &&
            as_root apt-get install -y -qq --no-install-recommends "$@" >&2; }
}

# Print the requirements that setup.py names under $1 (DEPENDENCIES, or a key of EXTRAS).
requirements() {
    "$python" - "$1" <<'END'
import ast, sys

values = {}
for node in ast.parse(open("setup.py", encoding="utf-8").read()).body:
    if isinstance(node, ast.Assign) and node.targets[0].id in ("DEPENDENCIES", "EXTRAS"):
        values[node.targets[0].id] = ast.literal_eval(node.value)
print(*values["EXTRAS"].get(sys.argv[1], values["DEPENDENCIES"]))
END
}

# Print the Python of an environment with what setup.py names, made once for each of them.
environment() {
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
    path=$PWD/.venv/$version-$(cksum <setup.py | tr ' ' -)
    if [ ! -d "$path" ]; then
        say "making $path"
        make_environment "$path.$$" >&2 || { rm -rf "$path.$$" && return 1; }
        mv "$path.$$" "$path"
    fi
    printf '%s\n' "$path/bin/python"
}

# The words of setup.py are requirements, one a word.
# shellcheck disable=SC2046
make_environment() {
    "$python" -m venv "$1" || return
    wheels "$1" $(requirements DEPENDENCIES) $(requirements test) $(requirements types) || return
    wheels "$1" $(requirements fast) 2>/dev/null || say "no isal for this machine"
}

wheels() {
    environment=$1
    shift
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary :all: "$@"
}

# Run one check; a failure is remembered and the next one runs.
check() {
    name=$1
    shift
    say "== $name"
    "$@" || failed="$failed $name"
}

missing=$(missing_packages)
if [ -n "$missing" ] && can_install; then
    say "installing $missing"
    # shellcheck disable=SC2086
    install_packages $missing || say "apt-get could not install all of them"
    missing=$(missing_packages)
fi

venv=$(environment) || {
    say "no environment to test in could be made${missing:+; not installed: $missing}"
    exit 1
}
check ruff "$venv" -m ruff check .
check mypy "$venv" -m mypy
if is_there shellcheck; then
    check shellcheck shellcheck utils/*.sh .ci/run
fi
check pytest "$venv" -m pytest -n auto --dist loadgroup "$@"

[ -z "$missing" ] || say "not installed, so that some tests were skipped: $missing"
[ -z "$failed" ] || say "failed:$failed"
[ -z "$failed" ]
