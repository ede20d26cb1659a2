"""What must hold of every engine in every system, one function for each sentence.

`needs` names a feature of `udocker.containers.features`: an engine without it has to refuse the
run with 125 and name an engine that can. `only` limits a behaviour to some systems.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import termios
import time

from udocker.containers import features

BEHAVIOURS = []
REFUSALS = {
    features.OTHER_USER: ("--user=1234:1234",),
    features.READ_ONLY_BINDS: ("--volume=/tmp:/mnt:ro",),
    features.TMPFS: ("--tmpfs=/mnt",),
    features.READ_ONLY_ROOT: ("--read-only",),
    features.HOST_NAME: ("--hostname=box",),
    features.PRIVATE_NETWORK: ("--network=none",),
    features.PROCESS_NAMESPACE: ("--pid=private",),
    features.NESTED_BINDS: ("--volume=/tmp:/mnt", "--volume=/var/tmp:/mnt/in"),
    features.DEVICES: ("--device=/dev/zero:/dev/mine",),
    features.OWN_NAMES: ("--add-host=far:10.1.2.3",),
    features.KEEP_ID: ("--userns=keep-id",),
    features.PORTS: ("--network=none", "--publish=127.0.0.1:0:80"),
}
"""For each feature the options that ask for it."""
LARGE_BYTES = 100 << 20
LINES = 20000
MANY = 200
SIDE_BY_SIDE = 32
ENDED_S = 10
PERL_SERVER = (
    "$l = IO::Socket::INET->new(Listen => 5, LocalPort => 80) or die; "
    "while ($s = $l->accept) { print $s <STDIN>; close $s; sleep 2; last }"
)
DEBIAN = ("bullseye", "bookworm", "trixie")


def behaviour(function=None, *, needs=None, only=None):
    """Add a function to the table."""

    def add(function):
        function.needs, function.only = needs, only
        BEHAVIOURS.append(function)
        return function

    return add(function) if function else add


# -- output, input and exit codes


@behaviour
def output_and_errors_come_apart(c):
    done = c.sh("printf 'one\\n\\ntwo'; printf three >&2")
    assert (done.stdout, done.stderr) == ("one\n\ntwo", "three")


@behaviour
def bytes_that_are_no_text_pass_unchanged(c):
    assert c.sh(r"printf '\000\377\200\r\n\001'", text=False).stdout == b"\x00\xff\x80\r\n\x01"


@behaviour
def a_hundred_megabytes_go_in_and_come_out(c):
    data = os.urandom(1 << 20) * (LARGE_BYTES >> 20)
    done = c.run("cat", input=data, text=False)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


@behaviour
def the_last_of_many_lines_arrives(c):
    lines = c.output(f"i=0; while [ $i -lt {LINES} ]; do echo $i; i=$((i+1)); done").split()
    assert lines == list(map(str, range(LINES)))


@behaviour
def standard_input_ends_where_it_does(c):
    assert c.run("cat", input="").stdout == ""


@behaviour
def the_exit_code_is_the_programs(c):
    assert [c.code("sh", "-c", f"exit {code}") for code in (0, 1, 2, 42, 125, 255)] == [
        *(0, 1, 2, 42, 125, 255)
    ]


@behaviour
def a_program_that_a_signal_kills_gives_128_and_its_number(c):
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV):
        assert c.code("sh", "-c", f"kill -{int(number)} $$; sleep 5") == 128 + number


@behaviour
def a_program_that_is_not_there_gives_127(c):
    done = c.run("no-such-program", check=False)
    assert (done.returncode, done.stdout) == (127, "")
    assert "no-such-program" in done.stderr
    assert c.code("/no/such/program") == 127


@behaviour
def what_cannot_be_executed_gives_126(c):
    c.sh("echo x >/tmp/plain; chmod 644 /tmp/plain")
    assert c.code("/tmp/plain") == 126
    assert c.code("/etc") == 126


@behaviour
def a_program_that_has_spawned_another_keeps_its_heap(c):
    # its system() calls posix_spawn, which lends the child its memory
    script = 'BEGIN { system("true"); for (; i < 200000; i++) a[i] = i; print i }'
    assert c.run("awk", script).stdout == "200000\n"


@behaviour
def a_script_is_run_by_its_interpreter(c):
    c.sh("printf '#!/bin/sh\\necho \"$0 $1\"\\n' >/tmp/script; chmod 755 /tmp/script")
    assert c.run("/tmp/script", "a b").stdout == "/tmp/script a b\n"


@behaviour
def a_script_whose_interpreter_is_missing_gives_127(c):
    c.sh("printf '#!/no/interpreter\\n' >/tmp/orphan; chmod 755 /tmp/orphan")
    assert c.code("/tmp/orphan") == 127


# -- arguments and environment


@behaviour
def arguments_arrive_as_they_are(c):
    words = [
        "",
        "a b",
        "it's",
        '"',
        "$HOME",
        "*",
        "a\nb",
        "--",
        "-v",
        "x=y",
        "é",
        "\\",
        "a:b",
        "%s",
    ]
    done = c.run("sh", "-c", 'for word; do printf "[%s]" "$word"; done', "sh", *words)
    assert done.stdout == "".join(f"[{word}]" for word in words)


@behaviour
def variables_come_from_the_image_and_from_options(c):
    assert c.output("echo $GREETING") == "hello\n"
    assert c.output("echo $GREETING", "-e", "GREETING=bye") == "bye\n"
    value = "a b=c 'd' \"e\" $f é\n:g"
    assert c.output('printf %s "$GIVEN"', "-e", f"GIVEN={value}") == value


@behaviour
def a_variable_without_value_is_the_callers(c):
    assert c.output("echo $MINE", "-e", "MINE", env={"MINE": "of the caller"}) == "of the caller\n"


@behaviour
def variables_of_a_file_arrive(c):
    place = c.place(env="# comment\nONE=1\nTWO='2'\n")
    assert c.output('echo "$ONE $TWO"', f"--env-file={place}/env") == "1 '2'\n"


@behaviour
def the_callers_environment_stays_outside(c):
    secret = {"SECRET_TOKEN": "x", "PYTHONPATH_OF_MINE": "x", "LD_LIBRARY_PATH": "/nowhere"}
    found = c.output("env", env=secret)
    for name in secret:
        value = re.search(f"(?m)^{name}=(.*)$", found)
        assert value is None or "/nowhere" not in value[1] and name != "SECRET_TOKEN"


@behaviour
def the_whole_environment_passes_when_asked_to(c):
    assert c.output("echo $SECRET_TOKEN", "--hostenv", env={"SECRET_TOKEN": "x"}) == "x\n"


@behaviour
def programs_are_found_by_the_containers_path(c):
    c.sh(
        "mkdir -p /opt/my; printf '#!/bin/sh\\necho found\\n' >/opt/my/prog; chmod 755 /opt/my/prog"
    )
    assert c.run("prog", options=("-e", "PATH=/opt/my:/usr/bin:/bin")).stdout == "found\n"


@behaviour
def programs_start_programs_that_start_programs(c):
    script = "sh -c 'exec sh -c \"ls /etc/passwd | cat\"'; (exec ls /etc/group)"
    assert c.output(script) == "/etc/passwd\n/etc/group\n"


# -- users


@behaviour
def the_program_is_root_or_the_caller(c):
    expected = 0 if c.can(features.FAKE_ROOT) else c.user.uid
    assert c.output("id -u") == f"{expected}\n"


@behaviour
def home_is_that_of_the_user(c):
    if c.can(features.FAKE_ROOT):
        assert c.output("cd; pwd; echo $HOME") == "/root\n/root\n"
    assert c.output('[ -d "$HOME" ] && echo there') == "there\n"


@behaviour(needs=features.OTHER_USER)
def the_program_is_who_was_asked_for(c):
    assert c.output("id -u; id -g", "--user=1234:2345") == "1234\n2345\n"
    assert c.output("id -un", "--user=nobody") == "nobody\n"


@behaviour
def an_unknown_user_is_refused(c):
    c.refused("true", options=("--user=no-such-user",))


@behaviour(needs=features.KEEP_ID)
def the_caller_keeps_their_id_when_asked_to(c):
    assert c.output("id -u; id -g", "--userns=keep-id") == f"{c.user.uid}\n{c.user.gid}\n"


@behaviour
def owners_change_as_far_as_root_can_see(c):
    done = c.sh("touch /tmp/owned && chown 33:33 /tmp/owned", check=False)
    assert (done.returncode == 0) == c.can(features.FAKE_ROOT)


# -- files


@behaviour
def a_volume_is_a_directory_of_the_host(c):
    place = c.place(given="outside\n")
    assert c.output("cat /data/given; echo inside >/data/made", f"-v{place}:/data") == "outside\n"
    with open(f"{place}/made") as file:
        assert file.read() == "inside\n"
    assert os.stat(f"{place}/made").st_uid == c.user.uid


@behaviour
def a_volume_is_a_file_of_the_host(c):
    place = c.place(file="outside\n")
    volume = f"-v{place}/file:/etc/of-the-host"
    assert c.output("cat /etc/of-the-host; echo more >>/etc/of-the-host", volume) == "outside\n"
    with open(f"{place}/file") as file:
        assert file.read() == "outside\nmore\n"


@behaviour
def a_volume_shows_at_its_own_path_when_no_other_is_given(c):
    place = c.place(given="here\n")
    assert c.output(f"cat {place}/given", f"-v{place}") == "here\n"


@behaviour
def a_volume_hides_what_the_image_has_there(c):
    place = c.place(mine="")
    assert c.output("ls /usr/share 2>&1", f"-v{place}:/usr/share") == "mine\n"


@behaviour
def a_volume_shows_at_a_path_that_the_image_lacks(c):
    place = c.place(given="deep\n")
    assert c.output("cat /not/there/yet/given", f"-v{place}:/not/there/yet") == "deep\n"


@behaviour(needs=features.NESTED_BINDS)
def a_volume_lies_in_another_one(c):
    outer, inner = c.place(one="1\n"), c.place(two="2\n")
    os.mkdir(f"{outer}/in")
    c.user.own(f"{outer}/in")
    volumes = (f"-v{inner}:/data/in", f"-v{outer}:/data")
    assert c.output("cat /data/one /data/in/two", *volumes) == "1\n2\n"


@behaviour(needs=features.READ_ONLY_BINDS)
def a_readonly_volume_cannot_be_written_to(c):
    place = c.place(given="outside\n")
    script = "cat /data/given; echo x >/data/made || echo refused; rm /data/given || echo kept"
    assert c.output(script, f"-v{place}:/data:ro") == "outside\nrefused\nkept\n"
    assert os.listdir(place) == ["given"]


@behaviour
def two_hundred_volumes_show(c):
    places = [c.place(number=f"{number}\n") for number in range(4)]
    volumes = [f"-v{places[n % 4]}:/many/{n}" for n in range(MANY)]
    found = c.output(f"cat /many/*/number | wc -l; cat /many/{MANY - 1}/number", *volumes)
    assert found.split() == [str(MANY), str((MANY - 1) % 4)]


@behaviour
def a_mount_point_that_is_a_link_leads_to_its_target(c):
    place = c.place(given="linked\n")
    volume = f"-v{place}:/srv/link"
    assert c.output("cat /srv/link/given /srv/real/given", volume) == "linked\nlinked\n"


@behaviour
def a_link_of_the_container_leads_no_mount_point_to_the_host(c):
    target, place = c.hidden_place(), c.place(given="x")
    c.sh(f"rm -rf /srv/trap; ln -s {target} /srv/trap")
    c.sh("ls /srv/trap/below", f"-v{place}:/srv/trap/below", check=False)
    assert os.listdir(target) == []


@behaviour
def names_with_odd_characters_are_names(c):
    place = c.place()
    odd = f"{place}/a b'c\"d,é$x"
    os.mkdir(odd)
    c.user.own(odd)
    c.sh('echo x >"/mnt/e f,g/made"', f"-v{odd}:/mnt/e f,g")
    assert os.listdir(odd) == ["made"]


@behaviour
def a_volume_that_is_not_there_is_refused(c):
    c.refused("true", options=("-v/no/such/place:/data",), says="/no/such/place")


@behaviour
def the_working_directory_is_the_one_asked_for(c):
    assert c.output("pwd") == "/\n"
    assert c.output("pwd", "-w", "/usr") == "/usr\n"
    assert c.output("pwd", "--workdir=/made/for/this") == "/made/for/this\n"


@behaviour
def a_deleted_current_directory_does_not_matter(c):
    place = c.place()
    command = [c.user.python, "-m", "udocker", *c.words("pwd")]
    script = f"cd {place} && rmdir {place} && exec {shlex.join(command)}"
    assert c.user.run(["sh", "-c", script]).stdout == "/\n"


@behaviour
def what_a_program_writes_stays(c):
    c.sh("mkdir -p /var/kept && echo kept >/var/kept/file && mv /var/kept/file /var/kept/moved")
    assert (
        c.output("cat /var/kept/moved; rm -r /var/kept; ls /var/kept 2>&1 | wc -l") == "kept\n1\n"
    )


@behaviour
def a_run_with_rm_leaves_nothing(c):
    before = set(os.listdir(f"{c.user.udocker_dir}/containers"))
    done = c.run("sh", "-c", "echo x >/root/x; cat /root/x", options=("--rm",), container=c.image)
    assert done.stdout == "x\n"
    assert set(os.listdir(f"{c.user.udocker_dir}/containers")) == before


@behaviour
def files_are_linked_renamed_and_removed(c):
    script = (
        "cd /tmp && rm -rf w && mkdir w && cd w && echo 1 >a && ln a b && ln -s a c && mv b d && "
        "cat c d && chmod 600 a && ls | tr '\\n' ' ' && cd .. && rm -r w && ls -d w 2>&1 | wc -l"
    )
    assert c.output(script) == "1\n1\na c d 1\n"


@behaviour
def files_of_the_host_do_not_show(c):
    script = 'for path; do [ ! -e "$path" ] || echo "$path"; done'
    assert c.run("sh", "-c", script, "sh", c.hidden_place(), "/boot/grub").stdout == ""


@behaviour
def devices_and_proc_are_there(c):
    script = (
        "echo x >/dev/null && head -c 4 /dev/zero | wc -c && head -c 4 /dev/urandom | wc -c && "
        "[ -c /dev/full ] && grep -c ^Pid: /proc/self/status && [ -d /sys/class ]"
    )
    assert c.output(script).split() == ["4", "4", "1"]


@behaviour(needs=features.DEVICES)
def a_device_shows_at_the_path_asked_for(c):
    assert c.output("head -c 2 /dev/mine | wc -c", "--device=/dev/zero:/dev/mine") == "2\n"


@behaviour
def a_directory_for_temporary_files_without_execution_does_not_matter(c):
    nowhere = c.place()
    os.chmod(nowhere, 0o500)
    assert c.output("echo x >/tmp/t && cat /tmp/t", env={"TMPDIR": nowhere}) == "x\n"
    assert c.output("echo y", env={"TMPDIR": "/proc"}) == "y\n"


@behaviour(needs=features.TMPFS)
def a_tmpfs_is_empty_and_forgotten(c):
    script = "ls -A /mnt | wc -l; echo x >/mnt/x; cat /mnt/x; df -k /mnt | tail -1"
    for _ in range(2):
        count, text, facts = c.output(script, "--tmpfs=/mnt:size=1m").splitlines()
        assert (count, text, facts.split()[1]) == ("0", "x", "1024")


@behaviour(needs=features.TMPFS)
def shared_memory_has_the_size_asked_for(c):
    facts = c.output("df -k /dev/shm | tail -1", "--shm-size=2m")
    assert facts.split()[1] == "2048"


@behaviour(needs=features.READ_ONLY_ROOT)
def a_readonly_root_changes_in_volumes_only(c):
    place = c.place()
    script = "echo x >/etc/x && echo written; echo y >/data/y && echo y"
    assert c.output(script, "--read-only", f"-v{place}:/data") == "y\n"


# -- signals and processes


def _gone(c, mark):
    """Wait until no process of the user has `mark` among its words."""
    end = time.monotonic() + ENDED_S
    while time.monotonic() < end:
        left = [pid for pid in _pids(c.user.uid) if mark in _words(pid)]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {[_words(pid) for pid in left]}")


def _pids(uid):
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == uid:
                yield int(name)


def _words(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().decode(errors="replace").rstrip("\0").split("\0")
    return []


def _signal_reaches(c, number):
    name = signal.Signals(number).name[3:]
    script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.1; done"
    with c.shell_popen(script) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == f"got {name}\n"
        assert process.wait(ENDED_S) == 9


@behaviour
def the_signals_term_and_int_and_usr1_reach_the_program(c):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        _signal_reaches(c, number)


@behaviour
def a_term_that_the_program_does_not_catch_ends_it(c):
    with c.popen("sleep", "1000.5", stdout=subprocess.DEVNULL) as process:
        _until(lambda: _sleeps(c, "1000.5"))
        process.terminate()
        assert process.wait(ENDED_S) in (-signal.SIGTERM, 128 + signal.SIGTERM)
    _gone(c, "1000.5")


def _sleeps(c, duration):
    """Tell whether the program `sleep` itself runs, and not only what leads to it."""
    found = (_words(pid) for pid in _pids(c.user.uid))
    return any(w[-1:] == [duration] and "udocker" not in w and "-r" not in w for w in found)


def _until(condition):
    end = time.monotonic() + ENDED_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@behaviour
def a_kill_of_udocker_leaves_no_process(c):
    script = "sleep 1001.5 & echo ready; sleep 1001.5; true"
    before = set(os.listdir(f"{c.user.udocker_dir}/containers"))
    with c.shell_popen(script, "--rm", container=c.image) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait(ENDED_S)
        _gone(c, "1001.5")
    _until(lambda: set(os.listdir(f"{c.user.udocker_dir}/containers")) == before)


@behaviour
def a_kill_of_a_kept_containers_udocker_ends_the_program(c):
    with c.popen("sleep", "1002.5", stdout=subprocess.DEVNULL) as process:
        _until(lambda: _sleeps(c, "1002.5"))
        process.kill()
        process.wait(ENDED_S)
        _gone(c, "1002.5")


@behaviour
def thirty_two_programs_run_side_by_side(c):
    script = "echo $N >/tmp/side-$N; sleep 0.1; cat /tmp/side-$N; rm /tmp/side-$N"
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(c.shell_popen(script, "-e", f"N={number}"))
            for number in range(SIDE_BY_SIDE)
        ]
        found = [process.communicate(timeout=120)[0] for process in running]
    assert found == [f"{number}\n" for number in range(SIDE_BY_SIDE)]
    assert [process.returncode for process in running] == [0] * SIDE_BY_SIDE


@behaviour
def open_files_are_inherited(c):
    reader, writer = os.pipe()
    try:
        shell = "sh" if c.is_musl else "bash"  # dash knows no numbers of two digits
        with c.popen(shell, "-c", f"echo through >&{writer}", pass_fds=(writer,)) as process:
            assert process.wait(60) == 0
        ready, _, _ = select.select([reader], [], [], 1)
        assert ready and os.read(reader, 100) == b"through\n"
    finally:
        os.close(reader)
        os.close(writer)


@behaviour
def limits_hold(c):
    assert c.output("ulimit -n", "--ulimit=nofile=256:512") == "256\n"


@behaviour
def processors_are_those_asked_for(c):
    cpu = max(os.sched_getaffinity(0))
    listed = c.output("grep Cpus_allowed_list /proc/self/status", f"--cpuset-cpus={cpu}")
    assert listed.split()[1] == str(cpu)


@behaviour(needs=features.PROCESS_NAMESPACE)
def a_process_namespace_has_an_init_that_reaps(c):
    script = "(sleep 0.1 &) ; sleep 0.5; ls -d /proc/[0-9]* | wc -l; exit 5"
    done = c.sh(script, "--pid=private", "--init", check=False)
    assert done.returncode == 5
    assert int(done.stdout) < 10


# -- terminals


class Terminal:
    """A program of the container on a terminal of 33 lines and 77 columns."""

    def __init__(self, c, script, *options):
        self.master, slave = pty.openpty()
        self.resize(33, 77)
        words = c.words("sh", "-c", script, options=("-it", *options))
        command = [c.user.python, "-m", "udocker", *words]
        os.fchmod(slave, 0o666)
        self.process = c.user.popen(
            ["setsid", "--ctty", "--wait", *command], stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.text = ""

    def resize(self, lines, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def expect(self, text):
        """Read until the program has written `text`."""
        end = time.monotonic() + 30
        while text not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{text!r} did not come: {self.text!r}"
            try:
                self.text += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended before {text!r}: {self.text!r}") from None

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        """Return the exit code."""
        end = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.text!r}"
            self._read(0.05)
        while self._read(0):
            pass
        os.close(self.master)
        return self.process.returncode

    def _read(self, timeout_s):
        """Read what there is; no thread does it, whose descriptor may soon be another's."""
        ready, _, _ = select.select([self.master], [], [], timeout_s)
        try:
            data = os.read(self.master, 4096) if ready else b""
        except OSError:  # nobody has the other end any more
            time.sleep(0.01)
            data = b""
        self.text += data.decode(errors="replace")
        return data


