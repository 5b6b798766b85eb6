"""`rag-diffusion ui` in a real browser, with the repository's base generator: on a desk, a telephone, by keyboard."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from playwright.sync_api import Error as BrowserError

from rag_diffusion.layout import BASE
from tests.tiny import draw
from tests.unit.serving.served import two_data_sets

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install your system's package"),
]
PATIENCE = 120_000  # ms


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    options: dict[str, Any] = {
        "executable_path": CHROMIUM,
        "args": ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"],
    }
    with sync_playwright() as driver, driver.chromium.launch(**options) as found:
        yield found


@pytest.fixture(scope="module")
def url(browser: Browser, tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Iterator[str]:
    """The page of a project with the base generator and two data sets; Ctrl-C ends it also where a page is open."""
    root = tmp_path_factory.mktemp("project")
    shutil.copyfile(project_root / "params.yaml", root / "params.yaml")
    (root / "data").mkdir()
    (root / BASE).symlink_to(project_root / BASE)
    two_data_sets(root, project_root)
    command = [sys.executable, "-m", "rag_diffusion", "ui", "--project", str(root), "--port", "0"]
    with (root / "log").open("w") as log:
        running = subprocess.Popen(command, stderr=log, stdout=log)
    end = time.monotonic() + 120
    while not (line := re.search(r"running on (http://127\.0\.0\.1:\d+)", (root / "log").read_text())):
        assert running.poll() is None, (root / "log").read_text()
        assert time.monotonic() < end, (root / "log").read_text()
        time.sleep(0.2)
    yield line[1]
    page = browser.new_page()
    page.goto(line[1], timeout=PATIENCE)
    page.get_by_text("pairs can be retrieved").wait_for(timeout=PATIENCE)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) in (0, 130)
    assert "Traceback" not in (root / "log").read_text()


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """The page, ready to draw; nothing was asked of another host, and nothing was raised."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked, raised = set[str](), list[str]()
    page.on("request", lambda request: asked.add(request.url))
    page.on("pageerror", lambda error: raised.append(str(error)))
    page.goto(url, timeout=PATIENCE)
    page.get_by_text("pairs can be retrieved").wait_for()
    yield page
    foreign = {one for one in asked if not one.startswith((url, "data:", "blob:"))}
    assert (foreign, raised) == (set(), [])
    context.close()


def set_steps(page: Page, steps: int) -> None:
    panel = page.get_by_role("button", name="Guidance, steps and seed")
    if not page.locator("#steps input[type=number]").is_visible():
        panel.click()
    page.locator("#steps input[type=number]").fill(str(steps))


@contextmanager
def new_pictures(page: Page, count: int = 1) -> Iterator[Locator]:
    """The links to save pictures; on leaving, `count` of them are there that were not before."""
    saved = page.locator("#picture .save")
    before = [link.get_attribute("href") for link in saved.all()]
    yield saved
    try:
        page.wait_for_function(
            """([before, count]) => Array.from(document.querySelectorAll("#picture .save"))
            .filter((link) => !before.includes(link.getAttribute("href"))).length >= count""",
            arg=[before, count],
        )
    except BrowserError as error:
        raise AssertionError(f"no picture came; the page says: {page.inner_text('body')}") from error


def open_tab(page: Page, name: str) -> None:
    """Touch a tab; one that found no room when the page was laid out stands in a menu."""
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.get_by_role("button", name="More tabs").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def test_a_visitor_draws_looks_and_changes(browser: Browser, url: str) -> None:
    with opened(browser, url, viewport={"width": 1400, "height": 900}) as page:
        assert page.evaluate("document.activeElement.closest('#prompt') !== null")  # one may write at once
        page.keyboard.press("Enter")
        page.get_by_text("expected a text, as").wait_for()
        page.wait_for_timeout(500)  # somebody reads it
        set_steps(page, 2)
        page.locator("#seed input, #seed textarea").first.fill("some")
        page.locator("#draw").click()
        page.get_by_text("seed: expected a whole number").wait_for()
        page.locator("#seed input, #seed textarea").first.fill("")
        page.locator("#colours input, #colours textarea").first.fill("red")
        page.locator("#draw").click()
        page.get_by_text("colours: expected them as #dd2e44").wait_for()
        page.locator("#colours input, #colours textarea").first.fill("#dd2e44 #ffffff")
        page.get_by_label("Prompt").fill("a red square in noto style")
        with new_pictures(page) as saved:
            page.keyboard.press("Enter")
        name = saved.get_attribute("download")
        assert name is not None
        assert name.startswith("a-red-square-in-noto-style-")

        cards = page.locator("#neighbors button")
        assert cards.count() == 3
        assert re.search(r"score \d\.\d\d · \d+ % of the attention", cards.first.inner_text())
        assert re.search(r"(CC0-1\.0|MIT)", cards.first.inner_text())
        drawn = page.locator("#picture img").get_attribute("src")
        cards.first.focus()
        page.keyboard.press("Enter")
        page.get_by_text("where it looked at").wait_for()
        assert page.locator("#picture img").get_attribute("src") != drawn
        page.locator("#weight input[type=number]").fill("3")
        page.keyboard.press("Tab")
        page.get_by_text("weight 3").wait_for()
        page.locator("#mask input").click()
        page.get_by_role("option", name="left").click()
        page.get_by_text("acts left").wait_for()
        with new_pictures(page):
            page.locator("#again").click()
        assert page.locator("#picture").get_by_text("Drawn again").count() == 1

        with new_pictures(page, 2):
            page.locator("#compare").click()
        seeds = page.locator("#picture figcaption .fine").all_inner_texts()
        assert len(seeds) == 2
        assert seeds[0] == seeds[1] == f"seed {name.removesuffix('.png').rsplit('-', 2)[-2]}"

        open_tab(page, "History")
        assert page.locator("#past button").count() == 4
        page.locator("#past button", has_text="picture 2").click()
        told = page.locator("#lineage")
        told.get_by_text("Drawn again from picture 1, the same noise;").wait_for()
        told.get_by_text("weight 3, acts left").first.wait_for()
        assert told.get_by_text("Credit:").count() == 1
        page.locator("#go-on").click()
        page.locator("#neighbors button", has_text="weight 3").wait_for()


