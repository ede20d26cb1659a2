"""`udocker gpu`: the GPUs of this node in words."""

from __future__ import annotations

from udocker.commands.group import LazyGroup

COMMANDS = {
    "info": "Show this node's GPUs and driver, and what this job may use.",
    "explain": "Show what an image gets of the GPUs, and why.",
    "doctor": "Check what GPUs need on this node, and say what helps.",
    "cdi": "Print a CDI specification of this node's GPUs, for podman and others.",
}
"""Name and help of every command; each is `udocker.commands.gpu.NAME`, imported when it is used."""

command = LazyGroup(
    COMMANDS,
    package=__name__,
    name="gpu",
    context_settings={"help_option_names": ["-h", "--help"]},
)
