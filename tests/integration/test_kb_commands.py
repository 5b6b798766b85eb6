"""A folder of one's own pictures becomes a knowledge base by one command, with the real encoder and no pipeline run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import ENCODER
from rag_diffusion.models.dual_encoder import create_embedded, load_dual_encoder, save_weights
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.terminal.app import app
from tests.tiny import tiny_pairs
from tests.unit.knowledge.bases import write_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """params.yaml, an encoder, and a folder of drawings that is no part of the project."""
    root = tmp_path_factory.mktemp("user")
    write_params(root, 64)
    (root / ENCODER).mkdir(parents=True)
    encoder = create_embedded(root / ENCODER, image_size=32, embed_dim=32, seed=0)
    save_weights(encoder, root / ENCODER)
    photos = root / "photos"
    photos.mkdir()
    for number, pair in enumerate(tiny_pairs()[:70]):
        (photos / f"{number:03d}.png").write_bytes(pair.image)
        (photos / f"{number:03d}.txt").write_text(pair.caption)
    (photos / "broken.png").write_bytes(b"\x89PNG")
    (photos / "broken.txt").write_text("broken")
    return root


def kb(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["kb", *arguments, "--root", str(root)])


def test_a_folder_of_photos_without_a_word_is_captioned_by_its_names(project: Path, tmp_path: Path) -> None:
    pair = tiny_pairs()[0]
    for name in ("birds/red_parrot_3.png", "birds/IMG_2041.png", "IMG_2042.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(pair.image)
    done = kb(project, "add", "holiday", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "as photos: it holds IMG_2042.png and no text file: captions are made of names" in done.output
    assert "the name itself says nothing" in done.output or "image without a caption" in done.output
    found = kb(project, "search", "a red parrot", "--source", "holiday", "--top-k", "1").output
    assert "holiday/birds/red_parrot_3.png  red parrot, birds" in found
    kb(project, "remove", "holiday")


def test_one_command_makes_a_folder_a_knowledge_base(project: Path, tmp_path: Path) -> None:
    done = kb(project, "add", "drawings", str(project / "photos"), "--licence", "CC0-1.0", "--attribution", "me")
    assert done.exit_code == 0, done.output
    assert "drawings: 70 pairs, 1 rejected" in done.output
    again = kb(project, "add", "drawings", str(project / "photos"))
    assert again.exit_code == 1
    assert "give --replace" in again.stderr
    listed = kb(project, "list").output.splitlines()
    assert len(listed) == 2
    assert listed[1].split()[:3] == ["drawings", "70", "1"]
    told = kb(project, "info", "drawings", "--check").output
    assert re.search(r"recall@10 +image 1.0000, text 1.0000, index Flat", told)
    assert "every file is as its manifest tells" in told

    page = tmp_path / "page.html"
    found = kb(project, "search", "a red circle", "--top-k", "3", "--explain", str(page))
    lines = found.output.splitlines()[:3]
    assert all("drawings/" in line for line in lines)
    assert "red circle" in lines[0]
    assert page.read_text().count("<img") == 3
    best = lines[0].split()[1]
    less = kb(project, "search", "a red circle", "--top-k", "3", "--exclude", best).output
    assert best not in less
    assert "no hits" in kb(project, "search", "a red circle", "--licence", "MIT").output
    assert "no hits" in kb(project, "search", "a red circle", "--source", "others").output
    assert best in kb(project, "search", "red circle", "--source", "drawings", "--split", "train").output

    removed = kb(project, "remove", "drawings")
    assert removed.exit_code == 0
    assert "no data set yet" in kb(project, "list").output
    assert kb(project, "search", "a red circle").exit_code == 1


def test_vectors_are_those_of_the_pipeline(project: Path) -> None:
    base = KnowledgeBase.open(project)
    base.add("set", [*_items(project)])
    retriever = base.retriever()
    encoder = Encoder(load_dual_encoder(project / ENCODER), device="cpu")
    rows = np.arange(len(retriever.corpus))
    captions = retriever.corpus.cells("caption", rows)
    np.testing.assert_allclose(retriever.vectors.text[rows], encoder.texts(captions), atol=1e-5)
    np.testing.assert_allclose(retriever.vectors.image[rows], encoder.images(retriever.corpus.pixels(rows)), atol=1e-5)
    base.remove("set")
    left = [
        path for path in (project / "data").rglob("*") if path.is_file() and path.parent.name != ENCODER.split("/")[1]
    ]
    assert all(path.suffix == ".lock" for path in left)


def _items(project: Path):
    from rag_diffusion.readers.forms import open_reader

    return open_reader("image_text", project / "photos")


def test_wrong_wishes_are_refused(project: Path) -> None:
    for arguments, message in (
        (("add", "x"), "expected a path, or --remote URL"),
        (("add", "../x", str(project / "photos")), "expected a name"),
        (("add", "x", str(project / "none")), "none"),
        (("remove", "x"), "expected one of no data set, got 'x'"),
        (("info", "x"), "expected a data set 'x', found none"),
    ):
        done = kb(project, *arguments)
        assert done.exit_code == 1, arguments
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
    assert list(KnowledgeBase.open(project).catalogue.names()) == []


_MEASURED = """
from pathlib import Path
from rag_diffusion.terminal.app import app
app(standalone_mode=False)
print("peak", next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
"""


def peak(root: Path, folder: Path) -> float:
    """The most memory, in MiB, that `kb add` of a folder has resident in a process of its own."""
    command = [sys.executable, "-c", _MEASURED, "kb", "add", folder.name, str(folder), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "originals " in done.stdout
    return int(done.stdout.split("peak ")[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_originals_that_are_added(project: Path, tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir()
    many.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (1448, 1448, 3), dtype=np.uint8)  # 6 MiB
    for number in range(64):
        pixels[number % 9 * 150 :][:150] = 4 * number
        Image.fromarray(pixels).save(many / f"{number}.bmp")
        (many / f"{number}.txt").write_text(f"noise, number {number}")
    for path in [many / f"{number}.{suffix}" for number in range(16) for suffix in ("bmp", "txt")]:
        os.link(path, few / path.name)
    low, high = peak(project, few), peak(project, many)
    assert "64 of 64 kept, 383.9 MiB" in kb(project, "info", "many").output
    assert high - low < 64, f"MiB for 96 and 384 MiB of originals: {low:.0f}, {high:.0f}"
    for name in ("few", "many"):
        kb(project, "remove", name)
