"""Files are written whole or not at all, where and as they were."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from akm_triton.files import replace_bytes


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, near, chain = tmp_path / "far" / "a.pt", tmp_path / "near.pt", tmp_path / "chain.pt"
    near.symlink_to(Path("far") / "a.pt")
    chain.symlink_to(near)
    for link in (chain, near):  # first where nothing is at its end
        content = link.name.encode()
        replace_bytes(link, content)
        assert link.is_symlink() and not target.is_symlink()
        assert target.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["chain.pt", "far", "near.pt"]
    assert os.listdir(target.parent) == ["a.pt"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        replace_bytes(loop, b"")
    assert loop.is_symlink()


@pytest.mark.parametrize("bits", [0o600, 0o664, 0o444, 0o755], ids=oct)
def test_mode_and_owner_stay(
    bits: int, umask: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync = tmp_path / "a.pt", os.fsync
    replace_bytes(path, b"old")
    assert mode(path) == 0o640  # a new file's
    path.chmod(bits)
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    before, meanwhile = path.stat(), []

    def fsync(descriptor: int) -> None:
        meanwhile.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    replace_bytes(path, b"new")
    after = path.stat()
    assert path.read_bytes() == b"new" and after.st_ino != before.st_ino
    assert (mode(path), after.st_uid, after.st_gid) == (bits, before.st_uid, before.st_gid)
    assert meanwhile == [bits]  # nobody reads on the way what is private


@pytest.mark.parametrize(
    "name",
    ["a" * 251, "b" * 255, "é" * 127, "🌫" * 63, ".hidden" + 35 * ".x.json"],
    ids=["long", "longest", "two bytes", "four bytes", "hidden"],
)
def test_every_name_that_a_file_can_have(name: str, tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        replace_bytes(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == content
    assert os.listdir(tmp_path) == [name]


def test_writers_of_one_pid_do_not_meet(tmp_path: Path) -> None:
    """As threads do, and containers on shared storage: every read finds what one of them wrote."""
    path, failures, done = tmp_path / "a.pt", [], threading.Event()
    replace_bytes(path, b"")

    def write(letter: bytes) -> None:
        try:
            for length in range(40):
                replace_bytes(path, letter * (length << 12))
        except OSError as error:
            failures.append(error)

    def look() -> None:
        while not done.is_set():
            found = path.read_bytes()
            if len(set(found)) > 1 or len(found) % (1 << 12):
                failures.append(found)

    reader = threading.Thread(target=look)
    writers = [threading.Thread(target=write, args=(bytes([65 + i]),)) for i in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not failures
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_failure_leaves_the_old_file_alone(
    call: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")
    path.chmod(0o600)

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(type(error)):
        replace_bytes(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.pt"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        replace_bytes(path, b"through")
        assert os.read(reader, 100) == b"through"
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and link.is_symlink()
    with pytest.raises(IsADirectoryError):
        replace_bytes(tmp_path, b"")
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]
