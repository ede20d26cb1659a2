"""Stores of a site, which users only read: found before a pull, run from, never written to."""

import json
import os
import stat
import subprocess

import pytest
from images import add_image
from registries import Layout, Proxy, needs
from tarballs import archive, file, folder
from unprivileged import remove_tree

SECRET = archive(
    folder("etc"),
    file("etc/shadow", b"x\n", mode=0o600),
    file("etc/su", b"#!/bin/sh\n", mode=0o4755),
    folder("tmp", mode=0o1777),
    folder("root", mode=0o700),
    file("root/f", b"x", mode=0o640),
)


def as_admin(site, checkout, *words, check=True):
    """Run udocker as the user of the suite, who looks after the site's store."""
    import sys

    env = {**os.environ, "PYTHONPATH": checkout, "HOME": os.path.dirname(site)}
    env.pop("UDOCKER_DIR", None)
    command = [sys.executable, "-m", "udocker", "--allow-root", *words]
    return subprocess.run(command, env=env, check=check, capture_output=True, text=True, umask=0o77)


@pytest.fixture
def site(unprivileged, docker_registry, busybox_reference, tmp_path_factory, public_directory):
    """A store for all, of another account than the user's where the suite runs as root."""
    path = f"{public_directory}/site-{os.path.basename(unprivileged.home)}"
    os.mkdir(path, 0o755)
    store = f"{path}/store"
    as_admin(store, unprivileged.checkout, "mkrepo", "--shared", store)
    as_admin(store, unprivileged.checkout, f"--repo={store}", "pull", busybox_reference)
    layout = Layout(f"{path}/layout")
    add_image(layout, "secret:1", [SECRET])
    docker_registry.push(layout, "secret:1", f"{own_repository(unprivileged)}:1")
    yield store
    remove_tree(path)


def own_repository(user):
    """Return a repository that no other test uses; names of directories may end in `_`."""
    return "".join(filter(str.isalnum, os.path.basename(user.home))).lower()


def state(path):
    """Return what is in a store, by names, sizes and times."""
    return {
        os.path.join(directory, name): os.lstat(os.path.join(directory, name)).st_mtime_ns
        for directory, folders, files in os.walk(path)
        for name in (*folders, *files)
    }


def test_an_image_of_the_site_is_listed_run_and_never_written_to(
    unprivileged, site, busybox_reference
):
    user, env = unprivileged, {"UDOCKER_SITE_STORES": f"/nowhere:{site}"}
    before = state(site)
    (line,) = user.udocker("images", env=env).stdout.splitlines()[1:]
    assert line.endswith(f"  {site}")
    assert user.udocker("images", "-q").stdout == ""
    say = ["run", "--rm", "--pull=never", busybox_reference, "cat", "/etc/greeting"]
    assert user.udocker(*say, env=env).stdout == "hello\n"
    kept = user.udocker("create", "--name=c", busybox_reference, "cat", "/new", env=env)
    assert kept.returncode == 0
    write = ["run", "--name=d", busybox_reference, "sh", "-c", "echo 1 >/tmp/new; cat /tmp/new"]
    assert user.udocker(*write, env=env).stdout == "1\n"
    assert user.udocker("start", "-a", "d", env=env, check=False).stdout in ("1\n", "")
    assert json.loads(user.udocker("inspect", busybox_reference, env=env).stdout)["os"] == "linux"
    user.udocker("verify", busybox_reference, env=env)
    user.udocker("save", "-o", f"{user.home}/saved.tar", busybox_reference, env=env)
    user.udocker("rm", "c", "d", env=env)
    user.udocker("prune", "-af", env=env)
    assert state(site) == before
    assert not os.path.exists(f"{user.udocker_dir}/trees") or not os.listdir(
        f"{user.udocker_dir}/trees"
    )


def test_an_image_of_the_site_is_not_the_users_to_remove(unprivileged, site, busybox_reference):
    env = {"UDOCKER_SITE_STORES": site}
    done = unprivileged.udocker("rmi", "-f", busybox_reference, env=env, check=False)
    assert done.returncode == 1
    assert f"in the store {site}" in done.stderr
    done = unprivileged.udocker("tag", busybox_reference, "mine", env=env, check=False)
    assert (done.returncode, site in done.stderr) == (1, True)


