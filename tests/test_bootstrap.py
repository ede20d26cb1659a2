"""The first command of the README, as a user without privileges and with an empty home."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from unprivileged import ROOT, remove_tree
from wheelhouse import Index, write_wheels

sys.path.insert(0, os.path.join(ROOT, "utils"))
import bootstrap
import find_pip

import udocker

PARTS = ("udocker", "engines", "nvidia", "utils", "setup.py")
VERSION = f"{udocker.__version__}\n"


@pytest.fixture(scope="session")
def wheels(account, public_directory):
    """A directory with wheels of udocker's dependencies for the user's Python."""
    path = os.path.join(public_directory, "wheels")
    os.mkdir(path)
    names = [*bootstrap._required(bootstrap.EXTRAS), *bootstrap.OPTIONAL]
    write_wheels(names, account.python_path[1:] or sys.path, path)
    return path


@pytest.fixture
def place(unprivileged, wheels):
    return Place(unprivileged, wheels)


class Place:
    """A user with a checkout of its own; both paths hold a space."""

    def __init__(self, user, wheels):
        self.user = user
        self.home = os.path.join(user.home, "my home")
        self.checkout = os.path.join(user.home, "a checkout")
        for part in PARTS:
            source, target = os.path.join(ROOT, part), os.path.join(self.checkout, part)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if os.path.isdir(source):
                unwanted = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, target, symlinks=True, ignore=unwanted)
            else:
                shutil.copy2(source, target)
        os.mkdir(self.home)
        user.own(user.home)
        self.env = {
            "HOME": self.home,
            "UDOCKER_DIR": "",
            "PYTHONPATH": "",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": wheels,
        }
        self.environment = os.path.join(self.home, ".udocker", "env")
        self.link = os.path.join(self.home, ".local", "bin", "udocker")

    def argv(self, *words, python=None):
        script = os.path.join(self.checkout, "utils", "bootstrap.sh")
        return ["sh", script, "--python", python or self.user.python, *words]

    def bootstrap(self, *words, python=None, env=None, check=True):
        argv = self.argv(*words, python=python)
        return self.user.run(argv, env={**self.env, **(env or {})}, check=check)

    def start(self, *words):
        return self.user.popen(
            self.argv(*words),
            env=self.env,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def directories(self):
        parent = os.path.dirname(self.environment)
        names = os.listdir(parent) if os.path.isdir(parent) else []
        return {name for name in names if name.startswith("env-")}

    def write(self, path, text):
        path = os.path.join(self.home, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        self.user.own(self.home)
        return path

    def change(self):
        """Change the checkout, so that the environment is not of it any more."""
        with open(os.path.join(self.checkout, "udocker", "errors.py"), "a") as file:
            file.write("CHANGED = True\n")

    def without_pip(self):
        """Make a Python without pip, ensurepip and distutils, as Debian's minimal one."""
        ask = "import os, sys; print(sys._base_executable); print(os.path.dirname(os.__file__))"
        said = self.user.run([self.user.python, "-c", ask]).stdout
        executable, library = said.splitlines()
        top = os.path.join(self.user.home, "python")
        target = os.path.join(top, "lib", os.path.basename(library))
        os.makedirs(os.path.join(top, "bin"))
        os.makedirs(target)
        shutil.copy2(os.path.realpath(executable), os.path.join(top, "bin", "python3"))
        unwanted = {"ensurepip", "distutils", "site-packages", "dist-packages"}
        for name in set(os.listdir(library)) - unwanted:
            os.symlink(os.path.join(library, name), os.path.join(target, name))
        self.user.own(top)
        return os.path.join(top, "bin", "python3")


def test_what_was_added_once_stays(place):
    assert place.bootstrap("--with", "nonsense", check=False).returncode == 1
    place.bootstrap("--with=trust,socks")
    library = os.path.join(place.environment, "lib")
    assert {"cryptography", "socks.py"} <= set(os.listdir(library))
    first = place.directories()
    place.bootstrap("--with", "trust", "version")
    assert place.directories() == first
    place.change()
    place.bootstrap("version")
    assert {"cryptography", "socks.py"} <= set(os.listdir(library))


