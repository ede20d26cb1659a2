"""Files copied into containers and out of them, by docker's rules, with hostile links in them."""

import io
import os
import tarfile
import time

import pytest
from unprivileged import Unprivileged

from udocker.registry.loopback import LoopbackRegistry

PREPARED = """
mkdir /d /to; echo one > /d/one; ln -s one /d/link; mkdir /d/sub; echo two > /d/sub/two
rm -r /root; ln -s /to /alias; ln -s nowhere /dangling; chmod 555 /to
"""


@pytest.fixture(scope="module")
def session(account, busybox_image):
    user = Unprivileged(account)
    with LoopbackRegistry(busybox_image.path) as address:
        user.image = f"{address}/library/{busybox_image.reference}"
        user.udocker("run", "--name=base", user.image, "sh", "-c", PREPARED)
        user.udocker("clone", "--name=flatbase", "base")
        user.udocker("run", "--engine=N1", "flatbase", "true")
        yield user
    user.close()


@pytest.fixture(params=["base", "flatbase"])
def user(session, request):
    """A user with a container `c`, overlay or own copy, and the directory `work`."""
    session.udocker("clone", "--name=c", request.param)
    session.work = f"{session.home}/work"
    os.makedirs(f"{session.work}/src/sub")
    write(f"{session.work}/src/f", "f\n")
    write(f"{session.work}/src/sub/g", "g\n")
    os.symlink("/etc/passwd", f"{session.work}/src/l")
    session.own(session.work)
    yield session
    session.run(["rm", "-rf", session.work])
    session.udocker("rm", "-f", "c")


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def cp(user, *words, **options):
    return user.udocker("cp", *words, cwd=user.work, **options)


def inside(user, text):
    return user.udocker("run", "c", "sh", "-c", text).stdout


def listing(path):
    return sorted(
        os.path.relpath(os.path.join(directory, name), path)
        for directory, folders, files in os.walk(path)
        for name in folders + files
    )


@pytest.mark.parametrize(
    ("source", "destination", "made"),
    [
        ("src/f", "/to", "/to/f"),
        ("src/f", "/to/other", "/to/other"),
        ("src/f", "/d/one", "/d/one"),
        ("src/f", "/dangling", "/nowhere"),
        ("src/f", "/alias/", "/to/f"),
        ("src", "/to", "/to/src/f"),
        ("src", "/fresh", "/fresh/f"),
        ("src/.", "/to", "/to/f"),
        ("src/.", "/fresh", "/fresh/f"),
        ("src", "/alias", "/to/src/f"),
        ("src/.", "/root", "/root/f"),
        ("src/f", "etc/greeting", "/etc/greeting"),
    ],
)
def test_files_go_where_docker_puts_them(user, source, destination, made):
    cp(user, source, f"c:{destination}")
    assert inside(user, f"cat {made}") == "f\n"


@pytest.mark.parametrize(
    ("source", "destination", "made"),
    [
        ("/d", "new", ["link", "one", "sub", "sub/two"]),
        ("/d/.", "new", ["link", "one", "sub", "sub/two"]),
        ("/d", "src", ["d", "d/link", "d/one", "d/sub", "d/sub/two", "f", "l", "sub", "sub/g"]),
        ("/d/.", "src", ["f", "l", "link", "one", "sub", "sub/g", "sub/two"]),
        ("/d/one", "src", ["f", "l", "one", "sub", "sub/g"]),
        ("/d/one", "src/f", ["f", "l", "sub", "sub/g"]),
    ],
)
def test_files_come_out_as_docker_does_it(user, source, destination, made):
    cp(user, f"c:{source}", destination)
    assert listing(f"{user.work}/{destination.partition('/')[0]}") == made


def test_what_cannot_be_copied_is_told_and_changes_nothing(user):
    before = user.udocker("diff", "c").stdout
    for words, code in [
        (["src/f", "c:/nowhere/x"], 1),
        (["src", "c:/d/one"], 1),
        (["src/f", "c:/fresh/"], 1),
        (["nothing", "c:/to"], 2),
        (["c:/nothing", "."], 1),
        (["c:/d", "src/f"], 1),
        (["c:/d/one", "no/where"], 2),
        (["src", "src"], 2),
        (["c:/d", "c:/to"], 2),
        (["nobody:/d", "."], 1),
    ]:
        done = cp(user, *words, check=False)
        assert (words, done.returncode, "Traceback" in done.stderr) == (words, code, False)
    assert user.udocker("diff", "c").stdout == before


