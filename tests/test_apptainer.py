"""Apptainer and Singularity."""

import os
import shutil

import pytest
from enginecases import EngineCases
from straight import Straight
from unprivileged import Unprivileged

from udocker.containers.spec import (
    Bind,
    ContainerEdits,
    DeviceNode,
    Process,
    Rootfs,
    RuntimeSpec,
    User,
)
from udocker.engines.apptainer import ApptainerEngine, SingularityEngine
from udocker.errors import StartError
from udocker.host.probe import Host
from udocker.values import replace

HERE = shutil.which("apptainer") is not None


@pytest.fixture(scope="module")
def engine(account):
    user = Unprivileged(account)
    yield Straight(user, "apptainer", "S1")
    user.close()


class TestApptainer(EngineCases):
    """Where there is one, it does what every engine does; Debian has none to test with."""

    __test__ = HERE


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A run, where a file that can be executed stands for Apptainer."""
    (tmp_path / "root/etc").mkdir(parents=True)
    for name in ("apptainer", "singularity"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    env = (("PATH", "/bin"), ("A", "it's"), ("HOME", "/root"))
    process = Process(("echo", "--", "a b"), env, "/srv", User(0, 0, "root", "/root"))
    root = Rootfs(str(tmp_path / "root"), flat=True)
    return RuntimeSpec(root, process, scratch=f"{tmp_path}/scratch")


def plan(spec, make=ApptainerEngine):
    return make(os.path.dirname(spec.rootfs.tree)).plan(spec)


def test_the_command_says_all_of_a_run(spec):
    binds = (Bind("/usr", "/data"), Bind("/etc/hosts", "/etc/x,y", readonly=True))
    whole = replace(spec, edits=ContainerEdits(binds=binds), hostname="box", network="none")
    launch = plan(whole)
    text = " ".join(launch.argv)
    assert "--no-root --fake-root --" in text and "unshare -r" in text
    assert "--userns --no-privs --writable --net --network none --uts --hostname box" in text
    assert "--mount type=bind,source=/usr,destination=/data" in text
    assert '--mount type=bind,source=/etc/hosts,"destination=/etc/x,y",ro' in text
    assert launch.argv[-4:] == (spec.rootfs.tree, "echo", "--", "a b")
    assert ("APPTAINERENV_A", "it's") in launch.env
    assert "APPTAINERENV_HOME" not in dict(launch.env)


def test_mount_points_are_made_where_it_would_not_make_them(spec):
    os.symlink("/var/lib/x", f"{spec.rootfs.tree}/etc/link")
    binds = (Bind("/usr", "/etc/link/y"), Bind("/etc/hosts", "/etc/hosts"))
    launch = plan(replace(spec, edits=ContainerEdits(binds=binds)))
    root = spec.rootfs.tree
    assert f"{root}/var/lib/x/y" in launch.directories
    assert f"{root}/srv" in launch.directories
    assert (f"{root}/etc/hosts", "") in launch.files


def test_a_read_only_root_is_not_writable_and_the_callers_own_id_needs_no_fake(spec):
    assert "--writable" not in plan(replace(spec, readonly=True)).argv
    own = User(os.geteuid() or 1000, os.getegid(), "", "/")
    if os.geteuid():
        argv = plan(replace(spec, process=replace(spec.process, user=own))).argv
        assert argv[0].endswith("/apptainer") and "--no-privs" not in argv


def test_singularity_has_variables_of_its_own_name(spec):
    launch = plan(spec, SingularityEngine)
    assert ("SINGULARITYENV_A", "it's") in launch.env
    assert any(word.endswith("/singularity") for word in launch.argv)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pid": "private"}, "--pid private"),
        ({"kernel": "5.4"}, "--kernel"),
        ({"system_directories": False}, "--nosysdirs"),
        ({"edits": ContainerEdits(device_nodes=(DeviceNode("/dev/zero", "/dev/x"),))}, "--device"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(spec, change, said):
    with pytest.raises(StartError, match=said):
        plan(replace(spec, **change))


def test_another_user_than_root_and_the_caller_is_refused(spec):
    process = replace(spec.process, user=User(os.geteuid() + 1, 0, "", "/"))
    with pytest.raises(StartError, match="--user"):
        plan(replace(spec, process=process))


def test_its_own_last_words_are_the_obstacle(spec, tmp_path):
    script = "#!/bin/sh\nprintf '\\033[31mFATAL:  \\033[0m no luck\\n' >&2\nexit 255\n"
    (tmp_path / "apptainer").write_text(script)
    assert ApptainerEngine(str(tmp_path)).obstacle(Host()) == "FATAL:   no luck"


def test_what_is_not_installed_is_the_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(ApptainerEngine, "name", "no-such-program")
    assert "no-such-program is not installed" in ApptainerEngine(str(tmp_path)).obstacle(Host())
