"""Images and containers together, as commands need them."""

from __future__ import annotations

import os

from udocker import console, trees
from udocker.containers.store import ContainerStore
from udocker.errors import ImageNotFound, InvalidReference, RegistryError, StoreError
from udocker.images.store import ImageStore
from udocker.oci import ImageConfig, Platform
from udocker.reference import HUB, Reference, registry_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.images.store import Image
    from udocker.settings import Settings


class Stores:
    """The user's images and containers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = f"{settings.directory}/cache"
        self.images = ImageStore(settings.directory)
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
            raise ImageNotFound(f"no image {name!r} here, and --pull=never", hint="udocker images")
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
        if image is None or not os.path.isdir(image.tree):
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
        return self.containers.plan(
            image,
            self.images.read_manifest(image).config.digest,
            options=tuple(options),
            command=tuple(command),
            ephemeral=request.remove,
        )

    def config_of(self, container: Container) -> ImageConfig:
        """Return the config of the image that `container` was made from; of none, an empty one."""
        if container.location:
            return ImageConfig(Platform.of_machine(os.uname().machine), ())
        return self.images.config(container.config)

    def images_to_remove(self, name: str, *, force: bool) -> tuple[Image, ...]:
        """Return the image of that name; by an id, under all its names, if `force` wants that.

        Raises ImageNotFound; StoreError for an id that stands for several names.
        """
        image = self.get_image(name)
        everywhere = self._under_all_names(image)
        if len(everywhere) == 1 or not image.manifest.digest.hex.startswith(name):
            return (image,)
        if not force:
            names = ", ".join(other.name for other in everywhere)
            raise StoreError(f"image {name} has several names: {names}", hint="name one, or -f")
        return everywhere

    def _under_all_names(self, image: Image) -> tuple[Image, ...]:
        digest = image.manifest.digest
        return tuple(other for other in self.images.images() if other.manifest.digest == digest)

    def remove_image(self, image: Image, *, force: bool) -> None:
        """Take an image's name away; with its last name it is removed.

        Raises StoreError for the last one while containers are made of it, unless forced.
        """
        users = [c for c in self.containers.containers() if c.manifest == image.manifest.digest]
        if users and not force and len(self._under_all_names(image)) == 1:
            ids = ", ".join(c.id[:12] for c in users)
            raise StoreError(f"image {image.name} has containers: {ids}", hint="udocker rm, or -f")
        self.images.remove(image, self._kept())

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

        users = (c for c in self.containers.containers(broken=lambda _: None) if c.tree == tree)
        conditions = (condition_of(self.containers, user) for user in users)
        return any(found.is_running or found.status == UNKNOWN for found in conditions)

    def release(self, container: Container) -> None:
        """Throw away what a removed container needed of an image that was removed before."""
        if container.location or any(i.tree == container.tree for i in self.images.images()):
            return
        try:
            kept = self._kept()
        except StoreError:  # a broken container, which may need any of it
            return
        self.images.collect_garbage(kept)

    def _kept(self) -> frozenset[str]:
        """Return the digests, as hex, of what containers need of their images."""
        containers = self.containers.containers()
        trees = (container.tree.rpartition("/")[2] for container in containers)
        return frozenset((*trees, *(container.config.hex for container in containers)))
