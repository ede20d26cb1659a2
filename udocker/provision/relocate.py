"""Lets a program find the libraries that were brought with it, wherever the store lies."""

from __future__ import annotations

import os
import shutil

from udocker.disk import store_error
from udocker.engines import programs
from udocker.engines.rebase import elfwriter
from udocker.provision.place import LIBRARIES, ORIGINAL


def relocate(draft: str, target: str, name: str) -> None:
    """Let the program `name` in `draft` load the libraries beside it; no others are changed.

    `target` is the directory that the draft will be. runc and crun start anew from a copy of
    themselves in memory, from which `$ORIGIN` leads nowhere: so it is named as well, and the
    program as it came is kept for bundles, which go elsewhere. Raises UdockerError.
    """
    try:
        libraries = sorted(os.listdir(f"{draft}/{LIBRARIES}"))
    except FileNotFoundError:
        return
    program = f"{draft}/{programs.file_name(name)}"
    try:
        shutil.copy2(program, f"{draft}/{ORIGINAL}")
    except OSError as error:
        raise store_error(error, program) from error
    elfwriter.set_runpath(program, f"$ORIGIN/{LIBRARIES}:{target}/{LIBRARIES}")
    for library in libraries:
        elfwriter.set_runpath(f"{draft}/{LIBRARIES}/{library}", "$ORIGIN")
