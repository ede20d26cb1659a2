#!/bin/sh
# Install this checkout for the current user and run it: sh utils/bootstrap.sh ARGS...
# Here only a Python is found; utils/bootstrap.py does the rest.
set -eu

fail() {
    printf 'bootstrap: %s\n' "$1" >&2
    exit 1
}

# Print the word after --python, if it stands among the options.
wanted_python() {
    while [ $# -gt 0 ]; do
        case $1 in
            --python) printf '%s\n' "${2-}" && return ;;
            --python=*) printf '%s\n' "${1#*=}" && return ;;
            --prefix | --find-links | --with) [ $# -lt 2 ] || shift ;;
            --prefix=* | --find-links=* | --with=* | --uninstall) ;;
            *) return ;;
        esac
        shift
    done
}

suits() {
    "$1" -IS -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null
}

# Print the Python of the present environment: another one first on PATH is no reason for a new.
present_python() {
    record=${UDOCKER_DIR:-${HOME:-}/.udocker}/env/python
    if [ -r "$record" ] && IFS= read -r python <"$record" && suits "$python"; then
        printf '%s\n' "$python"
    fi
}

first_python() {
    for name in python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
        if command -v "$name" >/dev/null && suits "$name"; then
            command -v "$name" && return
        fi
    done
}

python=$(wanted_python "$@")
if [ -n "$python" ]; then
    suits "$python" || fail "$python is not a Python 3.9 or newer"
else
    python=$(present_python)
    [ -n "$python" ] || python=$(first_python)
fi
[ -n "$python" ] || fail "no Python 3.9 or newer on PATH: load a module, install one, \
or name it with --python PATH"

case $0 in
    */*) exec "$python" -IS "${0%/*}/bootstrap.py" "$@" ;;
    *) exec "$python" -IS bootstrap.py "$@" ;;
esac
