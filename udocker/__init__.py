"""Run containers without root: pull, verify, unpack, run, with the node's GPU."""

__version__ = "2.0.0.dev0"