def test_own_pictures_are_looked_at_added_and_found(browser: Browser, url: str, tmp_path: Path) -> None:
    for shape, color in (("circle", "red"), ("triangle", "green")):
        draw(shape, color, 0, 128).save(tmp_path / f"a {color} {shape}.png")
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    with opened(browser, url, viewport={"width": 1400, "height": 900}, color_scheme="dark") as page:
        assert page.evaluate("document.body.classList.contains('dark')")
        set_steps(page, 2)
        page.get_by_role("button", name="Pictures of your own as neighbors").click()
        page.locator("#files input[type=file]").set_input_files(files)
        page.get_by_text("2 neighbors by hand").wait_for()
        page.get_by_label("Prompt").fill("a red balloon")
        with new_pictures(page):
            page.locator("#draw").click()
        texts = page.locator("#neighbors button").all_inner_texts()
        assert {text.split("\n")[0] for text in texts} == {"a red circle", "a green triangle"}

        open_tab(page, "Knowledge base")
        page.locator("#new-folder input[type=file]").set_input_files(str(tmp_path))
        page.get_by_text("a red circle.png").or_(page.get_by_text("a red c")).last.wait_for()
        page.locator("#add").click()
        page.get_by_text("licence: expected the licence of your pictures").wait_for()
        page.locator("#licence input").fill("CC0-1.0")
        page.keyboard.press("Tab")
        page.locator("#add").click()
        page.get_by_text("2 pairs taken into mine").wait_for()
        page.get_by_text("122 pairs can be retrieved").wait_for()
        page.get_by_label("Search").fill("a green triangle")
        page.keyboard.press("Enter")
        mine = page.locator("#hits button", has_text="mine/a green triangle.png")
        mine.click()
        page.locator("#hits button[aria-pressed=true]").wait_for()
        page.locator("#take").click()
        page.locator("#neighbors button", has_text="mine/a green triangle.png").wait_for()
        assert page.locator("#neighbors button").count() == 1


def test_on_a_telephone_nothing_is_wider_than_it(browser: Browser, url: str) -> None:
    with opened(browser, url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True) as page:
        set_steps(page, 1)
        page.get_by_label("Prompt").fill("a red square in noto style")
        with new_pictures(page, 2):
            page.locator("#compare").click()
        for tab in ("Draw", "Knowledge base", "History"):
            open_tab(page, tab)
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_visitor_who_stops_or_leaves_is_drawn_for_no_further(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        page.get_by_label("Prompt").fill("a red square in noto style")
        set_steps(page, 4)
        begun = time.monotonic()
        with new_pictures(page):
            page.locator("#draw").click()
        alone = time.monotonic() - begun
        first = page.locator("#picture figcaption .fine").inner_text()
        set_steps(page, 100)
        page.locator("#draw").click()
        page.locator("#picture [role=progressbar]").wait_for()
        page.locator("#stop").click()
        page.locator("#picture .save").wait_for()  # the one before
        with browser.new_context() as other:
            second = other.new_page()
            second.goto(url, timeout=PATIENCE)
            second.get_by_text("pairs can be retrieved").wait_for()
            set_steps(second, 100)
            second.get_by_label("Prompt").fill("a blue circle")
            second.locator("#draw").click()
            second.locator("#picture [role=progressbar]").wait_for(timeout=PATIENCE)
        set_steps(page, 4)
        begun = time.monotonic()
        with new_pictures(page):
            page.locator("#draw").click()
        assert time.monotonic() - begun < 4 * alone + 10  # 200 steps more would take fifty times as long
        assert page.locator("#picture figcaption .fine").inner_text() != first  # an empty field is another seed


def test_a_clip_grows_frame_by_frame_and_then_plays_on_a_telephone(browser: Browser, url: str, tmp_path: Path) -> None:
    draw("circle", "red", 0).save(tmp_path / "mine.png")
    with opened(browser, url, viewport={"width": 390, "height": 844}) as page:
        page.get_by_role("tab", name="Animate").click()
        page.locator("#clip-prompt").locator("textarea, input").first.fill("a red circle bounces")
        page.locator("#begin input[type=file]").set_input_files(tmp_path / "mine.png")
        page.locator("#begin").get_by_text("mine").first.wait_for()
        page.get_by_text("Neighbors, guidance, steps and seed").click()
        for name, value in (("#num-frames", "3"), ("#clip-steps", "1")):
            field = page.locator(f"{name} input[type=number]")
            field.fill(value)
            field.press("Tab")
        page.locator("#animate").click()
        page.locator("#clip [role=progressbar]").wait_for()
        page.get_by_text("Save WebP").wait_for()
        shown = page.locator("#clip img")
        assert str(shown.get_attribute("src")).startswith("data:image/webp")
        assert shown.evaluate("image => image.naturalWidth") == 64
        lines = page.locator("#frames li").all_inner_texts()
        assert len(lines) == 3
        assert "the frame before (frame/00002)" in lines[2]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