def test_the_first_run_installs_links_and_runs_and_only_udocker_speaks_on_stdout(place, wheels):
    done = place.bootstrap("--version")
    assert done.stdout == VERSION
    assert os.readlink(place.link) == os.path.join(place.environment, "bin", "udocker")
    assert "not on PATH" in done.stderr
    assert place.user.run([place.link, "--version"], env=place.env).stdout == VERSION
    library = os.path.join(place.environment, "lib")
    installed = set(os.listdir(library))
    assert {"click", "requests", "udocker"} <= installed
    # optional: there when it can be had, and not missed when not
    assert ("isal" in installed) == any(name.startswith("isal-") for name in os.listdir(wheels))
    assert not os.path.islink(os.path.join(library, "udocker", "nvidia"))


def test_the_second_run_installs_nothing_and_says_nothing(place):
    place.bootstrap("--version")
    before = os.readlink(place.environment), os.stat(place.environment).st_mtime_ns
    started = time.monotonic()
    done = place.bootstrap("--version")
    middle = time.monotonic()
    place.user.run([place.link, "--version"], env=place.env)
    took, alone = middle - started, time.monotonic() - middle
    print(f"second bootstrap {took:.3f} s, the command itself {alone:.3f} s")
    assert (done.stdout, done.stderr) == (VERSION, "")
    assert (os.readlink(place.environment), os.stat(place.environment).st_mtime_ns) == before


def test_a_bootstrap_that_is_killed_leaves_the_old_environment_and_the_next_one_clears_up(place):
    place.bootstrap("--version")
    old = place.directories()
    place.change()
    running = place.start("--version")
    while running.poll() is None and place.directories() == old:
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    killed = place.directories() - old
    assert len(killed) == 1
    assert {os.readlink(place.environment)} == old
    assert place.user.run([place.link, "--version"], env=place.env).stdout == VERSION
    place.bootstrap("--version")
    assert not killed & place.directories()
    assert os.readlink(place.environment) not in old
    with open(os.path.join(place.environment, "lib", "udocker", "errors.py")) as file:
        assert file.read().endswith("CHANGED = True\n")


def test_two_at_once_make_one_environment_and_both_run(place):
    running = [place.start("--version") for _ in range(2)]
    said = [each.communicate(timeout=120) for each in running]
    assert [each.returncode for each in running] == [0, 0], said
    assert [stdout for stdout, _ in said] == [VERSION, VERSION]
    assert len(place.directories()) == 1


def test_a_python_without_pip_and_ensurepip_gets_pip_from_the_configured_index(place, wheels):
    bundled = find_pip.bundled_wheel(find_pip.ensurepip_directories())
    if bundled is None:
        pytest.skip("needs ensurepip (package python3-venv), whose pip the test serves")
    served = os.path.join(place.user.home, "served")
    shutil.copytree(wheels, served)
    shutil.copy2(bundled, served)
    python = place.without_pip()
    with Index(served) as index:
        env = {"PIP_INDEX_URL": index.url, "PIP_NO_INDEX": "", "PIP_FIND_LINKS": ""}
        done = place.bootstrap("--version", python=python, env=env)
    assert done.stdout == VERSION
    with open(os.path.join(place.environment, "bin", "udocker")) as file:
        assert file.readline() == f"#!{python} -IS\n"


def test_without_pip_and_without_an_index_it_says_what_would_help(place):
    python = place.without_pip()
    done = place.bootstrap("--version", python=python, check=False)
    assert done.returncode == 1 and done.stdout == ""
    for words in ("has no pip", "PIP_INDEX_URL", "python3-pip", "--find-links wheels"):
        assert words in done.stderr
    assert place.directories() == set()


def test_wheels_of_a_directory_do_where_no_index_can_be_reached(place, wheels):
    unreachable = {"PIP_FIND_LINKS": "", "PIP_NO_INDEX": "", "PIP_INDEX_URL": "http://127.0.0.1:9"}
    hasty = {**unreachable, "PIP_RETRIES": "0"}
    refused = place.bootstrap("--version", env=hasty, check=False)
    assert refused.returncode == 1 and refused.stdout == ""
    assert "--find-links wheels" in refused.stderr
    assert place.directories() == set() and not os.path.lexists(place.link)
    done = place.bootstrap("--find-links", wheels, "--version", env=hasty)
    assert done.stdout == VERSION


