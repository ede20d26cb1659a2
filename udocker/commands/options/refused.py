"""Options of docker and podman that cannot be had without root or a daemon, and what can."""

from __future__ import annotations

_NETWORK = "there are the host's network and none, which have no addresses of their own"
_DAEMON = "no daemon is there to do it"
_POD = "there are no pods"
_IDS = "which ids are mapped is not chosen one by one"
_STORAGE = "files lie in directories of the user, without a driver or a quota of their own"
_WINDOWS = "that is for containers of Windows"
_IDS_HINT = "--user U:G, --userns keep-id, or --userns auto for those of /etc/subuid"
_PORTS_HINT = "--network host, or --network none with --publish"

REFUSED: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(
        ("--ip", "--ip6", "--link-local-ip", "--mac-address", "--link"), (_NETWORK, _PORTS_HINT)
    ),
    **dict.fromkeys(("--network-alias", "--net-alias"), (_NETWORK, "--add-host NAME:127.0.0.1")),
    "--restart": (_DAEMON, "a loop in the batch script, or the scheduler's requeue"),
    **dict.fromkeys(("--pod", "--pod-id-file", "--requires"), (_POD, None)),
    **dict.fromkeys(
        ("--sdnotify", "--systemd"), ("systemd does not run containers of users", None)
    ),
    **dict.fromkeys(
        ("--uidmap", "--gidmap", "--subuidname", "--subgidname", "--hostuser"), (_IDS, _IDS_HINT)
    ),
    "--sysctl": ("only an administrator sets parameters of the kernel", None),
    **dict.fromkeys(("--storage-opt", "--volume-driver"), (_STORAGE, "--volume, --tmpfs")),
    "--image-volume": (_STORAGE, "--volume, --tmpfs"),
    **dict.fromkeys(
        ("--isolation", "--cpu-count", "--cpu-percent", "--io-maxbandwidth", "--io-maxiops"),
        (_WINDOWS, None),
    ),
    "--init-path": ("the init is udocker's own", "--init"),
    "--use-api-socket": (_DAEMON, None),
    "--conmon-pidfile": ("there is no conmon", "--pidfile"),
    "--rmi": ("images stay", "udocker rmi afterwards"),
    "--chrootdirs": ("there is one root", None),
    "--personality": ("a program sets its own personality", "setarch(8) in the container"),
    "--env-merge": ("variables are not expanded", "--env NAME=VALUE, expanded by the shell"),
    "--hooks-dir": ("OCI hooks are not run", None),
}
"""For each name why not, and the way out."""
