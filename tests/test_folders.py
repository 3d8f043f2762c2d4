"""Folders appear whole or not at all, whenever their writer is killed, and one process writes at a time."""

import ctypes
import errno
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from hf_lifelong.utils import folders
from hf_lifelong.utils.folders import BusyFolderError, atomic_folder, clear_leftovers, sole_writer

FORK = multiprocessing.get_context("fork")
# What changes a file system, or waits for it: a process is killed before each of them in turn.
OPERATIONS = ("open", "mkdir", "rename", "unlink", "rmdir", "fsync")


def write(target, content):
    with atomic_folder(target) as fresh:
        (fresh / "sub").mkdir()
        (fresh / "sub" / "a").write_text(content)
        (fresh / "b").write_text(content)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def whole(content):
    return {"sub/a": content, "b": content}


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "folder"
    with atomic_folder(target) as fresh:
        (fresh / "sub").mkdir()
        (fresh / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    with atomic_folder(target) as fresh:
        (fresh / "b").write_text("2")
    assert os.listdir(target) == ["b"] and os.listdir(target.parent) == ["folder"]


def test_an_error_leaves_the_folder_as_it_was(tmp_path):
    target = tmp_path / "folder"
    write(target, "1")

    def fail_half_way():
        with atomic_folder(target) as fresh:
            (fresh / "b").write_text("2")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert contents(target) == whole("1") and os.listdir(tmp_path) == ["folder"]


def no_library(*_, **__):
    """A C library in which no two folders can change places."""
    return object()


def killed_before(operation, target, content):
    """Writes a folder in a child that is killed before its n-th operation; returns whether it was."""
    if (child := os.fork()) == 0:
        left = [operation]

        def counted(function):
            def call(*args, **kwargs):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        for name in OPERATIONS:
            setattr(os, name, counted(getattr(os, name)))
        ctypes.CDLL = counted(ctypes.CDLL)  # looked up for the exchange of two folders
        write(target, content)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_writer_may_be_killed_at_any_moment(tmp_path, monkeypatch, exchanged):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # which takes long, and changes nothing here
    if not exchanged:
        monkeypatch.setattr(ctypes, "CDLL", no_library)
    target, operation, seen, missing = tmp_path / "folder", 1, [], 0
    write(target, "old")
    while killed_before(operation, target, "new"):
        missing += not target.exists()
        clear_leftovers(target)
        assert os.listdir(tmp_path) in (["folder"], ["folder", ".folder.lock"], [".folder.lock", "folder"])
        seen.append(contents(target))
        shutil.rmtree(target)
        write(target, "old")
        assert os.listdir(tmp_path) == ["folder"]
        operation += 1
    assert contents(target) == whole("new") and os.listdir(tmp_path) == ["folder"]
    old = seen.count(whole("old"))
    assert 10 < old < len(seen) and seen == [whole("old")] * old + [whole("new")] * (len(seen) - old)
    assert missing == (0 if exchanged else 1)  # where no two folders can change places, for one moment


def test_leftovers_of_other_folders_stay(tmp_path):
    others = (".folder2.0a1b2c3d.unfinished", ".folder.unfinished", ".folder.old", ".folder.x.0a1b2c3d.old")
    for name in (*others, ".folder.0a1b2c3d.unfinished", ".folder.0a1b2c3d.old"):
        (tmp_path / name).mkdir()
    write(tmp_path / "folder", "1")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "folder"])


def test_an_error_of_the_file_system_is_told_and_changes_nothing(tmp_path, monkeypatch):
    write(tmp_path / "folder", "1")

    def denied(*_):
        ctypes.set_errno(errno.EACCES)
        return -1

    library = type("Library", (), {"renameat2": staticmethod(denied)})
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    with pytest.raises(PermissionError, match="folder"):
        write(tmp_path / "folder", "2")
    assert contents(tmp_path / "folder") == whole("1") and os.listdir(tmp_path) == ["folder"]


def hold(folder, held):
    with sole_writer(folder):
        held.set()
        signal.pause()


@pytest.fixture
def other_writer(tmp_path):
    """Another process that writes `tmp_path/folder`, until it is killed."""
    held = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path / "folder", held))
    process.start()
    assert held.wait(10)
    yield process
    process.kill()
    process.join()


def test_a_second_writer_is_told_and_the_lock_of_a_killed_one_is_free(tmp_path, monkeypatch, other_writer):
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    with pytest.raises(BusyFolderError, match=r"folder` is being written by another process, so nothing was changed"):
        write(tmp_path / "folder", "1")
    assert os.listdir(tmp_path) == [".folder.lock"]
    other_writer.kill()
    other_writer.join()
    write(tmp_path / "folder", "1")
    assert os.listdir(tmp_path) == ["folder"]


def add_one(target, times):
    for _ in range(times):
        with atomic_folder(target) as fresh:
            count = int((target / "count").read_text())
            (fresh / "count").write_text(str(count + 1))


def test_what_one_writer_did_the_next_one_sees(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as fresh:
        (fresh / "count").write_text("0")
    writers = [FORK.Process(target=add_one, args=(target, 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert (target / "count").read_text() == "100" and os.listdir(tmp_path) == ["folder"]


def test_a_lock_that_moved_with_its_folder_leaves_the_new_one_alone(tmp_path):
    """As where a task is forgotten: the lock lies in the folder that is exchanged, and somebody takes it anew."""
    inner = tmp_path / "folder" / "inner"
    lock = Path(tmp_path, "folder", ".inner.lock")
    with sole_writer(inner):
        write(tmp_path / "folder", "1")
        assert not lock.exists()
        with sole_writer(inner):
            assert lock.exists()
    assert contents(tmp_path / "folder") == whole("1")


def test_a_file_system_without_locks_is_told_and_written(tmp_path, monkeypatch, caplog):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    write(tmp_path / "folder", "1")
    assert contents(tmp_path / "folder") == whole("1")
    assert "has no locks; let only one process write there" in caplog.text
