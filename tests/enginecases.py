"""What every engine must do that is another's program, tried straight; see `straight`.

A test module has a fixture `engine` (a `Straight`) and a class that has these cases.
"""

import os
import signal
import subprocess
import time

import pytest


class EngineCases:
    """Sentences that are true of every engine; `engine` is a fixture of the test module."""

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
            (["/etc"], 126),
            (["/srv/orphan"], 127),
        ],
    )
    def test_exit_codes_are_exact(self, engine, words, code):
        done = engine.run(*words)
        assert done.returncode == code
        assert ("udocker: run" in done.stderr) == (code in (126, 127))

    def test_streams_stay_apart_and_are_binary_clean(self, engine):
        done = engine.run("sh", "-c", "echo out; echo err >&2")
        assert (done.stdout, done.stderr) == ("out\n", "err\n")
        data = bytes(range(256)) * 8000
        assert engine.run("cat", input=data, text=False).stdout == data

    def test_output_that_nobody_reads_ends_the_program(self, engine):
        process = engine.popen("yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        process.stderr.read()
        process.stderr.close()
        assert process.wait(30) == 128 + signal.SIGPIPE

    @pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "WINCH", "QUIT"])
    def test_signals_reach_the_program(self, engine, name):
        script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
        process = engine.popen("sh", "-c", script, stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(getattr(signal, f"SIG{name}"))
            assert process.stdout.read() == f"got {name}\n"
            assert process.wait(30) == 9

    def test_a_kill_of_udocker_leaves_no_process(self, engine):
        script = "sleep 1234.5 & echo $$ $!; sleep 1234.5"
        process = engine.popen("sh", "-c", script, stdout=subprocess.PIPE, text=True)
        with process:
            pids = process.stdout.readline().split()
            process.kill()
        _until(lambda: not any(map(_is_alive, pids)))

    def test_what_a_program_leaves_running_ends_with_it_and_its_files_are_removed(self, engine):
        before = engine.left()
        done = engine.run("sh", "-c", "sleep 1234.5 >/dev/null 2>&1 & echo $!")
        assert not _is_alive(done.stdout.strip())
        assert engine.left() == before

    def test_volumes_are_directories_and_files_writable_and_not(self, engine):
        place = engine.place(file="text\n")
        binds = [
            [place, "/data"],
            [place, "/ro/deep", True],
            [f"{place}/file", "/etc/one", True],
            [place, "/srv/link/x"],
        ]
        script = (
            "cat /etc/one /ro/deep/file /srv/real/x/file; echo new >/data/new; "
            "! echo x >/ro/deep/denied && ! echo x >/etc/one"
        )
        assert engine.sh(script, binds=binds) == "text\n" * 3
        assert sorted(os.listdir(place)) == ["file", "new"]
        assert os.stat(f"{place}/new").st_uid == engine.user.uid

    def test_mounts_below_a_read_only_volume_are_read_only_too(self, engine):
        script = "! touch /mnt/shm/udocker-denied 2>&1 && ls /mnt"
        assert "Read-only" in engine.sh(script, binds=[["/dev", "/mnt", True]])

    def test_a_link_of_the_image_leads_no_mount_point_to_the_host(self, engine):
        host = engine.elsewhere()
        targets = (host, f"/oldroot{host}", f"/../..{host}", f"/proc/self/root{host}")
        for n, target in enumerate(targets):
            os.symlink(target, f"{engine.root}/srv/trap{n}")
            os.symlink(f"{target}/file", f"{engine.root}/srv/file{n}")
        volume = engine.place(x="x\n")
        every = range(len(targets))
        engine.sh("true", binds=[[volume, f"/srv/trap{n}/made"] for n in every])
        engine.sh("true", binds=[[f"{volume}/x", f"/srv/file{n}"] for n in every])
        engine.sh("true", files=[[f"/srv/trap{n}/text", "text"] for n in every])
        for n in (0, 1):
            engine.sh("true", cwd=f"/srv/trap{n}/directory")
        assert os.listdir(host) == []
        os.rmdir(host)

    def test_text_files_and_links_are_injected_and_do_not_stay(self, engine):
        place = engine.place(library="code\n")
        how = {
            "files": [["/etc/passwd", "injected\n"]],
            "binds": [[f"{place}/library", "/run/udocker/lib/libx.so.1", True]],
            "links": [["/run/udocker/lib/libx.so", "libx.so.1"]],
        }
        script = "cat /etc/passwd /run/udocker/lib/libx.so; ! echo x >>/etc/passwd"
        assert engine.sh(script, **how) == "injected\ncode\n"
        assert engine.sh("cat /etc/passwd; ls /run/udocker").startswith("root:")

    def test_environment_directory_and_arguments_arrive_as_they_are(self, engine):
        value = 'it\'s "q" $x `y` \\ \t\n ü=;,'
        script = 'pwd; echo "$A"; for a; do echo "[$a]"; done'
        done = engine.run(
            "sh", "-c", script, "sh", "", "a b", "--", env={"A": value}, cwd="/new/dir"
        )
        assert done.stdout == f"/new/dir\n{value}\n[]\n[a b]\n[--]\n"

    def test_the_images_environment_does_not_reach_the_loader_of_the_engine(self, engine):
        place = engine.place(**{"libc.so.6": "no library\n"})
        env = {"LD_LIBRARY_PATH": place, "LD_PRELOAD": f"{place}/libc.so.6"}
        assert engine.sh("echo $LD_PRELOAD", env=env) == f"{place}/libc.so.6\n"

    def test_open_files_are_inherited_and_no_others(self, engine):
        reader, writer = os.pipe()
        try:
            script = f"echo through >&{writer}; for f in /proc/$$/fd/*; do readlink $f; done"
            how = {
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.DEVNULL,
            }
            process = engine.popen("sh", "-c", script, pass_fds=(writer,), text=True, **how)
            out, _ = process.communicate(timeout=30)
            assert os.read(reader, 100) == b"through\n"
            assert not [
                line for line in out.splitlines() if line.startswith("/") and "dev/" not in line
            ]
        finally:
            os.close(reader)
            os.close(writer)

    def test_devices_and_proc_are_the_hosts(self, engine):
        script = "echo x >/dev/null; head -c 3 /dev/zero | wc -c; readlink /dev/fd; ls /sys/class"
        assert engine.sh(script).startswith("3\n/proc/self/fd\n")
        assert engine.sh(f"ls -d /proc/{os.getpid()}").strip().endswith(str(os.getpid()))

    def test_a_host_name_and_a_network_are_the_containers_own(self, engine):
        script = "hostname; grep -c : /proc/net/dev; ifconfig lo | grep -c UP"
        assert engine.sh(script, hostname="box", network="none").split()[0] == "box"
        names = engine.sh("cut -d: -f1 /proc/net/dev", network="none").split()
        assert "lo" in names and "eth0" not in names

    def test_a_read_only_root_can_be_changed_in_volumes_only(self, engine):
        place = engine.place()
        script = "! touch /x; touch /data/y; echo $?"
        assert engine.sh(script, readonly=True, binds=[[place, "/data"]]) == "0\n"

    def test_root_can_do_what_package_managers_do(self, engine):
        script = "touch /f && chown 7:8 /f && chgrp 9 /f && chmod 4755 /f && id -u"
        assert engine.sh(script) == "0\n"

    def test_eight_runs_at_once_share_the_containers_files(self, engine):
        engine.run("true")
        script = "echo $0 >/tmp/f$0; sleep 0.2; cat /tmp/f$0"
        pipe = {"stdout": subprocess.PIPE, "text": True}
        runs = [engine.popen("sh", "-c", script, str(n), **pipe) for n in range(8)]
        assert [run.communicate(timeout=60)[0] for run in runs] == [f"{n}\n" for n in range(8)]


def _until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
