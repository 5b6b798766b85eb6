from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_dir, atomic_write, code_hash, file_hash, recover_dir, tree_hash

OLD = b"old content"
TOO_MUCH = b"x" * (2 << 20)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that holds less than 1 MiB: a real tmpfs where this process may mount one.

    Elsewhere every flush to disk and every copy says that the disk is full.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        monkeypatch.setattr(os, "fsync", full_disk)
        monkeypatch.setattr(Path, "write_bytes", full_disk)
    yield disk
    if mounted:
        subprocess.run(["umount", str(disk)], check=True)


def full_disk(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def put(path: Path, content: bytes = OLD) -> Path:
    with path.open("wb") as file:
        file.write(content)
    return path


def test_atomic_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json")
    atomic_write(path, "new")

    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_makes_missing_folders(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a" / "b" / "c.bin", b"\0")

    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"\0"


def test_atomic_write_never_writes_through_a_link(tmp_path: Path) -> None:
    cached = put(tmp_path / "cached")
    linked, symbolic = tmp_path / "linked", tmp_path / "symbolic"
    linked.hardlink_to(cached)
    symbolic.symlink_to(cached)
    atomic_write(linked, "new")
    atomic_write(symbolic, "new")

    assert cached.read_bytes() == OLD
    assert not symbolic.is_symlink()


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(small_disk: Path) -> None:
    path = put(small_disk / "a.bin")
    with pytest.raises(DataError, match=r"a\.bin: expected room to write, but the disk is full .* free some space"):
        atomic_write(path, TOO_MUCH)

    assert path.read_bytes() == OLD
    assert list(small_disk.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_directory_and_says_what_to_do(small_disk: Path) -> None:
    path = small_disk / "corpus"
    path.mkdir()
    put(path / "a.bin")
    with (
        pytest.raises(DataError, match="corpus: expected room to write, but the disk is full"),
        atomic_dir(path) as new,
    ):
        (new / "a.bin").write_bytes(TOO_MUCH)

    assert (path / "a.bin").read_bytes() == OLD
    assert list(small_disk.iterdir()) == [path]


def test_atomic_dir_replaces_all_of_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    path.mkdir()
    put(path / "stale.bin")
    with atomic_dir(path) as new:
        put(new / "a.bin", b"new")
        assert (path / "stale.bin").exists(), "the old content stands until the new is whole"

    assert [file.name for file in path.iterdir()] == ["a.bin"]
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_dir_keeps_the_old_content_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    path.mkdir()
    put(path / "a.bin")
    with pytest.raises(RuntimeError, match="boom"), atomic_dir(path) as new:
        put(new / "a.bin", b"half")
        raise RuntimeError("boom")

    assert (path / "a.bin").read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_other_operating_system_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_dir(tmp_path / "corpus") as new:
        (new / "missing").read_bytes()


def test_a_kill_inside_atomic_dir_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    path.mkdir()
    put(path / "a.bin")
    code = (
        "import os, signal, sys\nfrom rag_diffusion.files import atomic_dir\n"
        "with atomic_dir(sys.argv[1]) as new:\n"
        "    (new / 'a.bin').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)

    assert killed.returncode == -9
    assert [file.name for file in path.iterdir()] == ["a.bin"]
    assert (path / "a.bin").read_bytes() == OLD
    with atomic_dir(path) as new:  # and the next run is not disturbed by what was left
        put(new / "a.bin", b"new")
    assert (path / "a.bin").read_bytes() == b"new"


def test_a_kill_between_the_two_renames_is_recovered_and_what_is_left_over_cleared(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for name in (".run.1.old", ".run.2.old", ".run.3.tmp", "other"):
        (tmp_path / name).mkdir()
        put(tmp_path / name / "a.bin", name.encode())
    os.utime(tmp_path / ".run.1.old", (1, 1))
    recover_dir(path)

    assert (path / "a.bin").read_bytes() == b".run.2.old", "the newest"
    assert {file.name for file in tmp_path.iterdir()} == {"run", "other"}
    recover_dir(path)
    assert (path / "a.bin").read_bytes() == b".run.2.old"


def test_hashes_are_those_of_sha256(tmp_path: Path) -> None:
    path = put(tmp_path / "a", b"abc")

    assert file_hash(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_tree_hash_depends_on_names_and_bytes_alone(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "sub").mkdir(parents=True)
    for file in ("b", "a", "sub/c"):
        put(tmp_path / "one" / file, file.encode())
    for file in ("sub/c", "a", "b"):
        put(tmp_path / "two" / file, file.encode())
    same = tree_hash(tmp_path / "one")

    assert tree_hash(tmp_path / "two") == same
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "d")
    assert tree_hash(tmp_path / "two") != same
    put(tmp_path / "one" / "a", b"other")
    assert tree_hash(tmp_path / "one") != same


def test_the_code_hash_follows_the_package_it_names() -> None:
    assert code_hash("sampling") == code_hash("sampling")
    assert code_hash("sampling") != code_hash("models")
    assert code_hash("models", "sampling") not in (code_hash("sampling"), code_hash("models"))
