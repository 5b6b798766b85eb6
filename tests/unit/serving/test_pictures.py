from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from PIL import Image, ImageOps

from rag_diffusion.readers import images
from rag_diffusion.readers.checked import checked_image
from rag_diffusion.readers.images import ImageError, decode
from rag_diffusion.serving.pictures import MEMORY, Pictures
from tests.unit.readers.pictures import encoded, noise, picture

SIDE = 64


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    made = Pictures(workers=2)
    yield made
    made.close()


class Watch:
    """The most memory that the processes below this one had together."""

    def __init__(self) -> None:
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.005):
            size = 0
            for child in me.children(recursive=True):
                try:
                    size += child.memory_full_info().uss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, size)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_is_what_it_is_in_this_process(pictures: Pictures, form: str) -> None:
    content = encoded(noise(3, 90, 120), form)

    assert pictures.checked(content, "a", SIDE).tobytes() == checked_image(content, "a", SIDE).tobytes()


@pytest.mark.parametrize("content", [b"", b"<html>", picture(0)[:-30], encoded(Image.new("1", (9000, 9000)))])
def test_what_is_no_picture_has_the_same_reason_as_in_this_process(pictures: Pictures, content: bytes) -> None:
    with pytest.raises(ImageError) as here:
        checked_image(content, "a", SIDE)
    with pytest.raises(ImageError) as there:
        pictures.checked(content, "a", SIDE)

    assert (there.value.reason, str(there.value)) == (here.value.reason, str(here.value))


@pytest.mark.slow
def test_the_largest_picture_stays_within_its_memory_which_goes_back(pictures: Pictures) -> None:
    content = encoded(Image.new("RGBA", (8192, 8192), (255, 0, 0, 128)))
    with Watch() as watch, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: pictures.checked(content, "a", SIDE).getpixel((5, 5)), range(4)))
    with Watch() as after:
        time.sleep(0.5)

    assert found == [(255, 127, 127)] * 4
    assert watch.peak < 2 * MEMORY  # two at a time; before, each took 1.3 GB
    assert after.peak < 150 << 20


@pytest.mark.slow
def test_a_picture_whose_decoder_takes_too_much_is_refused_with_its_size(pictures: Pictures) -> None:
    content = encoded(Image.new("RGBA", (8192, 8192), (255, 0, 0, 128)), "WEBP", method=0)
    with Watch() as watch, pytest.raises(ImageError, match="large image: its decoder cannot begin in the memory"):
        pictures.checked(content, "a", SIDE)

    assert watch.peak < MEMORY + (150 << 20)
    assert pictures.checked(picture(0), "a", SIDE).size == (SIDE, SIDE)


def test_a_picture_that_takes_too_long_is_refused_and_the_next_one_is_not() -> None:
    pictures = Pictures(workers=1, seconds=1)
    slow = encoded(noise(0, 8000, 8000), "WEBP", quality=50, method=0)  # 1.8 s on a fast core
    try:
        with pytest.raises(ImageError, match="slow image|large image"):
            for _ in range(20):
                pictures.checked(slow, "a", 4096)
        assert pictures.checked(picture(0), "a", SIDE).size == (SIDE, SIDE)
    finally:
        pictures.close()


def test_a_worker_that_was_killed_is_replaced() -> None:
    pictures = Pictures(workers=1)
    try:
        pictures.checked(picture(0), "a", SIDE)
        for child in psutil.Process().children():
            if "rag_diffusion.serving.decoder" in child.cmdline():
                child.kill()
                child.wait()
        with pytest.raises(ImageError, match="or it ended"):
            pictures.checked(picture(0), "a", SIDE)
        assert pictures.checked(picture(0), "a", SIDE).size == (SIDE, SIDE)
    finally:
        pictures.close()


@pytest.mark.parametrize(
    ("mode", "form"), [("RGB", "PNG"), ("RGBA", "PNG"), ("L", "PNG"), ("P", "PNG"), ("CMYK", "TIFF")]
)
@pytest.mark.parametrize("turn", [1, 6])
def test_a_large_picture_in_stripes_looks_as_it_does_as_a_whole(
    mode: str, form: str, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = ImageOps.colorize(Image.radial_gradient("L").resize((700, 500)), "red", "blue").convert(mode)
    if mode == "RGBA":
        smooth.putalpha(Image.linear_gradient("L").resize((700, 500)))
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    smooth.save(buffer, form, exif=exif)
    whole = images.to_square(decode(buffer.getvalue(), "a"), 32)
    monkeypatch.setattr(images, "LARGE", 1000)
    monkeypatch.setattr(images, "_STRIPE", 700 * 30)
    striped = decode(buffer.getvalue(), "a", side=32)

    assert max(striped.size) < 500
    difference = [abs(a - b) for a, b in zip(images.to_square(striped, 32).tobytes(), whole.tobytes(), strict=True)]
    assert sum(difference) / len(difference) < 2
    assert max(difference) < 24


def test_a_picture_after_the_end_is_answered_as_before() -> None:
    content = encoded(noise(3, 90, 120), "PNG")
    closed = Pictures(workers=1)
    closed.checked(content, "a", SIDE)
    closed.close()
    with ThreadPoolExecutor(1) as pool:  # a server that ends while somebody's picture waits must not wait for ever
        answer = pool.submit(closed.checked, content, "a", SIDE).result(timeout=60)
    closed.close()
    assert answer.tobytes() == checked_image(content, "a", SIDE).tobytes()
