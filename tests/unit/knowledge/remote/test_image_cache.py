from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from rag_diffusion.knowledge.remote import image_cache
from rag_diffusion.knowledge.remote.image_cache import ImageCache


def used(cache: ImageCache) -> int:
    return sum(path.stat().st_size for path in cache.folder.iterdir())


def test_what_was_put_comes_back_also_after_a_restart(tmp_path: Path) -> None:
    ImageCache(tmp_path / "cache").put("http://a/b.png", b"picture")
    again = ImageCache(tmp_path / "cache")

    assert again.get("http://a/b.png") == b"picture"
    assert again.get("http://a/c.png") is None


def test_looking_makes_no_folder(tmp_path: Path) -> None:
    assert ImageCache(tmp_path / "cache").get("x") is None
    assert not (tmp_path / "cache").exists()


def test_a_file_cut_in_the_middle_is_not_taken_and_goes(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    for cut in (0, 10, 32, 35):
        cache.put("x", b"picture")
        path = next(tmp_path.iterdir())
        path.write_bytes(path.read_bytes()[:cut])

        assert cache.get("x") is None
        assert list(tmp_path.iterdir()) == []


def test_the_files_used_longest_ago_go_first(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, max_bytes=1100)
    for number, name in enumerate("abc"):
        cache.put(name, bytes(200))
        os.utime(cache._path(name), (number, number))
    cache.get("a")
    cache.put("d", bytes(400))

    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]
    assert used(cache) <= 990


def test_a_restarted_cache_knows_how_full_it_is(tmp_path: Path) -> None:
    for number in range(40):
        ImageCache(tmp_path, max_bytes=1000).put(str(number), bytes(100))

    assert used(ImageCache(tmp_path)) <= 1000


def test_an_image_beyond_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, max_bytes=1000)
    cache.put("x", bytes(2000))

    assert cache.get("x") is None


def test_many_writers_keep_the_bound(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, max_bytes=5000)

    def write(start: int) -> None:
        for number in range(start, start + 30):
            cache.put(str(number), bytes(500))
            assert cache.get(str(number)) in (None, bytes(500))

    writers = [threading.Thread(target=write, args=(start,)) for start in (0, 10, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert 0 < used(cache) <= 5000


def test_an_old_image_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ImageCache(tmp_path)
    cache.put("x", b"picture")
    assert cache.get("x") == b"picture"
    monkeypatch.setattr(image_cache, "MAX_AGE", -1.0)
    assert cache.get("x") is None
    monkeypatch.undo()
    assert cache.get("x") is None  # it is gone


def test_what_may_not_be_kept_any_more_is_not_kept(tmp_path: Path) -> None:
    wanted = True
    cache = ImageCache(tmp_path / "cache", wanted=lambda: wanted)
    cache.put("x", b"picture")
    wanted = False
    cache.put("y", b"picture")
    assert cache.get("y") is None
    assert cache.get("x") == b"picture"  # whoever says so removes the rest
