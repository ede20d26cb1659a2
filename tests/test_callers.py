"""Commands in odd surroundings: closed streams, few processes, any umask."""

import os
import random
import stat

import pytest
from images import add_image
from registries import Layout
from tarballs import archive, file

from udocker.registry.loopback import LoopbackRegistry


def shell(user, script, *words):
    """Run a script with `udocker` in it as the user."""
    line = f'udocker() {{ "$PYTHON" -m udocker "$@"; }}\n{script}'
    return user.run(["sh", "-c", line, "sh", *words], env={"PYTHON": user.python}, check=False)


@pytest.mark.parametrize("closed", ["2>&-", "2>&- <&-"])
def test_a_caller_without_standard_error_loses_nothing_but_talk(
    unprivileged, busybox_reference, closed
):
    done = shell(unprivileged, f'udocker pull "$1" {closed}', busybox_reference)
    assert (done.returncode, done.stdout.split()[0]) == (0, busybox_reference)
    said = shell(unprivileged, f'udocker run "$1" cat /etc/greeting {closed}', busybox_reference)
    assert (said.returncode, said.stdout) == (0, "hello\n")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ('udocker pull "$1" >&-', "udocker: cannot write to standard output: it is closed"),
        ('udocker manifest inspect "$1" >&-', "udocker: cannot write to standard output: it is"),
        ('udocker manifest inspect "$1" >/dev/full', "cannot write to standard output: No space"),
        ("udocker login -u x --password-stdin 127.0.0.1:1 <&-", "standard input, which is closed"),
    ],
)
def test_what_cannot_be_said_or_read_is_an_error(unprivileged, busybox_reference, script, says):
    done = shell(unprivileged, script, busybox_reference)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_with_few_processes_pulls_with_fewer_or_is_told(unprivileged, tmp_path):
    layout = Layout(str(tmp_path))
    noise = random.Random(1).randbytes(6 << 20)
    add_image(layout, "large", [archive(file("a", noise)), archive(file("b", noise[::-1]))])
    with LoopbackRegistry(layout.directory) as host:
        codes = list(_pulls(unprivileged, f"{host}/img:large"))
    assert (codes[0], codes[-1]) == (1, 0)


def _pulls(user, image):
    """Pull with ever more processes and yield the exit codes; with the last all are allowed."""
    for count in (1, 2, 3, 4, 5, None):  # a user who runs this suite has some already
        limit = f"prlimit --nproc={count}" if count else ""
        done = shell(user, f'{limit} "$PYTHON" -m udocker pull "$1"', image)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or "ulimit -u" in done.stderr, done.stderr
        yield done.returncode


@pytest.mark.parametrize("umask", ["077", "000"])
def test_the_umask_changes_nothing_that_a_container_sees(unprivileged, busybox_reference, umask):
    script = f'umask {umask}; udocker run --rm "$1" stat -c %a / /etc /etc/greeting'
    done = shell(unprivileged, script, busybox_reference)
    assert done.stdout.split() == ["755", "755", "644"], done.stderr
    mode = os.stat(f"{unprivileged.udocker_dir}/images/blobs").st_mode
    assert stat.S_IMODE(mode) == 0o700
