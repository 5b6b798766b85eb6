"""The pages of Dagster and MLflow in a real browser, as `make ui` serves them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from rag_diffusion.config import load_config
from rag_diffusion.spans import recording, span
from rag_diffusion.tracking import open_tracker

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install your system's package"),
]


@pytest.fixture
def served(made: Path, project_root: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The pages of a small project whose stages have run and that has a run in MLflow."""
    for name in ("orchestration", "pyproject.toml", "rag_diffusion"):
        if not (made / name).exists():
            (made / name).symlink_to(project_root / name)
    command = [sys.executable, "-m", "rag_diffusion.orchestration.sync"]
    subprocess.run(command, cwd=made, env=environment, check=True, capture_output=True)
    with open_tracker(load_config(project_root / "params.yaml"), made, "sample") as tracker:
        tracker.log_metrics({"joint": 0.25, "retrieved.attention_to_neighbors": 0.5})
        tracker.log_image(Image.new("RGB", (64, 64), "red"), "sheets/comparison", step=0)
        with recording("sample", prompt="a red apple") as root, span("retrieve", "RETRIEVER") as part:
            part.outputs = [{"page_content": "Noto emoji of an apple", "metadata": {"score": 1.0}}]
        tracker.log_traces([root])
    assert tracker.errors == []
    command = [sys.executable, "-m", "rag_diffusion.orchestration.ui"]
    with subprocess.Popen(command, cwd=made, env=environment, stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        pages = {"run": str(tracker.run_id)}
        for line in ui.stdout:
            if found := re.match(r"\s+(MLflow|Dagster)\s+(http://\S+)", line):
                pages[found[1]] = found[2]
            if "Ctrl-C" in line:
                break
        yield pages
        ui.send_signal(signal.SIGINT)
        ui.wait(60)


def shows(page: Page, *texts: str) -> None:
    """Wait for each text; a page that was opened before its server had everything is loaded again."""
    for text in texts:
        for attempt in range(3):
            try:
                page.get_by_text(text, exact=False).first.wait_for(timeout=60_000)
                break
            except PlaywrightTimeout:
                if attempt == 2:
                    pytest.fail(f"{page.url}: expected {text!r}, got {page.inner_text('body')!r}")
                page.reload()


def test_a_browser_shows_assets_checks_runs_and_traces(served: dict[str, str], tmp_path: Path) -> None:
    dagster, mlflow = served["Dagster"], served["MLflow"].partition("/runs?")[0]
    options: dict[str, Any] = {
        "executable_path": CHROMIUM,
        "args": ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"],
    }
    with sync_playwright() as driver:
        browser = driver.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.goto(f"{dagster}/asset-groups")
        shows(page, "knowledge_base", "generator", "evaluation", "sweep", "Materialize all")
        page.screenshot(path=tmp_path / "dagster_lineage.png")
        page.goto(f"{dagster}/assets")
        shows(page, "finetune", "alternate-3", "Materialized")
        page.screenshot(path=tmp_path / "dagster_assets.png")
        page.goto(f"{dagster}/assets/score?view=checks")
        shows(page, "no_worse_than_the_champion", "upstream_is_clean")
        page.screenshot(path=tmp_path / "dagster_checks.png")
        page.goto(served["MLflow"])
        shows(page, "sample", "retrieved.attention_to_neighbors", "with what counts")
        page.screenshot(path=tmp_path / "mlflow_runs.png")
        page.goto(f"{served['MLflow']}&compareRunsMode=CHART")
        shows(page, "What counts", "Pictures")
        page.locator("img[src*='sheets']").first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "mlflow_charts.png")
        page.goto(f"{mlflow}/runs/{served['run']}")
        shows(page, "joint", "python -m rag_diffusion run sample")
        page.screenshot(path=tmp_path / "mlflow_run.png")
        page.goto(f"{mlflow}/traces")
        shows(page, "a red apple")
        page.screenshot(path=tmp_path / "mlflow_traces.png")
        browser.close()
    assert all((tmp_path / f"{name}.png").stat().st_size > 20_000 for name in ("dagster_assets", "mlflow_run"))
