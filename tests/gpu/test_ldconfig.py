"""ldconfig in a container, where a library cache of ours shows in the place of the image's own."""

from __future__ import annotations

import os

import pytest

from gpu import drivertree
from udocker.containers.spec import Bind, ContainerEdits, Process, Rootfs, RuntimeSpec, User
from udocker.engines.proot import ProotEngine
from udocker.host import ldcache
from udocker.host.root import Root
from udocker.nvidia import ldconfig

SHELL = {"bin/sh": "a shell"}
UBUNTU = {"usr/sbin/ldconfig": "#!/bin/sh", "usr/sbin/ldconfig.real": "a program"}


@pytest.mark.parametrize(
    ("files", "links", "found"),
    [
        ({**SHELL, "sbin/ldconfig": "a program"}, {}, "/sbin/ldconfig"),
        ({**SHELL, "usr/sbin/ldconfig": "a program"}, {"sbin": "usr/sbin"}, "/usr/sbin/ldconfig"),
        ({**SHELL, **UBUNTU}, {"sbin": "usr/sbin"}, "/usr/sbin/ldconfig.real"),
        ({"sbin/ldconfig": "a program"}, {}, ""),
        (SHELL, {}, ""),
        (SHELL, {"sbin/ldconfig": "../../../../../../../bin/true"}, ""),
    ],
)
def test_the_images_ldconfig_is_told_to_leave_the_cache_alone(tmp_path, files, links, found):
    tree = str(tmp_path / "tree")
    for path, content in files.items():
        drivertree.write(tree, path, content)
    for path, target in links.items():
        drivertree.link(tree, path, target)
    made = ldconfig.binds(Root(tree), str(tmp_path / "kept"))
    assert [bind.destination for bind in made] == ["/run/udocker/ldconfig", found] * bool(found)
    if made:
        real, script = made
        assert real.source == tree + found and real.readonly and script.readonly
        assert os.access(script.source, os.X_OK)
        with open(script.source, encoding="utf-8") as file:
            assert file.read() == '#!/bin/sh\nexec /run/udocker/ldconfig -N "$@"\n'


def test_under_proot_ldconfig_writes_to_a_copy_and_finds_the_driver(tmp_path):
    """PRoot knows nothing of read-only files, and the kept cache is that of all containers."""
    drivertree.write(str(tmp_path), "kept.cache", b"\0cache")
    os.makedirs(tmp_path / "tree/etc/ld.so.conf.d")
    edits = ContainerEdits(
        binds=(Bind(f"{tmp_path}/kept.cache", ldcache.PATH, readonly=True),),
        library_dirs=("/run/udocker/gpu/lib",),
    )
    user = User(os.geteuid(), os.getegid(), "", "/")
    process = Process(("/bin/sh",), (), "/", user)
    root = Rootfs(f"{tmp_path}/tree", flat=True)
    spec = RuntimeSpec(root, process, edits=edits, scratch=f"{tmp_path}/scratch")
    launch = ProotEngine(str(tmp_path)).plan(spec)
    assert launch.copies == ((f"{tmp_path}/kept.cache", f"{tmp_path}/scratch/copy0"),)
    assert f"cp {tmp_path}/kept.cache {tmp_path}/scratch/copy0" in str(launch)
    assert any("scratch/copy0:/etc/ld.so.cache" in word for word in launch.argv)
    listed = f"{tmp_path}/tree/etc/ld.so.conf.d/00-udocker.conf"
    assert (listed, "/run/udocker/gpu/lib\n") in launch.files
    drivertree.write(
        f"{tmp_path}/tree", "etc/ld.so.conf.d/00-udocker.conf", dict(launch.files)[listed]
    )
    assert listed not in dict(ProotEngine(str(tmp_path)).plan(spec).files)
