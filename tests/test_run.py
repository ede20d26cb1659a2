"""Running containers as a user without privileges: an image of two layers with busybox in it."""

import json
import os
import pty
import signal
import subprocess
import time

import pytest
from unprivileged import Unprivileged

from udocker.registry.loopback import LoopbackRegistry


@pytest.fixture(scope="module")
def registry(busybox_image):
    with LoopbackRegistry(busybox_image.path) as address:
        yield address


@pytest.fixture(scope="module")
def image(registry, busybox_image):
    return f"{registry}/library/{busybox_image.reference}"


@pytest.fixture(scope="module")
def user(account, image):
    user = Unprivileged(account)
    user.udocker("pull", image)
    yield user
    user.close()


def run(user, *words, **options):
    return user.udocker("run", *words, **options)


def containers(user):
    return user.udocker("ps", "-q").stdout.split()


def test_a_program_runs_and_rm_leaves_nothing(user, image):
    before = containers(user)
    done = run(user, "--rm", image, "cat", "/etc/greeting")
    assert (done.stdout, done.stderr) == ("hello\n", "")
    assert containers(user) == before
    assert set(os.listdir(f"{user.udocker_dir}/containers")) - {"names"} == set(before)


def test_the_images_command_runs_when_none_is_given(user, image):
    assert run(user, "--rm", "-i", image, input="echo $GREETING\n").stdout == "hello\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["sh", "-c", "exit 0"], 0),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -9 $$"], 137),
        (["nowhere"], 127),
        ([""], 127),
        (["/etc/greeting"], 126),
    ],
)
@pytest.mark.parametrize("rm", [True, False], ids=["rm", "kept"])
def test_exit_codes_are_exact(user, image, words, code, rm):
    done = run(user, *(["--rm"] if rm else []), image, *words, check=False)
    # in place the shell sees the signal itself
    assert done.returncode in (code, 128 - code if code > 128 and not rm else code)


@pytest.mark.parametrize(
    "words",
    [
        ["--no-such"],
        ["--network=bridge"],
        ["-v", "/nowhere-at-all:/x"],
        ["--execmode=X9"],
        ["--name=a/b"],
        ["-u", "nobody-knows"],
        ["-w", "relative"],
        ["--env-file=/nowhere"],
    ],
)
def test_what_keeps_a_program_from_starting_is_125(user, image, words):
    before = containers(user)
    done = run(user, *words, image, "true", check=False)
    assert done.returncode == 125
    assert done.stderr.startswith("udocker: ")
    assert "Traceback" not in done.stderr
    assert containers(user) == before


def test_an_image_that_cannot_be_had_is_125(user, registry):
    done = run(user, f"{registry}/library/busybox:none", "true", check=False)
    assert done.returncode == 125
    assert run(user, "--pull=never", "nowhere:1", "true", check=False).returncode == 125


def test_an_image_that_is_not_here_is_pulled(unprivileged, image):
    assert run(unprivileged, "--rm", image, "echo", "pulled").stdout == "pulled\n"


def test_the_image_that_is_here_is_used_when_no_newer_one_can_be_asked_for(
    unprivileged, busybox_image
):
    with LoopbackRegistry(busybox_image.path) as address:
        image = f"{address}/library/{busybox_image.reference}"
        unprivileged.udocker("pull", image)
    for pull, code in (("newer", 0), ("missing", 0), ("never", 0), ("always", 125)):
        words = ["--rm", f"--pull={pull}", image, "true"]
        assert run(unprivileged, *words, check=False).returncode == code
    other = ["--rm", "--pull=never", "--platform=linux/s390x", image, "true"]
    assert run(unprivileged, *other, check=False).returncode == 125


def test_output_and_input_are_binary_clean(user, image):
    data = bytes(range(256)) * 5000
    assert run(user, "--rm", image, "cat", input=data, text=False).stdout == data


