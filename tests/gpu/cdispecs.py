"""Specifications for tests: values that are valid, to be written as files or changed a little."""

from __future__ import annotations

import copy
import json
import os

LIBRARIES = "/lib/x86_64-linux-gnu"
VERSION = "580.159.04"


def minimal(kind="vendor.com/net", version="0.5.0", name="x", **edits):
    """Return a specification of one device with these edits; without them it has a variable."""
    device = {"name": name, "containerEdits": edits or {"env": ["DEVICE=" + name]}}
    return {"cdiVersion": version, "kind": kind, "devices": [device]}


def nvidia(version=VERSION, directory=LIBRARIES, gpus=1, program="nvidia-cdi-hook"):
    """Return what NVIDIA's generator writes for GPUs, shortened to three libraries."""
    prefix = [program] if program == "nvidia-cdi-hook" else [program, "hook"]
    options = ["ro", "nosuid", "nodev", "rbind", "rprivate"]
    files = [f"libcuda.so.{version}", f"libnvidia-ml.so.{version}", "libnvidia-nvvm70.so.4"]
    mounts = [
        {"hostPath": f"{directory}/{a}", "containerPath": f"{directory}/{a}", "options": options}
        for a in files
    ]
    mounts.append({"hostPath": "/usr/bin/nvidia-smi", "containerPath": "/usr/bin/nvidia-smi"})
    calls = [
        ["create-symlinks", "--link", f"libcuda.so.1::{directory}/libcuda.so"],
        ["enable-cuda-compat", f"--host-driver-version={version}"],
        ["update-ldcache", "--folder", directory],
        ["disable-device-node-modification"],
        ["update-application-profile"],
    ]
    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {"name": str(n), "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{n}"}]}}
            for n in range(gpus)
        ]
        + [
            {
                "name": "all",
                "containerEdits": {
                    "deviceNodes": [{"path": f"/dev/nvidia{n}"} for n in range(gpus)]
                },
            }
        ],
        "containerEdits": {
            "env": [f"NVIDIA_CTK_LIBCUDA_DIR={directory}", "NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [{"path": "/dev/nvidiactl"}, {"path": "/dev/nvidia-uvm"}],
            "hooks": [
                {
                    "hookName": "createContainer",
                    "path": f"/usr/bin/{program}",
                    "args": [*prefix, *call],
                    "env": ["NVIDIA_CTK_DEBUG=false"],
                }
                for call in calls
            ],
            "mounts": mounts,
        },
    }


def amd():
    """Return what AMD's container toolkit describes: two nodes, no libraries, no hooks."""
    render = "/dev/dri/renderD128"
    return {
        "cdiVersion": "0.6.0",
        "kind": "amd.com/gpu",
        "containerEdits": {"deviceNodes": [{"path": "/dev/kfd"}]},
        "devices": [
            {
                "name": "0",
                "containerEdits": {"deviceNodes": [{"path": "/dev/dri/card0"}, {"path": render}]},
            }
        ],
    }


def intel():
    """Return what Intel's device plug-in documents: nodes of a card, and the links by path."""
    by_path = "/dev/dri/by-path"
    options = ["rw", "rbind"]
    return {
        "cdiVersion": "0.5.0",
        "kind": "intel.com/gpu",
        "devices": [
            {
                "name": "gpu0",
                "containerEdits": {
                    "deviceNodes": [
                        {"path": path, "hostPath": path, "type": "c"}
                        for path in ("/dev/dri/card0", "/dev/dri/renderD128")
                    ],
                    "mounts": [
                        {
                            "hostPath": by_path,
                            "containerPath": by_path,
                            "options": options,
                            "type": "bind",
                        }
                    ],
                },
            }
        ],
    }


def changed(value, path, to):
    """Return `value` with the member that `path` (keys and indexes) leads to set, or taken away.

    `to` is the new value; `...` takes the member away.
    """
    made = copy.deepcopy(value)
    *way, last = path
    inner = made
    for step in way:
        inner = inner[step]
    if to is ...:
        del inner[last]
    else:
        inner[last] = to
    return made


def write(directory, name, value):
    """Write a specification as JSON, or text as it is, and return its path."""
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(str(directory), name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(value if isinstance(value, str) else json.dumps(value))
    return path
