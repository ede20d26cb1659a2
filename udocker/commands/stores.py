"""Images and containers together, as commands need them."""

from __future__ import annotations

import os

from udocker import console, trees
from udocker.containers.store import ContainerStore
from udocker.errors import DiskFull, ImageNotFound, InvalidReference, RegistryError, StoreError
from udocker.images.store import ImageStore
from udocker.oci import ImageConfig, Platform
from udocker.reference import HUB, Reference, registry_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.images.collection import Freed
    from udocker.images.store import Image
    from udocker.settings import Settings


class Stores:
    """The user's images and containers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = f"{settings.directory}/cache"
        self.images = ImageStore(settings.directory, settings.site_stores)
        self.images.take_over_old()
        self.containers = ContainerStore(settings.directory, self.images.trees, self._remove_tree)

    def _remove_tree(self, path: str) -> None:
        try:
            trees.remove_tree(path)
        except StoreError as error:
            from udocker.engines import subids

            subids.remove_refused(path, self.settings.directory, error)

    def reference(self, name: str) -> Reference:
        """Return what an image name means with the registry that the user has set, docker.io if
        none. What files say of names without a host is for `pull` to find out."""
        chosen = self.settings.registry
        return Reference.parse(name, registry_of(chosen) if chosen else HUB)

    def find_image(self, name: str) -> Image | None:
        """Return the image of that name, or whose id begins so."""
        try:
            found = self.images.find(self.reference(name))
        except InvalidReference:
            found = self.images.find_id(name)
            if found is None:
                raise
        return found or self.images.find_id(name) or self._find_by_meaning(name)

    def _find_by_meaning(self, name: str) -> Image | None:
        """Return the image that a name without a host means by the user's registries.conf."""
        from udocker.registry.shortnames import meanings

        found = (self.images.find(reference) for reference in meanings(name, self.settings))
        return next(filter(None, found), None)

    def get_image(self, name: str) -> Image:
        """Return what `find_image` finds. Raises ImageNotFound when that is nothing."""
        image = self.find_image(name)
        if image is None:
            raise ImageNotFound(f"no image {name!r} here", hint=f"udocker pull {name}")
        return image

    def get_other(self, name: str) -> Image:
        """Return the image that a name means which no container has. Raises ImageNotFound."""
        try:
            return self.get_image(name)
        except ImageNotFound:
            hint = "udocker ps lists containers, udocker images lists images"
            raise ImageNotFound(f"no container or image {name!r} here", hint=hint) from None

    def image_for(self, name: str, pull: str, platform: str | None) -> Image:
        """Return the image of that name, pulled where `pull` (podman's words) wants it.

        `newer` is content with the image that is here when the registry cannot be asked.
        """
        here = self._usable(self.find_image(name), platform)
        if here and pull in ("missing", "never", "reuse"):
            return here
        if pull == "never":
            what = f"{name!r} for {platform}" if platform else repr(name)
            raise ImageNotFound(f"no image {what} here, and --pull=never", hint="udocker images")
        try:
            return self.pull(name, platform)
        except RegistryError as error:
            if here is None or pull != "newer":
                raise
            console.warn(f"using {name} as it is here: {error.message}")
            return here

    def pull(self, name: str, platform: str | None = None) -> Image:
        """Return the image of that name as its registry has it now.

        Of several registries that the user lets be searched, the first one that has it counts.
        """
        from udocker.registry.shortnames import meanings
        from udocker.transfer.pull import pull

        *others, last = meanings(name, self.settings)
        told = ""
        for reference in others:
            try:
                return pull(self.settings, self.images, reference, platform)
            except (ImageNotFound, RegistryError) as error:
                told += f"; {error.message}"
        try:
            return pull(self.settings, self.images, last, platform)
        except (ImageNotFound, RegistryError) as error:
            error.message += told
            raise

    def _usable(self, image: Image | None, platform: str | None) -> Image | None:
        """Return the image if it is whole and for the platform that was asked for, if any."""
        if image is None or not self.images.is_ready(image):
            return None
        if platform is None:
            return image
        has = image.manifest.platform
        return image if has and Platform.parse(platform).runs(has, strict=True) else None

    def plan_container(
        self, name: str, request: RunRequest, options: list[str], command: list[str]
    ) -> Container:
        """Return a container of the image `name`, which is pulled if it has to be, or of the
        directory that the request names in its place."""
        if request.location:
            return self.containers.plan_directory(
                request.location,
                options=tuple(options),
                command=tuple(command),
                ephemeral=request.remove,
            )
        image = self.image_for(name, request.pull, request.platform)
        self._tell_platform(image)
        return self.containers.plan(
            image,
            self.images.read_manifest(image).config.digest,
            options=tuple(options),
            command=tuple(command),
            ephemeral=request.remove,
        )

    def _tell_platform(self, image: Image) -> None:
        """Say that the image's programs need an emulator that is not there, if so."""
        has, here = image.manifest.platform, Platform.of_machine(os.uname().machine)
        if has is None or here.runs(has) or self.settings.quiet:
            return
        from udocker.host import emulation
        from udocker.host.probe import Host

        if has.os != here.os:
            obstacle: str | None = f"its programs are not for {here.os}"
        elif has.architecture == here.architecture:
            obstacle = "its programs may use instructions that this processor has not"
        else:
            obstacle = emulation.obstacle(Host(), has.architecture)
        if obstacle:
            console.warn(f"{image.name} is an image for {has}, this machine is {here}: {obstacle}")

    def config_of(self, container: Container) -> ImageConfig:
        """Return the config of the image that `container` was made from; of none, an empty one."""
        if container.location:
            return ImageConfig(Platform.of_machine(os.uname().machine), ())
        return self.images.config(container.config)

    def remove_names(self, name: str, *, force: bool) -> None:
        """Take a name away from its image, or with `force` all names of the image of that id.

        Raises ImageNotFound; StoreError while containers are made of it, unless forced. Its
        content stays until `collect`.
        """
        images = self._named(name)
        if (
            len({image.name.partition("@")[0].rpartition(":")[0] for image in images}) > 1
            and not force
        ):
            names = ", ".join(image.name for image in images)
            hint = "name one of them, or all with -f"
            raise StoreError(f"image {name} has several names: {names}", hint=hint)
        for image in images:
            self._check_unused(image, force=force)
        for image in images:
            self.images.remove(image)

    def _named(self, name: str) -> tuple[Image, ...]:
        image = self.get_image(name)
        by_id = () if self._means(name, image) else self.images.images_of(name)
        return by_id or (image,)

    def _means(self, name: str, image: Image) -> bool:
        """Tell whether that is a name of the image and not the beginning of its id."""
        try:
            return self.images.find(self.reference(name)) == image
        except InvalidReference:
            return False

    def _check_unused(self, image: Image, *, force: bool) -> None:
        users = [c for c in self.containers.containers() if c.manifest == image.manifest.digest]
        if users and not force and len(self.images.images_of(image.manifest.digest.hex)) < 2:
            ids = ", ".join(c.id[:12] for c in users)
            raise StoreError(f"image {image.name} has containers: {ids}", hint="udocker rm, or -f")

    def collect(self) -> Freed:
        """Throw away content that neither images nor containers need."""
        from udocker.images.collection import collect
        from udocker.trust.kept import KeptSignatures

        images = self.images.images()
        digests = [digest for image in images for digest in self.images.digests(image)]
        KeptSignatures(self.settings.directory).forget_all_but(digests)
        try:
            self.images.write_index()
        except DiskFull:  # there will be room when some is gone
            freed = collect(self.images, self.kept)
            self.images.write_index()
            return freed
        return collect(self.images, self.kept)

    def protect(self, name: str, *, wanted: bool) -> None:
        """Let nobody remove the container or else the image of that name, or let them again."""
        container = self.containers.find(name)
        if container:
            self.containers.protect(container, wanted=wanted)
        else:
            self.images.protect(self.get_other(name), wanted=wanted)

    def is_tree_in_use(self, tree: str) -> bool:
        """Tell whether a container of that tree runs, here or, for all we know, elsewhere."""
        from udocker.containers.state import UNKNOWN, condition_of

        broken: list[StoreError] = []
        users = [c for c in self.containers.containers(broken.append) if c.tree == tree]
        conditions = (condition_of(self.containers, user) for user in users)
        running = any(found.is_running or found.status == UNKNOWN for found in conditions)
        return running or bool(broken)  # of a broken one nobody knows which tree it has

    def release(self, container: Container) -> None:
        """Throw away what a removed container needed of an image that was removed before."""
        own = container.tree.startswith(f"{self.images.trees}/")
        if not own or any(i.tree == container.tree for i in self.images.images()):
            return
        try:
            self.collect()
        except StoreError:  # a broken container, which may need any of it
            return

    def kept(self) -> frozenset[str]:
        """Return the digests, as hex, of what containers need of their images."""
        containers = self.containers.containers()
        trees = (container.tree.rpartition("/")[2] for container in containers)
        return frozenset((*trees, *(container.config.hex for container in containers)))