def test_files_of_the_current_directory_do_not_take_the_place_of_modules(place):
    for name in ("pip", "logging", "shutil", "runpy", "click"):
        place.write(f"thesis/{name}.py", "raise SystemExit(0)")
    thesis = os.path.join(place.home, "thesis")
    done = place.user.run(place.argv("--version"), env=place.env, cwd=thesis)
    assert done.stdout == VERSION


def test_where_pips_files_say_that_packages_belong_does_not_matter(place):
    text = "[global]\nuser = true\nrequire-virtualenv = true\n[install]\nprefix = /nowhere\n"
    place.write(".config/pip/pip.conf", text)
    assert place.bootstrap("--version").stdout == VERSION


@pytest.mark.root
def test_a_user_without_a_home_gets_the_environment_in_the_directory_that_is_named(place):
    env = {"HOME": "", "UDOCKER_DIR": os.path.join(place.home, "here")}
    before = set(os.listdir(place.user.home))
    assert place.bootstrap("--version", env=env).stdout == VERSION
    assert place.bootstrap("images", env=env).returncode == 0
    assert set(os.listdir(place.user.home)) == before
    refused = place.bootstrap("--version", env={"HOME": ""}, check=False)
    assert refused.returncode == 1 and "set HOME or UDOCKER_DIR" in refused.stderr


def test_an_environment_whose_python_does_not_start_any_more_is_made_again(place):
    record = place.write(".udocker/env-gone/python", "/bin/false\n")
    os.symlink(os.path.dirname(record), place.environment)
    path = f"{os.path.dirname(place.user.python)}:{os.environ['PATH']}"
    argv = [*place.argv()[:2], "--version"]
    done = place.user.run(argv, env={**place.env, "PATH": path})
    assert done.stdout == VERSION


def test_uninstall_removes_the_usual_link_too(place):
    place.bootstrap("--version")
    site = os.path.join(place.home, "a site")
    done = place.bootstrap(f"--prefix={site}", "--version")
    assert f"export PATH='{site}/bin':$PATH" in done.stderr
    place.bootstrap("--prefix", site, "--uninstall")
    assert not os.path.lexists(place.link) and os.listdir(f"{site}/bin") == []


def test_uninstall_removes_the_link_and_the_environment_and_nothing_else(place):
    place.bootstrap("--prefix", os.path.join(place.home, "site"), "--", "--version")
    images = os.path.join(place.home, ".udocker", "images")
    os.makedirs(images)
    done = place.bootstrap("--prefix", os.path.join(place.home, "site"), "--uninstall")
    assert f"stay in {os.path.dirname(images)}" in done.stderr and done.stdout == ""
    assert os.listdir(os.path.join(place.home, ".udocker")) == ["images"]
    assert os.listdir(os.path.join(place.home, "site", "bin")) == []


@pytest.mark.root
def test_the_second_command_names_what_is_missing_where_no_environment_can_be_made(place):
    python = place.without_pip()
    script = os.path.join(place.checkout, "utils", "test.sh")
    done = place.user.run(["sh", script], env={**place.env, "PYTHON": python}, check=False)
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("no environment to test in could be made; not installed: ")
    assert "python3-venv" in last
    assert os.listdir(os.path.join(place.checkout, ".venv")) == []


def test_a_program_of_that_name_that_is_not_ours_stays(place):
    os.makedirs(os.path.dirname(place.link))
    with open(place.link, "w") as file:
        file.write("mine")
    place.user.own(place.home)
    assert "left as it is" in place.bootstrap("--version").stderr
    place.bootstrap("--uninstall")
    with open(place.link) as file:
        assert file.read() == "mine"


def test_the_words_after_ours_are_udockers():
    options = bootstrap.Options(["--prefix", "/p", "run", "--prefix", "/q", "--", "x"])
    assert (options.prefix, options.arguments) == ("/p", ["run", "--prefix", "/q", "--", "x"])
    assert bootstrap.Options(["--", "--uninstall"]).arguments == ["--uninstall"]
    options = bootstrap.Options(["--prefix=/p=q", "--python=python3", "run"])
    assert (options.prefix, options.arguments) == ("/p=q", ["run"])
    with pytest.raises(bootstrap.Failure, match="--prefix needs a value"):
        bootstrap.Options(["--prefix"])


