"""Options on who the program is, as it sees itself."""

from __future__ import annotations

import os

from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udocker.commands.words import Values


def wishes(values: Values, _: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Return the fields of the request that options on the user fill."""
    kind, user = _userns(values.last("userns"))
    user = values.last("user") or user or ""
    host_accounts = values.flag("hostauth")
    if host_accounts and values.flag("containerauth"):
        raise UsageError("--hostauth and --containerauth contradict each other")
    keep_id = {"keep-id": True, "host": False}.get(kind)
    if _is_caller(user, by_name=host_accounts) or (host_accounts and not user):
        keep_id, user = True, ""
    elif user:
        keep_id = None
    entry = values.last("passwd_entry") or None
    if entry is not None and ("\n" in entry or entry.count(":") != 6):
        raise UsageError(f"--passwd-entry {entry!r} is not a line of passwd: seven fields")
    notes.extend(_groups(values.all("group_add")))
    return {
        "user": user or None,
        "keep_id": keep_id,
        "many_ids": kind == "auto",
        "host_accounts": host_accounts,
        "add_account": values.flag("passwd", default=True) and not values.flag("containerauth"),
        "account_line": entry,
    }


def _is_caller(user: str, *, by_name: bool) -> bool:
    """Tell whether a user is the caller: every engine can run a program as that one."""
    if user == f"{os.geteuid()}:{os.getegid()}":
        return True
    if not by_name or not user:
        return False
    import pwd

    try:
        return user in (str(os.geteuid()), pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:  # some clusters' compute nodes know no names
        return user == str(os.geteuid())


def _userns(text: str | None) -> tuple[str, str | None]:
    """Return the kind of the user namespace, and podman's `keep-id:uid=U,gid=G` as a user."""
    kind, _, options = (text or "").partition(":")
    if kind not in ("", "host", "private", "keep-id", "auto"):
        raise UsageError(f"--userns {text!r} is not known", hint="keep-id, auto or host")
    if not options:
        return kind, None
    ids = dict(option.partition("=")[::2] for option in options.split(","))
    known = kind == "keep-id" and set(ids) <= {"uid", "gid"}
    if not known or not all(number.isascii() and number.isdigit() for number in ids.values()):
        raise UsageError(f"--userns {text!r} is not known", hint="keep-id:uid=U,gid=G")
    return "", f"{ids.get('uid', os.geteuid())}:{ids.get('gid', os.getegid())}"


def _groups(given: tuple[str, ...]) -> list[str]:
    """Return what to tell of groups that the caller is not in: nobody can be given more rights."""
    others = [group for group in given if group != "keep-groups" and not _is_callers(group)]
    if not others:
        return []
    names = ", ".join(others)
    return [f"--group-add {names}: no effect: the caller's own groups are kept, no others had"]


def _is_callers(group: str) -> bool:
    if group.isascii() and group.isdigit():
        return int(group) in (os.getegid(), *os.getgroups())
    import grp

    try:
        return grp.getgrnam(group).gr_gid in (os.getegid(), *os.getgroups())
    except KeyError:
        return False
