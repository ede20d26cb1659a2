#!/bin/sh
# Try udocker with this machine's own NVIDIA GPU: sh utils/realgpu.sh [PYTEST OPTIONS]
# Run as root or as anybody; containers are run by a user without privileges. What they print is
# shown at the end.
#
# Nothing is fetched. Where the Python (or $PYTHON) has not all that udocker needs, $WHEELS names
# a directory with wheels of what is missing, made on a machine with a network by
#   python3 -m pip download --only-binary=:all: --python-version VERSION --dest DIR \
#       pyelftools zstandard cryptography
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
imports='import click, requests, elftools, psutil, pynvml, tqdm, zstandard, cryptography, pytest'

if ! "$python" -c "$imports" 2>/dev/null && [ -n "${WHEELS:-}" ]; then
    packages=$(mktemp -d)
    trap 'rm -rf "$packages"' EXIT
    chmod 755 "$packages"
    "$python" -m pip install --quiet --no-index --no-deps --target "$packages" "$WHEELS"/*.whl
    export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
"$python" -c "$imports" || {
    echo "realgpu.sh: $python lacks a package; see the first lines of this script" >&2
    exit 2
}
"$python" -m pytest -m realgpu -rA -p no:cacheprovider tests/gpu/test_realgpu.py "$@"
