import contextlib
import os
import stat
import subprocess
import sys
import threading

import pytest

from udocker import disk, trees
from udocker.errors import StoreError


def test_a_reader_sees_the_old_content_or_the_new(tmp_path):
    path = str(tmp_path / "f")
    disk.write_whole(path, b"old")
    with open(path, "rb") as opened:
        disk.write_whole(path, b"new")
        assert opened.read() == b"old"
    assert disk.read(path, 10) == b"new"
    assert os.listdir(tmp_path) == ["f"]


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    os.mkdir(tmp_path / "f")
    with pytest.raises(StoreError):
        disk.write_whole(str(tmp_path / "f"), b"data")
    assert os.listdir(tmp_path) == ["f"]


def test_a_file_that_the_user_named_is_not_moved_by_a_setting():
    for number, hint in ((28, "more room"), (13, "can write")):
        error = disk.output_error(OSError(number, os.strerror(number)), "/x")
        assert hint in error.hint
        assert "UDOCKER_DIR" not in error.hint
    assert disk.output_error(OSError(2, "No such file or directory"), "/x").hint is None


def test_a_full_disk_is_said_with_the_way_out():
    with pytest.raises(StoreError) as caught:
        raise disk.store_error(OSError(28, "No space left on device"), "/x")
    assert "UDOCKER_DIR" in caught.value.hint


def test_a_file_larger_than_its_bound_is_not_read(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    with pytest.raises(StoreError):
        disk.read(str(tmp_path / "f"), 4)
    assert disk.read(str(tmp_path / "none"), 4) is None


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path):
    path = str(tmp_path / "f")
    os.mkfifo(path)
    assert disk.read(path, 10) == b""
    writer = os.open(path, os.O_RDWR)
    assert disk.read(path, 10) == b""
    os.close(writer)


def test_what_stands_in_the_place_of_a_directory_is_named(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(StoreError, match="f: there is something else in its place"):
        disk.make_directory(str(tmp_path / "f" / "below"))
    with pytest.raises(StoreError, match="f: Not a directory"):
        disk.names_in(str(tmp_path / "f"))
    assert disk.names_in(str(tmp_path / "none")) == []


def test_a_tree_is_removed_whatever_its_modes_and_depth(unprivileged, tmp_path):
    make = "import os\nfor i in range(300): os.mkdir('d'); os.chdir('d')\n"
    make += "open('f','w'); os.chmod('f', 0); os.chmod('.', 0); os.chdir('/')"
    tree = f"{unprivileged.home}/tree"
    unprivileged.run(["mkdir", "-p", f"{tree}/locked/in"])
    unprivileged.run([unprivileged.python, "-c", make], cwd=tree)
    unprivileged.run(["chmod", "000", f"{tree}/locked/in", f"{tree}/locked"])
    remove = "import resource, sys\nresource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n"
    remove += "from udocker import trees; trees.remove_tree(sys.argv[1])"
    unprivileged.run([unprivileged.python, "-c", remove, tree])
    assert not os.path.lexists(tree)


def test_removing_a_tree_follows_no_link(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "f").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    trees.remove_tree(str(tmp_path / "tree"))
    trees.remove_tree(str(tmp_path / "tree"))
    assert os.listdir(tmp_path / "kept") == ["f"]


def test_a_copied_tree_has_the_same_links_modes_and_times(tmp_path):
    source = tmp_path / "source"
    source.mkdir(0o751)
    (source / "f").write_bytes(b"x" * 100_000)
    os.chmod(source / "f", 0o604)
    os.utime(source / "f", ns=(1, 2_000_000_001))
    os.link(source / "f", source / "g")
    (source / "l").symlink_to("/nowhere")
    os.mkfifo(source / "p", 0o600)
    copy = tmp_path / "copy"
    trees.copy_tree(str(source), str(copy))
    assert (copy / "f").read_bytes() == (source / "f").read_bytes()
    assert os.stat(copy / "f").st_mtime_ns == 2_000_000_001
    assert stat.S_IMODE(os.stat(copy / "f").st_mode) == 0o604
    assert os.stat(copy / "f").st_ino == os.stat(copy / "g").st_ino != os.stat(source / "f").st_ino
    assert os.readlink(copy / "l") == "/nowhere"
    assert stat.filemode(os.stat(copy / "p").st_mode) == "prw-------"
    assert stat.S_IMODE(os.stat(copy).st_mode) == 0o751


def test_a_copy_has_the_holes_of_the_original(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "f", "wb") as file:
        for start in (1 << 20, 1 << 25):
            file.seek(start)
            file.write(b"data")
        file.truncate(1 << 26)
    trees.copy_tree(str(source), str(tmp_path / "copy"))
    copy = tmp_path / "copy" / "f"
    assert (os.stat(copy).st_size, os.stat(copy).st_blocks < 1000) == (1 << 26, True)
    with open(copy, "rb") as file:
        assert os.pread(file.fileno(), 8, (1 << 25) - 2) == b"\0\0data\0\0"


def test_a_lock_is_held_by_the_programs_that_inherit_it(tmp_path):
    path = str(tmp_path / "lock")
    lock = disk.Lock(path)
    assert lock.acquire(wait=False)
    lock.pass_on()
    program = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False
    )
    lock.release()
    other = disk.Lock(path)
    assert not other.acquire(wait=False)
    program.communicate(b"\n")
    assert other.acquire(wait=False)
    other.release()


def test_a_tree_that_is_written_to_for_a_moment_more_is_removed(tmp_path):
    """As the workers of a killed command do, until they notice."""
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    directory = os.open(tree / "below", os.O_RDONLY)

    def write():
        with contextlib.suppress(FileNotFoundError):
            for number in range(2000):
                os.close(os.open(f"f{number}", os.O_WRONLY | os.O_CREAT, dir_fd=directory))

    writer = threading.Thread(target=write)
    writer.start()
    trees.remove_tree(str(tree))
    writer.join()
    os.close(directory)
    assert not tree.exists()
