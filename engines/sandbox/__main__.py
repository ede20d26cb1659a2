"""`python3 -I -S .../sandbox OPTIONS -- PROGRAM ARG...`."""

import os
import sys

# a directory that is run stands alone: make the package it belongs to importable
sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))

from udocker.engines.sandbox.run import main  # noqa: E402

if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
