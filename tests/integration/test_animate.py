"""`rag-diffusion animate` killed at a random moment goes on to the same clip; its page plays in a real browser."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from playwright.sync_api import Page, sync_playwright

from rag_diffusion.files import file_hash
from rag_diffusion.layout import BASE
from tests.tiny import draw

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FRAMES = 8


def command(root: Path, out: Path) -> list[str]:
    words = ["a red circle bounces", "--frame", str(root / "circle.png"), "--seed", "7", "--steps", "1"]
    shape = ["--num-frames", str(FRAMES), "--out", str(out), "--root", str(root), "--form", "webp", "--form", "mp4"]
    return [sys.executable, "-m", "rag_diffusion", "animate", *words, *shape]


def hashes(out: Path) -> dict[str, str]:
    files = sorted(
        path for path in out.rglob("*") if path.is_file() and path.suffix != ".mp4"
    )  # x264 is lossy by chance
    return {str(path.relative_to(out)): file_hash(path) for path in files}


def num_frames(clip: Path) -> int:
    with av.open(str(clip)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    """The base generator, a picture, and a clip that was drawn without interruption in `whole`."""
    root = tmp_path_factory.mktemp("project")
    (root / "data").mkdir()
    (root / BASE).symlink_to(project_root / BASE)
    draw("circle", "red", 0).save(root / "circle.png")
    subprocess.run(command(root, root / "whole"), check=True, capture_output=True)
    return root


def test_a_clip_that_was_killed_goes_on_to_the_same_files(root: Path) -> None:
    out = root / "killed"
    running = subprocess.Popen(command(root, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list(out.glob("*/frames/*.png"))) < 2:
        time.sleep(0.01)
    time.sleep(random.random() * 0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    subprocess.run(command(root, out), check=True, capture_output=True)
    assert {name: one for name, one in hashes(out).items() if not name.endswith(".tmp")} == hashes(root / "whole")
    (whole,), (again,) = (list(one.glob("*/clip.mp4")) for one in (root / "whole", out))
    assert num_frames(again) == num_frames(whole) == FRAMES


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install your system's package")
def test_the_page_of_clips_plays_and_stops_at_a_frame_that_tells_what_it_looked_at(root: Path) -> None:
    asked, raised = set[str](), list[str]()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.add(request.url))
        page.on("pageerror", lambda error: raised.append(str(error)))
        page.goto((root / "whole/index.html").as_uri())
        for number in range(1, FRAMES + 1):  # it plays: each frame is shown
            page.wait_for_function(f"document.querySelector('output').textContent == 'frame {number} of {FRAMES}'")
        _stop_at(page, 3)
        assert page.locator("output").inner_text() == f"frame 3 of {FRAMES}"
        assert page.locator("figure img").get_attribute("src").endswith("frames/00003.png")  # type: ignore[union-attr]
        lines = page.locator("li").all_inner_texts()
        assert [line.split(" (")[0] for line in lines[:2]] == [
            "a red circle bounces, the frame before",
            "a red circle bounces, the first frame",
        ]
        assert page.locator("li img").evaluate_all("images => images.every(one => one.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name="Play").click()
        page.wait_for_function(f"document.querySelector('output').textContent == 'frame 1 of {FRAMES}'")
        browser.close()
    assert raised == []
    assert {url.split(":")[0] for url in asked} == {"file"}


def _stop_at(page: Page, number: int) -> None:
    slider = page.locator("input[type=range]")
    slider.evaluate(f"e => {{ e.value = {number - 1}; e.dispatchEvent(new Event('input')); }}")
    page.get_by_role("button", name="Play").wait_for()
