"""What was found out by trying, remembered until the next boot or the next kernel."""

from __future__ import annotations

import os

from udocker import disk, fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from udocker.host.probe import Host

_FACT_BYTES = 65536


def remember(
    host: Host, directory: str, name: str, key: str, find: Callable[[], Any], *, failed: Any = None
) -> Any:
    """Return what `find` returned (JSON values) when it was last called under the same facts.

    `directory` is the store's; `key` holds the facts on which the answer depends beside those
    of the machine: boot, kernel, user, limits, filters. An answer that `failed` accepts (a
    function) is not believed again: what was forbidden may be allowed by now.
    """
    path = f"{directory}/cache/{name}"
    whole = " ".join((host.boot_id, *circumstances(host), key))
    known = disk.read(path, _FACT_BYTES)
    if known is not None:
        try:
            found, answer = fastjson.loads(known)
            if found == whole and not (failed and failed(answer)):
                return answer
        except (ValueError, TypeError):
            pass
    answer = find()
    disk.make_directory(f"{directory}/cache")
    disk.write_whole(path, fastjson.dumps([whole, answer]).encode(), sync=False)
    return answer


def circumstances(host: Host) -> tuple[str, ...]:
    """Return what decides on namespaces: kernel, user, limit, filters of system calls."""
    limit = host.text("/proc/sys/user/max_user_namespaces").strip()
    status = host.text("/proc/self/status").splitlines()
    filters = (line.split()[-1] for line in status if line.startswith("Seccomp"))
    return (os.uname().release, str(os.geteuid()), limit, *filters)
