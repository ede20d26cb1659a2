"""A machine dressed as a GPU node for as long as a test wants, where users run udocker."""

from __future__ import annotations

import contextlib
import os
import subprocess

FAKENODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fakenode.sh")


class Node:
    """This machine as the node that `drivertree` made in `tree`; see fakenode.sh. Root only."""

    def __init__(self, tree, *options):
        """`options` are fakenode.sh's; its nodes can be opened."""
        self._process = subprocess.Popen(
            ["bash", FAKENODE, "--null-nodes", *options, tree, "sh", "-c", "echo $$; read _"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._pid = self._process.stdout.readline().strip()
        assert self._pid, "the machine could not be dressed"

    def close(self):
        """The machine is as it was."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    @contextlib.contextmanager
    def only_for_group(self, name, gid):
        """A device node opens for the members of a group alone."""
        inside = ("nsenter", "--mount", "--target", self._pid, "sh", "-c")
        subprocess.run([*inside, f"chgrp {gid} /dev/{name} && chmod 660 /dev/{name}"], check=True)
        yield
        subprocess.run([*inside, f"chgrp 0 /dev/{name} && chmod 666 /dev/{name}"], check=True)

    def command(self, user, argv, env=None, groups=()):
        """Return the words by which root runs a program on this node as a user."""
        more = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
        rights = (more, "--inh-caps=-all", "--ambient-caps=-all")
        given = [f"{name}={value}" for name, value in user.environment(env).items()]
        return [
            *("nsenter", "--mount", "--target", self._pid),
            *("setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", *rights),
            *("env", "-i", f"--chdir={user.home}", *given, *argv),
        ]

    def run(self, user, *argv, env=None, groups=(), check=True, timeout=120):
        """Run a program on this node as a user, to its end, and return what it said."""
        done = subprocess.run(
            self.command(user, argv, env, groups),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{argv}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def udocker(self, user, *args, **options):
        """Run udocker on this node as a user, as `run` does."""
        return self.run(user, user.python, "-m", "udocker", *args, **options)