def test_standard_output_and_error_stay_apart(user, image):
    done = run(user, "--rm", image, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_a_container_survives_and_runs_again_with_what_it_was_made_with(user, image):
    made = user.udocker("create", "--name=kept", "-e", "A=first", image, "sh", "-c", "echo $A")
    identifier = made.stdout.strip()
    assert run(user, "kept").stdout == "first\n"
    run(user, "kept", "sh", "-c", "echo data > /file")
    assert run(user, identifier[:10], "cat", "/file").stdout == "data\n"
    assert run(user, "-e", "A=second", "kept").stdout == "second\n"
    assert "['kept']" in user.udocker("ps").stdout
    assert json.loads(user.udocker("inspect", "kept").stdout)["Id"] == identifier
    user.udocker("rm", "kept")
    assert (
        run(user, "kept", "true", check=False, env={"HTTPS_PROXY": "http://127.0.0.1:1"}).returncode
        == 125
    )


def test_a_container_made_before_is_removed_after_its_run_when_asked(user, image):
    user.udocker("create", "--name=once", image)
    assert run(user, "--rm", "once", "sh", "-c", "exit 4", check=False).returncode == 4
    user.udocker("create", "--rm", "--name=once", image)
    assert run(user, "once", "true").returncode == 0
    assert "['once']" not in user.udocker("ps").stdout


def test_volumes_show_host_files_and_take_writes_as_the_user(user, image):
    shared = f"{user.home}/shared"
    os.mkdir(shared)
    user.own(shared)
    script = "echo new > /data/made; echo x > /ro/denied"
    done = run(
        user,
        "--rm",
        "-v",
        f"{shared}:/data",
        "-v",
        f"{shared}:/ro:ro",
        image,
        "sh",
        "-c",
        script,
        check=False,
    )
    assert "Read-only" in done.stderr
    assert os.listdir(shared) == ["made"]
    assert os.stat(f"{shared}/made").st_uid == user.uid


def test_environment_directory_and_user_are_as_asked(user, image):
    script = "echo $A $B; pwd; id -u; id -g; echo $HOME"
    words = ["-e", "A=1", "--env=B", "-w", "/new/dir", "-u", "1000:100"]
    done = run(user, "--rm", *words, image, "sh", "-c", script, env={"B": "2", "SECRET": "s"})
    assert done.stdout.split("\n")[:5] == ["1 2", "/new/dir", "1000", "100", "/"]
    assert "SECRET" not in run(user, "--rm", image, "env", env={"SECRET": "s"}).stdout
    assert "SECRET=s" in run(user, "--rm", "--hostenv", image, "env", env={"SECRET": "s"}).stdout


def test_the_program_is_root_or_keeps_the_callers_id_in_a_parallel_step(user, image):
    script = ["sh", "-c", "id -u; whoami"]
    assert run(user, "--rm", image, *script).stdout.split() == ["0", "root"]
    own = str(user.uid)
    steps = ({"PMIX_RANK": "0"}, {"PMI_RANK": "0"}, {"SLURM_STEP_ID": "0"})
    flags = (["--userns=keep-id"], ["--hostauth"])
    for words, env in (*((flag, {}) for flag in flags), *(([], step) for step in steps)):
        assert run(user, "--rm", *words, image, *script, env=env).stdout.split()[0] == own
    assert (
        run(user, "--rm", "--userns=host", image, *script, env={"PMIX_RANK": "0"}).stdout.split()[0]
        == "0"
    )


def test_the_jobs_variables_pass(user, image):
    env = {
        "SLURM_JOB_ID": "7",
        "PMIX_RANK": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "2",
    }
    seen = run(user, "--rm", image, "env", env=env).stdout.splitlines()
    for name, value in env.items():
        assert f"{name}={value}" in seen


def test_entrypoint_replaces_the_images(user, image):
    assert run(user, "--rm", "--entrypoint", "echo", image, "a", "b").stdout == "a b\n"


def test_network_none_hostname_and_read_only_do_what_they_say(user, image):
    words = ["--network=none", "-h", "inside", "--read-only", "--tmpfs", "/tmp"]
    script = "hostname; ls /sys/class/net; touch /tmp/x && echo tmp; touch /y"
    done = run(user, "--rm", *words, image, "sh", "-c", script, check=False)
    assert done.stdout.split() == ["inside", "lo", "tmp"]
    assert done.returncode == 1


def test_a_dry_run_prints_a_command_that_can_be_pasted_and_makes_nothing(user, image):
    before = containers(user)
    line = run(user, "--dry-run", "--rm", "-e", "A=it's", image, "sh", "-c", 'echo "$A"').stdout
    assert containers(user) == before
    assert user.run(["sh", "-c", line]).stdout == "it's\n"


def test_a_pasted_dry_run_gives_the_program_the_same_environment_and_bytes(user, image):
    words = ["-e", b"A=\xff\x1b'\r%d\\\n.", image, "sh", "-c", "env; exec od -c"]
    plain = {"LANG": "C"}  # where Python sets LC_CTYPE for itself
    line = run(user, "--dry-run", *words, env=plain).stdout
    pasted = user.run(["sh", "-c", line], input=b"", text=False)
    assert pasted.stdout == run(user, "--rm", *words, input=b"", text=False, env=plain).stdout
    assert b"A=\xff\x1b'\r%d\\\n.\n" in pasted.stdout


def test_many_runs_of_one_image_at_once_all_work(user, image):
    command = [
        user.python,
        "-m",
        "udocker",
        "run",
        "--rm",
        image,
        "sh",
        "-c",
        "echo $0 > /f; cat /f",
    ]
    runs = [user.popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(20)]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert said == [f"{n}\n" for n in range(20)]
    assert [run.returncode for run in runs] == [0] * 20


def test_many_runs_of_one_container_at_once_share_its_files(user, image):
    user.udocker("create", "--name=shared", image)
    command = [
        user.python,
        "-m",
        "udocker",
        "run",
        "shared",
        "sh",
        "-c",
        "echo $0 > /f$0; sleep 0.3",
    ]
    runs = [user.popen([*command, str(n)]) for n in range(8)]
    assert [run.wait(60) for run in runs] == [0] * 8
    assert run(user, "shared", "sh", "-c", "cat /f? | sort").stdout.split() == list("01234567")
    user.udocker("rm", "shared")


def test_a_run_that_joins_another_says_what_has_no_effect(user, image):
    user.udocker("create", "--name=joined", image)
    command = [user.python, "-m", "udocker", "run", "joined", "sh", "-c", "echo; cat"]
    process = user.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert run(user, "-e", "A=b", "joined", "true").stderr == ""
    done = run(user, "-v", "/usr/share:/data", "--read-only", "joined", "ls", "/data", check=False)
    assert "--volume, --read-only has no effect" in done.stderr
    process.communicate(timeout=30)
    assert run(user, "-v", "/usr/share:/data", "joined", "ls", "/data").stderr == ""
    user.udocker("rm", "joined")


def test_runs_that_join_a_container_whose_program_just_ends_go_on_without_it(user, image):
    user.udocker("create", "--name=brief", image)
    command = [user.python, "-m", "udocker", "run", "brief", "true"]
    for _ in range(3):
        runs = [user.popen(command, stderr=subprocess.PIPE, text=True) for _ in range(20)]
        said = [run.communicate(timeout=120)[1] for run in runs]
        assert said == [""] * 20
    user.udocker("rm", "brief")


def test_a_running_container_is_seen_and_kept(user, image):
    user.udocker("create", "--name=busy", image)
    command = [user.python, "-m", "udocker", "run", "busy", "sh", "-c", "echo; cat"]
    process = user.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert "running" in user.udocker("ps").stdout
    assert user.udocker("rm", "busy", check=False).returncode == 1
    process.communicate(timeout=30)
    user.udocker("rm", "busy")


def test_a_running_container_is_ended_and_removed_by_force(user, image):
    script = "trap '' TERM; echo; sleep 1000 & while :; do sleep 0.1; done"
    for mode in ("N1", "N2"):
        user.udocker("create", "--name=busy", f"--execmode={mode}", image)
        command = [user.python, "-m", "udocker", "run", "busy", "sh", "-c", script]
        runs = [user.popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        for process in runs:
            process.stdout.readline()
            process.stdout.close()
        user.udocker("rm", "-f", "busy", "nowhere")
        assert [process.wait(30) for process in runs] == [-signal.SIGKILL] * 2
        assert "['busy']" not in user.udocker("ps").stdout


def test_signals_reach_the_program_and_nothing_is_left(user, image):
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    command = [user.python, "-m", "udocker", "run", "--rm", image, "sh", "-c", script]
    process = user.popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "caught\n"
    assert process.returncode == 5


@pytest.mark.parametrize("rm", [True, False], ids=["rm", "kept"])
def test_the_program_ignores_no_signals_that_its_caller_does_not(user, image, rm):
    words = [*(["--rm"] if rm else []), image, "grep", "SigIgn", "/proc/self/status"]
    callers = user.run(["grep", "SigIgn", "/proc/self/status"])
    assert run(user, *words).stdout == callers.stdout


def test_a_killed_run_takes_its_program_along_and_is_cleaned_up_later(user, image):
    before = containers(user)
    command = [user.python, "-m", "udocker", "run", "--rm", image, "sh", "-c", "echo $$; cat"]
    process = user.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    program = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(200):
        if not os.path.exists(f"/proc/{program}") or _is_zombie(program):
            break
        time.sleep(0.02)
    else:
        raise AssertionError("the program goes on")
    assert containers(user) == before


def _is_zombie(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] in "ZX"


def test_the_terminal_is_the_callers(user, image):
    outer, inner = pty.openpty()
    command = [
        user.python,
        "-m",
        "udocker",
        "run",
        "--rm",
        "-it",
        image,
        "sh",
        "-c",
        "test -t 0 && tty",
    ]
    process = user.popen(command, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
    os.close(inner)
    assert process.wait(30) == 0
    assert os.read(outer, 100).strip().startswith(b"/dev/pts/")
    os.close(outer)


def test_an_image_with_containers_is_removed_only_by_force(unprivileged, image):
    unprivileged.udocker("create", "--name=c", image)
    done = unprivileged.udocker("rmi", image, check=False)
    assert done.returncode == 1
    assert "containers" in done.stderr
    unprivileged.udocker("rmi", "-f", image)
    assert unprivileged.udocker("images", "-q").stdout == ""
    unprivileged.udocker("rm", "c")


def test_a_flat_copy_is_a_container_too(user, image):
    user.udocker("create", "--name=flat", "--execmode=N1", image)
    run(user, "flat", "sh", "-c", "mkdir /d; mv /etc /d/etc; echo x > /bin/new")
    assert run(
        user, "flat", "sh", "-c", "cat /d/etc/greeting; mount | head -n 1"
    ).stdout.startswith("hello\n")
    assert "overlay on / " not in run(user, "flat", "mount").stdout
    assert run(user, "--rm", image, "cat", "/etc/greeting").stdout == "hello\n"
    user.udocker("rm", "flat")


def test_fake_root_can_do_what_package_managers_do(user, image):
    script = (
        "touch /f && chown 7:8 /f && chgrp 9 /f && mknod /dev/x c 1 3 && chmod 4755 /f && echo ok"
    )
    assert run(user, "--rm", image, "sh", "-c", script).stdout == "ok\n"


def test_a_host_without_user_namespaces_is_told_so(unprivileged, image):
    off = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    without = ["unshare", "-U", "-c", "--keep-caps", "sh", "-c", off, "sh"]
    command = [unprivileged.python, "-m", "udocker", "run", "--engine=userns", image, "true"]
    done = unprivileged.run([*without, *command], check=False)
    assert done.returncode == 125
    assert "user.max_user_namespaces" in done.stderr


def test_a_host_that_forbids_namespaces_now_and_allows_them_again_is_noticed(unprivileged, image):
    run(unprivileged, "--rm", image, "true")
    off = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    without = ["unshare", "-U", "-c", "--keep-caps", "sh", "-c", off, "sh"]
    command = [unprivileged.python, "-m", "udocker", "run", "--engine=userns", image, "true"]
    done = unprivileged.run([*without, *command], check=False)
    assert "user.max_user_namespaces" in done.stderr
    run(unprivileged, "--rm", image, "true")


def test_a_low_limit_of_open_files_is_enough(user, image):
    command = [user.python, "-m", "udocker", "run", "--rm", image, "echo", "here"]
    done = user.run(["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *command])
    assert done.stdout == "here\n"


def test_a_directory_that_is_gone_is_no_place_to_look_from(user, image):
    gone = 'mkdir "$HOME/gone"; cd "$HOME/gone"; rmdir "$HOME/gone"; exec "$@"'
    command = [user.python, "-m", "udocker", "run", "--rm"]
    for words, code in (([image, "true"], 0), (["-v", ".:/m", image, "true"], 125)):
        done = user.run(["sh", "-c", gone, "sh", *command, *words], check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)


def test_a_directory_in_memory_is_mounted_as_its_options_say(user, image):
    options = ["--tmpfs", "/t:rw,noexec,nosuid,size=64k", "--tmpfs=/u:mode=700", "--tmpfs=/v:ro"]
    script = "mount | grep ' /t '; stat -c %a /t /u; touch /v/x"
    done = run(user, "--rm", *options, image, "sh", "-c", script, check=False)
    assert "noexec" in done.stdout
    assert "size=64k" in done.stdout
    assert done.stdout.split()[-2:] == ["1777", "700"]
    assert "Read-only" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tmpfs=/t:size=bogus"], "mount tmpfs"),
        (["-v", "/etc/passwd:/etc"], "/etc is a directory in the container"),
    ],
)
def test_what_the_container_has_no_place_for_is_named(user, image, words, said):
    done = run(user, "--rm", *words, image, "true", check=False)
    assert done.returncode == 125
    assert said in done.stderr


def test_the_store_may_lie_in_a_directory_with_a_space(unprivileged, image):
    env = {"UDOCKER_DIR": f"{unprivileged.home}/my store"}
    for words in (["--rm"], ["--name=x"], ["--name=y", "--execmode=N1"]):
        done = run(unprivileged, *words, image, "cat", "/etc/greeting", env=env)
        assert done.stdout == "hello\n"
    assert run(unprivileged, "x", "cat", "/etc/greeting", env=env).stdout == "hello\n"


ON_AN_OVERLAY = """
mount -t overlay o -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/lower" || exit 99
exec setpriv --reuid="$2" --regid="$3" --clear-groups sh -ec '
run() { "$0" -m udocker run "$@"; }
run --rm "$1" sh -c "rm -r /root && mkdir /root && echo ok"
run --name=kept "$1" sh -c "echo data > /file"
run kept cat /file
"$0" -m udocker rm kept' "$4" "$5"
"""


@pytest.mark.root
def test_where_there_is_no_overlay_memory_or_a_copy_takes_its_place(unprivileged, image):
    """An overlay is a file system that cannot take the writable layer of another one."""
    user, place = unprivileged, f"{unprivileged.home}/place"
    for name in ("lower", "upper", "work"):
        os.makedirs(f"{place}/{name}")
    user.own(place)
    words = [place, str(user.uid), str(user.gid), user.python, image]
    # a name space of its own: a mount that comes and goes would get into others' containers
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", ON_AN_OVERLAY, "sh", *words],
        env=user.environment({"UDOCKER_DIR": f"{place}/lower/store"}),
        cwd=user.home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok\ndata\nkept\n"), done.stderr


def test_injected_files_are_there_also_when_run_is_covered(user, image):
    for words in (["--tmpfs", "/run"], ["-v", "/usr/share:/run:ro"]):
        done = run(user, "--rm", *words, "-h", "inside", image, "cat", "/etc/hostname")
        assert done.stdout == "inside\n"


def test_debug_shows_where_an_error_came_from(user, registry):
    for words in (["run", "--pull=never", "nowhere:1"], ["rmi", "nowhere:1"]):
        plain, debug = user.udocker(*words, check=False), user.udocker("-D", *words, check=False)
        assert "Traceback" not in plain.stderr
        assert "Traceback" in debug.stderr and debug.stderr.endswith(plain.stderr)
        assert debug.returncode == plain.returncode


def test_a_misspelt_command_is_a_usage_error_with_a_hint(unprivileged):
    done = unprivileged.udocker("rnu", check=False)
    assert done.returncode == 2
    assert "'run'" in done.stderr


@pytest.mark.parametrize("before", [["--debug"], ["--repo", "{}"]], ids=["quick", "click"])
def test_global_options_before_run_do_not_change_what_it_answers(user, before):
    options = [word.format(user.udocker_dir) for word in before]
    assert user.udocker(*options, "run", "--no-such", check=False).returncode == 125
    assert user.udocker(*options, "run", "--pull=never", "nowhere:1", check=False).returncode == 125
    shown = user.udocker(*options, "run", "--rm", "--help").stdout
    assert shown.startswith("Usage: udocker run")
    assert shown == user.udocker("run", "-h").stdout


def test_the_help_of_every_command_is_shown(unprivileged):
    listed = unprivileged.udocker("--help").stdout
    for name in ("run", "create", "pull", "ps", "images", "inspect", "rm", "rmi", "version"):
        assert f"  {name} " in listed
        assert "Usage: udocker " in unprivileged.udocker(name, "--help").stdout