def test_a_pull_takes_blobs_from_the_site_and_knows_what_is_up_to_date(
    unprivileged, site, busybox_reference
):
    env = {"UDOCKER_SITE_STORES": site}
    assert "up to date" in unprivileged.udocker("pull", busybox_reference, env=env).stderr
    host, _, rest = busybox_reference.partition("/")
    with Proxy(host) as proxy:
        name = f"{proxy.host}/{rest}"
        unprivileged.udocker("pull", name, env=env)
        assert [asked.path for asked in proxy.asked if "/blobs/" in asked.path] == []
    assert unprivileged.udocker("verify", name).stdout.endswith(": ok\n")
    assert unprivileged.udocker("run", name, "cat", "/etc/greeting").stdout == "hello\n"


def test_a_container_of_an_image_of_the_site_is_committed_with_its_layers(
    unprivileged, site, busybox_reference
):
    user, env = unprivileged, {"UDOCKER_SITE_STORES": site}
    user.udocker("run", "--name=c", busybox_reference, "touch", "/new", env=env)
    assert "one layer" not in user.udocker("commit", "c", "own:1", env=env).stderr
    saved = f"{user.home}/saved"
    user.udocker("save", "--format=oci-dir", "-o", saved, "own:1")  # all of it is here
    with open(f"{saved}/index.json") as index:
        (entry,) = json.load(index)["manifests"]
    with open(f"{saved}/blobs/{entry['digest'].replace(':', '/')}") as manifest:
        assert len(json.load(manifest)["layers"]) == 3
    assert user.udocker("verify", "--deep", "own:1").returncode == 0


def test_a_damaged_blob_of_the_site_is_brought_from_the_registry(
    unprivileged, site, busybox_reference
):
    blobs = f"{site}/images/blobs/sha256"
    for name in os.listdir(blobs):
        os.chmod(f"{blobs}/{name}", 0o644)
        os.truncate(f"{blobs}/{name}", 20)
    env = {"UDOCKER_SITE_STORES": site}
    unprivileged.udocker("pull", "-q", busybox_reference, env=env)
    assert unprivileged.udocker("verify", busybox_reference).returncode == 0


def test_what_is_in_a_store_for_all_can_be_read_by_all_and_harms_nobody(
    unprivileged, site, docker_registry
):
    name = f"{docker_registry.host}/{own_repository(unprivileged)}:1"
    as_admin(site, unprivileged.checkout, f"--repo={site}", "pull", "-q", name)
    tree = as_admin(site, unprivileged.checkout, f"--repo={site}", "inspect", "-p", name)
    tree = tree.stdout.strip()
    modes = {
        path: stat.S_IMODE(os.stat(f"{tree}/{path}").st_mode)
        for path in ("etc/shadow", "etc/su", "tmp", "root", "root/f")
    }
    assert modes["etc/shadow"] & 0o444 == modes["root/f"] & 0o444 == 0o444
    assert modes["root"] & 0o055 == 0o055
    assert not any(mode & 0o6022 for mode in modes.values())
    if unprivileged.uid != os.getuid():
        unprivileged.run(["cat", f"{tree}/etc/shadow", f"{tree}/root/f"])
        done = unprivileged.run(["touch", f"{tree}/tmp/x"], check=False)
        assert done.returncode == 1


def test_a_site_store_that_cannot_be_read_is_told_and_is_no_obstacle(unprivileged, site):
    needs("true")
    os.chmod(f"{site}/names", 0)
    env = {"UDOCKER_SITE_STORES": site}
    done = unprivileged.udocker("images", env=env)
    if os.getuid() != unprivileged.uid:
        assert "Permission denied" in done.stderr
    os.chmod(f"{site}/names", 0o755)
    done = unprivileged.udocker("images", env={"UDOCKER_SITE_STORES": "here"}, check=False)
    assert (done.returncode, "absolute" in done.stderr) == (2, True)


def test_two_users_use_one_store_at_once(unprivileged, site, docker_registry, busybox_reference):
    """The one who looks after it pulls and prunes, the other runs what it has and pulls too."""
    env = {"UDOCKER_SITE_STORES": site}
    run = ["-m", "udocker", "run", "--rm", busybox_reference, "cat", "/etc/greeting"]
    other = f"{docker_registry.host}/{own_repository(unprivileged)}:1"
    words = [run, run, ["-m", "udocker", "pull", "-q", other], run]
    running = [
        unprivileged.popen([unprivileged.python, *one], env=env, stdout=subprocess.PIPE, text=True)
        for one in words
    ]
    as_admin(site, unprivileged.checkout, f"--repo={site}", "pull", "-q", other)
    as_admin(site, unprivileged.checkout, f"--repo={site}", "prune", "-f")
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0, 0]
    assert said[0] == said[1] == said[3] == "hello\n"
    assert unprivileged.udocker("verify", other, env=env).returncode == 0