@behaviour
def a_terminal_is_one_and_the_exit_code_is_exact(c):
    terminal = Terminal(c, "[ -t 0 ] && [ -t 1 ] && stty size; read line; echo got $line; exit 23")
    terminal.expect("33 77")
    terminal.type("words\n")
    terminal.expect("got words")
    assert terminal.end() == 23


@behaviour
def a_terminal_tells_its_new_size(c):
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done"
    terminal = Terminal(c, script)
    terminal.expect("ready")
    terminal.resize(44, 88)
    terminal.expect("44 88")
    assert terminal.end() == 0


@behaviour
def control_c_interrupts_the_program(c):
    terminal = Terminal(c, "trap 'echo interrupted; exit 7' INT; echo ready; sleep 1003 & wait")
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("interrupted")
    assert terminal.end() == 7


# -- network


@behaviour(needs=features.HOST_NAME)
def the_host_name_is_the_one_asked_for(c):
    assert c.output("cat /proc/sys/kernel/hostname; cat /etc/hostname", "--hostname=box") == (
        "box\nbox\n"
    )


@behaviour(needs=features.PRIVATE_NETWORK)
def a_private_network_has_loopback_only(c):
    script = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"
    assert (
        "".join(
            line + "\n" for line in c.output(script, "--network=none").split() if _is_device(line)
        )
        == "lo\n"
    )