def test_links_in_the_container_never_lead_to_the_host(user):
    secret, target = f"{user.home}/secret", f"{user.work}/target"
    write(secret, "secret\n")
    os.mkdir(target)
    user.own(target)
    links = f"ln -s {secret} /s; ln -s {target} /t; ln -s ../../../../..{target} /u; "
    links += f"mkdir /deep; ln -s {target} /deep/d"
    inside(user, links)
    for words in (["c:/s", "out", "-L"], ["src/f", "c:/t"], ["src/f", "c:/u/x"]):
        cp(user, *words, check=False)
    cp(user, "c:/deep", "out2")
    cp(user, "src/f", "c:/deep/d/e", check=False)
    assert os.readlink(f"{user.work}/out2/d") == target
    assert not os.path.exists(f"{user.work}/out")
    assert os.listdir(target) == []


def test_archives_go_both_ways(user):
    stream = cp(user, "c:/d", "-", text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        assert tar.getnames() == ["d", "d/link", "d/one", "d/sub", "d/sub/two"]
    cp(user, "-", "c:/to", input=stream, text=False)
    assert inside(user, "cat /to/d/link /to/d/sub/two; stat -c %a /to") == "one\ntwo\n555\n"
    done = cp(user, "-", "c:/d/one", input=stream, text=False, check=False)
    assert done.returncode == 2
    done = cp(user, "-", "c:/to", input=stream[:700], text=False, check=False)
    assert (done.returncode, b"cut off" in done.stderr) == (1, True)


def test_a_hostile_archive_stays_within_the_container(user):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, link in [
            ("../../../up", tarfile.REGTYPE, ""),
            ("way", tarfile.SYMTYPE, user.work),
            ("way/x", tarfile.REGTYPE, ""),
            ("hard", tarfile.LNKTYPE, "../../../../../etc/passwd"),
            ("/absolute", tarfile.REGTYPE, ""),
            ("node", tarfile.CHRTYPE, ""),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
    before = listing(user.work)
    done = cp(user, "-", "c:/to", input=stream.getvalue(), text=False, check=False)
    assert b"Traceback" not in done.stderr
    assert listing(user.work) == before
    assert inside(user, "ls /to; ls -d /up /absolute; true") == "up\nway\n"


def test_modes_and_times_are_kept_and_set_id_bits_are_not(user):
    os.chmod(f"{user.work}/src/f", 0o6751)
    os.utime(f"{user.work}/src/f", (5, 6))
    cp(user, "-a", "src/f", "c:/to/f")
    assert inside(user, "stat -c '%a %Y %u' /to/f") == "751 6 0\n"


def test_a_file_without_a_name_of_its_own_is_read_through_its_link(user):
    cp(user, "c:/d/link", "as-link")
    cp(user, "-L", "c:/d/link", "as-file")
    assert os.readlink(f"{user.work}/as-link") == "one"
    with open(f"{user.work}/as-file") as file:
        assert file.read() == "one\n"


def test_a_running_container_gets_files_where_its_programs_see_them(user):
    words = ["run", "c", "sh", "-c", "touch /begun; while [ ! -e /d/end ]; do sleep 0.1; done"]
    program = user.popen([user.python, "-m", "udocker", *words])
    upper = os.path.realpath(f"{user.udocker_dir}/containers/names/c")
    wait_for(f"{upper}/upper/begun", f"{upper}/rootfs/begun")
    inside(user, "rm -rf /tmp; rm /etc/greeting")
    cp(user, "src", "c:/tmp")
    cp(user, "src/f", "c:/etc/greeting")
    cp(user, "c:/tmp/sub/g", "back")
    assert cp(user, "src/f", "c:/nowhere/x", check=False).returncode == 1
    assert inside(user, "cat /tmp/f /tmp/sub/g /etc/greeting") == "f\ng\nf\n"
    stream = cp(user, "c:/d/one", "-", text=False).stdout
    cp(user, "-", "c:/to", input=stream, text=False)
    assert inside(user, "cat /to/one") == "one\n"
    cp(user, "src/f", "c:/d/end")
    assert program.wait(20) == 0


def wait_for(*paths):
    for _ in range(200):
        if any(map(os.path.exists, paths)):
            return
        time.sleep(0.05)
    raise AssertionError(f"{paths} did not come")
