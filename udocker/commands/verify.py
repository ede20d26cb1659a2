"""`udocker verify`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands import reaching
from udocker.commands.stores import Stores
from udocker.errors import StoreError, UdockerError, UsageError
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from udocker.images.store import Image
    from udocker.transfer.repair import Repairer
    from udocker.transfer.verify import Fault, Verifier
    from udocker.trust.keys import PublicKey


@click.command()
@click.option("--deep", is_flag=True, help="Compare the content of every unpacked file, too.")
@click.option("--repair", is_flag=True, help="Bring again what is missing or damaged.")
@click.option(
    "--key", "key_files", metavar="FILE", multiple=True, help="Signed by this cosign key."
)
@click.option("-q", "--quiet", is_flag=True, help="Print faults only.")
@reaching.options
@click.argument("names", nargs=-1, metavar="[IMAGE...]")
@click.pass_obj
def command(
    settings: Settings,
    /,
    deep: bool,
    repair: bool,
    key_files: tuple[str, ...],
    quiet: bool,
    names: tuple[str, ...],
    **how: Any,
) -> int:
    """Check that images are here as they were pulled; all of them where none is named.

    Every layer is read and compared with its digests, and the unpacked tree with the layers. With
    --key, images also have to be signed with one of these public keys, and may be ones that are
    not here. The exit code is 0 when all is right.
    """
    from udocker.trust.keys import load_file
    from udocker.values import replace

    settings = reaching.applied(replace(settings, quiet=settings.quiet or quiet), **how)
    if key_files and not names:
        raise UsageError("--key needs the names of images", hint="udocker verify --key FILE IMAGE")
    keys = [load_file(path) for path in key_files]
    verification = _Verification(settings, keys, deep=deep, repair=repair)
    return verification.run(names)


class _Verification:
    def __init__(
        self, settings: Settings, keys: Sequence[PublicKey], *, deep: bool, repair: bool
    ) -> None:
        from udocker.transfer.repair import Repairer
        from udocker.transfer.verify import Verifier

        self._settings = settings
        self._stores = Stores(settings)
        self._keys = keys
        self._wants_repair = repair
        self._verifier: Verifier = Verifier(settings, self._stores.images, deep=deep)
        self._repairer: Repairer = Repairer(settings, self._stores.images, self._verifier)
        self._failed = False

    def run(self, names: Sequence[str]) -> int:
        store = self._stores.images
        store.prepare()
        content = store.using()
        try:
            self._check_listing()
            if names:
                for name in names:
                    self._named(name)
            else:
                for image in store.images():
                    self._attempt(image.name, image)
                self._check_strays()
            if self._wants_repair:
                store.remove_set_aside(self._stores.is_tree_in_use)
        finally:
            content.release()
        return 1 if self._failed else 0

    def _check_listing(self) -> None:
        from udocker.images import listing

        store = self._stores.images
        broken = listing.broken_names(store)
        found = [f"{path} is broken: {why}" for path, why in broken.items()]
        found += listing.layout_faults(store)
        for fault in found:
            console.put(fault)
        if found and self._wants_repair:
            for done in listing.mend(store):
                console.put(done)
        elif found:
            self._failed = True

    def _check_strays(self) -> None:
        from udocker.transfer.strays import Strays

        strays = Strays(self._settings, self._stores.images)
        for digest in strays.damaged():
            console.put(f"blob {digest} is damaged; no image needs it")
            if self._wants_repair:
                strays.throw_away(digest)
                console.put(f"blob {digest}: thrown away")
            else:
                self._failed = True

    def _named(self, name: str) -> None:
        try:
            image = self._stores.find_image(name)
        except UdockerError as error:
            self._fail(name, error)
            return
        if image is None and not self._keys:
            self._fail(name, StoreError(f"no image {name!r} here", hint=f"udocker pull {name}"))
            return
        self._attempt(name, image)

    def _attempt(self, name: str, image: Image | None) -> None:
        try:
            if self._keys:
                self._check_signature(name, image)
            if image:
                self._check_content(name, image)
        except UdockerError as error:
            self._fail(name, error)

    def _check_signature(self, name: str, image: Image | None) -> None:
        from udocker.transfer.signatures import find_signature

        store = self._stores.images
        signature, key = find_signature(self._settings, store, self._keys, image or name)
        claimed = f" as {signature.reference}" if signature.reference else ""
        self._tell(f"{name}: signed with {key.name}{claimed}")

    def _check_content(self, name: str, image: Image) -> None:
        faults = self._verifier.faults(image)
        for fault in faults:
            console.put(f"{name}: {fault.text}")
        if faults and self._wants_repair:
            faults = self._repair(name, image, faults)
        if faults:
            self._failed = True
        else:
            self._tell(f"{name}: ok")

    def _repair(self, name: str, image: Image, faults: Sequence[Fault]) -> tuple[Fault, ...]:
        left = self._repairer.repair(image, faults)
        for fault in left:
            console.put(f"{name}: not repaired: {fault.text}")
        if left:
            console.say(f"  nothing was thrown away; udocker rmi {name} does so")
        else:
            console.put(f"{name}: repaired")
        return left

    def _tell(self, text: str) -> None:
        if not self._settings.quiet:
            console.put(text)

    def _fail(self, name: str, error: UdockerError) -> None:
        self._failed = True
        console.put(f"{name}: {error.message}")
        if error.hint:
            console.say(f"  {error.hint}")