def _is_device(name):
    """Tell whether an interface is none of those that the kernel makes in every namespace."""
    return not re.match(r"(tunl|gre|sit|ip6|ip_vti|erspan|gretap)", name)


@behaviour
def the_network_of_the_host_is_there(c):
    names = {name for _, name in socket.if_nameindex()}
    script = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"
    assert set(c.output(script).split()) == names
    with open("/etc/resolv.conf") as file:
        assert c.output("cat /etc/resolv.conf") == file.read()


@behaviour(needs=features.OWN_NAMES)
def a_name_added_is_found(c):
    assert "10.1.2.3\tfar" in c.output("cat /etc/hosts", "--add-host=far:10.1.2.3")


@behaviour(needs=features.PORTS)
def a_published_port_leads_into_a_private_network(c):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = "nc -l -p 80" if c.is_musl else f"perl -MIO::Socket::INET -e '{PERL_SERVER}'"
    options = ("--network=none", f"--publish=127.0.0.1:{port}:80")
    with c.shell_popen(f"echo ready; echo pong | {server}; sleep 1", *options) as process:
        assert process.stdout.readline() == "ready\n"
        assert _answer(port) == b"pong\n"
        # what is left behind would be joined by the next run of the container
        process.wait(timeout=60)


def _answer(port):
    for _ in range(100):
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", port)) as s,
        ):
            s.settimeout(20)
            answer = s.makefile("rb").read()
            if answer:
                return answer
        time.sleep(0.05)  # nobody listens inside yet
    raise AssertionError("no connection")