@pytest.mark.parametrize("folder", ["with a space", "x" * 150])
def test_a_launcher_starts_whatever_the_path_of_its_python(tmp_path, folder):
    python = tmp_path / folder / "python3"
    python.parent.mkdir()
    python.symlink_to(os.path.realpath(sys._base_executable))
    (tmp_path / "lib" / "udocker").mkdir(parents=True)
    (tmp_path / "lib" / "udocker" / "__init__.py").touch()
    program = "import sys\ndef main():\n    print(sys.argv[1:], sys.flags.isolated)\n"
    (tmp_path / "lib" / "udocker" / "__main__.py").write_text(program)
    bootstrap._write_launcher(str(tmp_path / "bin"), str(python), str(tmp_path / "lib"))
    argv = [str(tmp_path / "bin" / "udocker"), "a b", "$c"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "['a b', '$c'] 1\n"


def test_a_fetched_pip_must_have_the_digest_that_the_index_says(tmp_path):
    good = b"a wheel"
    (tmp_path / "pip-9.1-py3-none-any.whl").write_bytes(good)
    (tmp_path / "into").mkdir()
    with Index(str(tmp_path)) as index:
        path = find_pip.fetched_wheel([index.url], str(tmp_path / "into"))
        url = find_pip.Wheel((9, 1), f"{index.url[:-7]}/wheels/pip-9.1-py3-none-any.whl", "0" * 64)
        with pytest.raises(ValueError, match="has not the sha256"):
            find_pip._fetched(url, str(tmp_path))
    with open(path, "rb") as file:
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(good).digest()


def test_a_password_in_the_url_of_an_index_is_sent_to_it_and_never_shown(tmp_path):
    (tmp_path / "pip-9.1-py3-none-any.whl").write_bytes(b"a wheel")
    (tmp_path / "into").mkdir()
    with Index(str(tmp_path), user="me:s3cr:t") as index:
        host = index.url.partition("//")[2]
        path = find_pip.fetched_wheel([f"http://me:s3cr%3At@{host}"], str(tmp_path / "into"))
        with pytest.raises(find_pip.NoPip, match="401") as refused:
            find_pip.fetched_wheel([f"http://me:wr0ng@{host}"], str(tmp_path / "into"))
    assert os.path.basename(path) == "pip-9.1-py3-none-any.whl"
    assert "wr0ng" not in str(refused.value)


def test_only_wheels_that_suit_this_python_and_have_a_digest_are_taken(tmp_path):
    page = tmp_path / "index.html"
    rows = [
        ("pip-22.1-py3-none-any.whl#sha256=aa", ">=3.6"),
        ("pip-9.0.1-py2.py3-none-any.whl#sha256=bb", ""),
        ("pip-23.10-py3-none-any.whl#sha256=cc", ">=3.6, !=3.7.0"),
        ("pip-23.9-py3-none-any.whl#sha256=dd", ">=3.6"),
        ("pip-99.0-py3-none-any.whl#sha256=ee", ">=99.1"),
        ("pip-98.0-py3-none-any.whl", ">=3.6"),
        ("pip-97.0b1-py3-none-any.whl#sha256=ff", ">=3.6"),
    ]
    links = [
        f'<a href="{href}" data-requires-python="{r.replace(">", "&gt;")}">' for href, r in rows
    ]
    page.write_text("".join(links))
    offered = list(find_pip.offered_wheels(page.as_uri()))
    assert max(offered).version == (23, 10)
    assert sorted(wheel.sha256 for wheel in offered) == ["aa", "cc", "dd"]


def test_indexes_are_those_of_pips_variables_and_files(tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://site.example/simple\n[install]\n")
    environment = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(config)}
    assert find_pip.configured_indexes(environment)[0] == "https://site.example/simple"
    environment["PIP_INDEX_URL"] = "https://mine.example/simple"
    assert find_pip.configured_indexes(environment)[0] == "https://mine.example/simple"


def test_a_tree_is_removed_whatever_its_modes(tmp_path):
    (tmp_path / "tree" / "closed" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "closed").chmod(0)
    remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()
