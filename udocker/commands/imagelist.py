"""Images as lists show them: docker's fields of each, and docker's filters."""

from __future__ import annotations

import datetime
import fnmatch
import time

from udocker import console
from udocker.commands.moments import age, parse_moment
from udocker.errors import StoreError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from udocker.commands.stores import Stores
    from udocker.images.names import Listed

TITLES = {
    **{"Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "ID": "IMAGE ID"},
    **{"CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "Size": "SIZE"},
    **{"Platform": "PLATFORM", "Site": "SITE"},
}
"""What stands above the fields of `--format`, in docker's words."""
FILTERS = ("reference", "before", "since", "until", "label", "dangling")
_HUB, _OFFICIAL = "docker.io/", "docker.io/library/"
_NONE = "<none>"


def familiar(name: str) -> str:
    """Return a canonical name as short as docker shows it; it still means the same.

    Names of the store are known to be right: 10,000 of them are not parsed once more.
    """
    if name.startswith(_OFFICIAL) and "/" not in name[len(_OFFICIAL) :]:
        return name[len(_OFFICIAL) :]
    if name.startswith(_HUB):
        first = name[len(_HUB) :].partition("/")[0]
        host = "." in first or ":" in first or first == "localhost"
        return name if host else name[len(_HUB) :]
    return name


def split(name: str) -> tuple[str, str]:
    """Return repository and tag of a canonical name, as short as docker shows them."""
    above, slash, last = familiar(name).partition("@")[0].rpartition("/")
    last, _, tag = last.partition(":")
    return above + slash + last, tag or _NONE


def fields(image: Listed, *, whole: bool) -> dict[str, str]:
    """Return what docker's `--format` knows of an image; `whole` ids are not cut."""
    repository, tag = split(image.name)
    created = created_s(image)
    return {
        "Repository": repository,
        "Tag": tag,
        "ID": image.digest if whole else short_id(image),
        "Digest": image.source_digest or image.digest,
        "CreatedSince": since(created),
        "CreatedAt": _local(created),
        "Size": shown_size(image),
        "Platform": "/".join(map(str, image.platform.values())),
        "Site": image.site,
    }


def short_id(image: Listed) -> str:
    """Return twelve digits that tell images apart at a glance."""
    return image.digest.partition(":")[2][:12]


def shown_size(image: Listed) -> str:
    """Return what the image takes on the disk, for people."""
    return console.human_size(image.size_bytes) if image.size_bytes else "unknown"


def created_s(image: Listed) -> int | None:
    """Return when the image was made, in seconds since 1970; None: its config does not say."""
    text = image.created
    if text in _known:
        return _known[text]
    seconds = None
    try:
        fixed = [int(text[a:b]) for a, b in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))]
        then = datetime.datetime(
            fixed[0], fixed[1], fixed[2], fixed[3], fixed[4], min(fixed[5], 59)
        )
        seconds = (then - _EPOCH) // _SECOND
        zone = text[19:].lstrip(".0123456789")
        if zone[:1] in ("+", "-"):
            sign = -1 if zone[0] == "+" else 1
            seconds += sign * (int(zone[1:3]) * 3600 + int(zone[4:6] or 0) * 60)
    except ValueError:
        pass
    _known[text] = seconds
    return seconds


_known: dict[str, int | None] = {}
"""Many images of a list were made at the same moment."""
_EPOCH = datetime.datetime(1970, 1, 1)
_SECOND = datetime.timedelta(seconds=1)


def since(created: int | None) -> str:
    """Return how long ago that is, as docker says it."""
    return "N/A" if created is None else f"{age(max(0, time.time() - created))} ago"


def _local(created: int | None) -> str:
    if created is None:
        return "N/A"
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created))


class Filters:
    """What `--filter` says. Of one key any value will do, of several keys all must hold."""

    def __init__(self, stores: Stores, texts: Iterable[str], patterns: Iterable[str] = ()) -> None:
        """`patterns` are names, as of the filter `reference`. Raises UsageError, ImageNotFound."""
        self._stores = stores
        self._wanted: dict[str, list[str]] = {}
        for text in (*texts, *(f"reference={pattern}" for pattern in patterns)):
            key, equals, value = text.partition("=")
            if key not in FILTERS or not equals:
                known = ", ".join(FILTERS)
                raise UsageError(f"--filter {text!r} is not known", hint=f"one of: {known}")
            self._wanted.setdefault(key, []).append(value)
        self._before = [self._moment(name) for name in self._wanted.get("before", ())]
        self._before += [_until(text) for text in self._wanted.get("until", ())]
        self._since = [self._moment(name) for name in self._wanted.get("since", ())]
        for value in self._wanted.get("dangling", ()):
            if value.lower() not in ("true", "false", "1", "0"):
                raise UsageError(f"--filter dangling={value!r} is not true or false")

    def take(self, image: Listed) -> bool:
        """Tell whether the image is wanted."""
        if not self._wanted:
            return True
        created = created_s(image) or 0
        return (
            all(created < moment for moment in self._before)
            and all(created > moment for moment in self._since)
            and self._takes_name(image.name)
            and self._takes_labels(image)
            and not any(text.lower() in ("true", "1") for text in self._wanted.get("dangling", ()))
        )

    def _takes_name(self, name: str) -> bool:
        patterns = self._wanted.get("reference")
        return patterns is None or any(matches(pattern, name) for pattern in patterns)

    def _takes_labels(self, image: Listed) -> bool:
        if "label" not in self._wanted:
            return True
        try:
            found = self._stores.get_image(image.name)
            labels = dict(self._stores.images.read_config(found).labels)
        except StoreError:
            return False
        pairs = (text.partition("=") for text in self._wanted["label"])
        return all(
            key in labels and (not equals or labels[key] == value) for key, equals, value in pairs
        )

    def _moment(self, name: str) -> int:
        found = self._stores.get_image(name).name
        listed = (image for image in self._stores.images.listed() if image.name == found)
        return next((created_s(image) or 0 for image in listed), 0)


def _until(text: str) -> int:
    stamp = parse_moment(text, "--filter until=")
    then = datetime.datetime.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")
    return (then - _EPOCH) // _SECOND


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern (`*` and `?` match no `/`) is that of a name, with its tag or without.

    Source: distribution/reference, `FamiliarMatch`.
    """
    repository, tag = split(name)
    forms = (repository, f"{repository}:{tag}", name, name.partition("@")[0])
    long = name.partition("@")[0].rpartition(":")[0]
    return any(_like(form, pattern) for form in (*forms, long))


def _like(text: str, pattern: str) -> bool:
    parts, wanted = text.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