# -- life


@behaviour
def the_plan_can_be_pasted_into_a_shell(c):
    plan = c.run("sh", "-c", "echo 'a  b'; exit 3", options=("--dry-run",)).stdout
    done = c.user.run(["sh", "-c", plan], check=False)
    assert (done.stdout, done.returncode) == ("a  b\n", 3), done.stderr


@behaviour
def a_detached_run_is_logged_and_waited_for(c):
    words = c.words("sh", "-c", "echo out; echo err >&2; exit 4", options=("-d",))
    identifier = c.user.udocker(*words).stdout.strip()
    assert re.fullmatch("[0-9a-f]{32}", identifier)
    assert c.user.udocker("wait", c.name).stdout == "4\n"
    done = c.user.udocker("logs", c.name)
    assert done.stdout.endswith("out\n") and done.stderr.endswith("err\n")


@behaviour
def a_second_program_runs_beside_the_first(c):
    c.user.udocker(*c.words("sh", "-c", "echo here >/tmp/first; sleep 1004", options=("-d",)))
    try:
        _until(lambda: c.user.udocker("exec", c.name, "cat", "/tmp/first", check=False).stdout)
        assert c.user.udocker("exec", c.name, "cat", "/tmp/first").stdout == "here\n"
        assert c.user.udocker("exec", c.name, "sh", "-c", "exit 6", check=False).returncode == 6
    finally:
        c.user.udocker("stop", "-t", "1", c.name)
    assert "1004" not in [word for pid in _pids(c.user.uid) for word in _words(pid)]


@behaviour(only=DEBIAN)
def a_package_is_installed_by_apt(c):
    if not c.can(features.FAKE_ROOT):
        return
    script = "apt-get install -y /packages/greeter.deb && greeter && dpkg -s greeter | grep Status"
    place = os.path.join(c.user.home, "packages")
    done = c.sh(script, f"-v{place}:/packages", "-e", "DEBIAN_FRONTEND=noninteractive", timeout=300)
    assert done.stdout.endswith("greetings\nStatus: install ok installed\n"), done.stderr
    c.sh("apt-get remove -y greeter && ! greeter 2>&-", timeout=300)


@behaviour(only=DEBIAN)
def accounts_are_made(c):
    if not c.can(features.FAKE_ROOT):
        return
    c.sh("id alice 2>&- || useradd -m -s /bin/bash alice")
    assert c.output("grep -c ^alice: /etc/passwd /etc/shadow; ls -d /home/alice").endswith(
        "/home/alice\n"
    )


@behaviour(only=("musl",))
def a_program_of_musl_runs(c):
    assert c.run("hello-musl").stdout == "hello from musl\n"
