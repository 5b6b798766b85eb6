"""`rag-diffusion animate` as somebody types it, over a tiny generator and a small knowledge base."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from rag_diffusion.layout import BASE, MODEL
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.readers.frames import clip_pictures
from rag_diffusion.sampling.provenance import read_provenance
from rag_diffusion.terminal.app import app
from tests.tiny import draw
from tests.unit.serving.served import two_data_sets

PROMPT = "a red square, noto style"


def typed(root: Path, *words: str) -> Result:
    quick = ("--steps", "1", "--seed", "7", "--num-frames", "3", "--root", str(root), "--out", str(root / "clips"))
    return CliRunner().invoke(app, ["animate", *quick, *words])


def frames(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("frames/*.png"))])


@pytest.fixture
def bare(tmp_path: Path, tiny_generator: Generator) -> Path:
    """A folder with base weights, a picture and nothing else."""
    save_generator(tiny_generator, tmp_path / BASE)
    draw("square", "red", 3).save(tmp_path / "square.png")
    return tmp_path


def test_a_clip_its_frames_and_a_page_are_written_and_it_goes_on_where_it_was(bare: Path) -> None:
    begin = ("--frame", str(bare / "square.png"))
    done = typed(bare, PROMPT, *begin, "--form", "gif", "--form", "webp", "--fps", "4")
    assert done.exit_code == 0, done.output
    folder = bare / "clips/a-red-square-noto-style-7"
    assert done.stdout.split() == [str(folder / "clip.gif"), str(folder / "clip.webp"), str(bare / "clips/index.html")]
    assert "no knowledge base" not in done.stderr  # it looks at frames alone
    assert re.search(r"frame +3  looked at frame/00002 \d+%, frame/00001 \d+%", done.stderr)
    assert read_provenance(folder / "frames/00003.png").settings["clip"]["prompt"] == PROMPT
    assert "3 frames, 4 a second, seed 7 " in (bare / "clips/index.html").read_text()
    whole = frames(folder)
    np.testing.assert_array_equal(np.stack([np.asarray(one) for one in clip_pictures(folder / "clip.webp")]), whole)
    assert 'href="a-red-square-noto-style-7/clip.gif"' in (bare / "clips/index.html").read_text()

    (folder / "frames/00003.png").unlink()
    again = typed(bare, PROMPT, *begin)
    assert re.search(r"frame +2 .*\(was drawn before\)", again.stderr)
    np.testing.assert_array_equal(frames(folder), whole)
    other = typed(bare, PROMPT, *begin, "--num-frames", "4")
    assert other.exit_code == 1
    assert "another settings; name another folder" in other.stderr


def test_the_first_frame_is_drawn_with_pairs_of_the_knowledge_base(
    tmp_path: Path, project_root: Path, tiny_generator: Generator
) -> None:
    (tmp_path / "params.yaml").write_text((project_root / "params.yaml").read_text())
    two_data_sets(tmp_path, project_root)
    save_generator(tiny_generator, tmp_path / MODEL)
    done = typed(tmp_path, PROMPT, "--quiet", "--where", "licence=CC0-1.0", "--pairs", "1")
    assert done.exit_code == 0, done.output
    first, later = (
        read_provenance(tmp_path / f"clips/a-red-square-noto-style-7/frames/0000{number}.png") for number in (1, 2)
    )
    assert len(first.neighbors) == 3
    assert [one.pair_id for one in later.neighbors] == ["frame/00001", first.neighbors[0].pair_id]


def test_without_a_knowledge_base_the_first_frame_is_drawn_from_the_text_alone(bare: Path) -> None:
    done = typed(bare, PROMPT, "--num-frames", "2", "--form", "gif")
    assert done.exit_code == 0, done.output
    assert "no knowledge base here: frames look at frames alone" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--num-frames", "0"), "num_frames: expected a whole number from 2 to 1000, got 0"),
        (("--num-frames", "10000"), "from 2 to 1000, got 10000"),
        (("--form", "avi"), "expected a clip as .webp, .gif, .mp4"),
        (("--fps", "0"), "fps: expected 0.1 to"),
        (("--frame", "nowhere.png"), "nowhere.png: expected an image file"),
        (("--pairs", "2"), "Nothing can be retrieved here yet"),
        (("--stages", "2"), "stages: expected 1 to 1"),
        (("--guidance", "magic"), "magic"),
    ],
)
def test_what_cannot_be_drawn_is_told_and_nothing_is_written(words: tuple[str, ...], told: str, bare: Path) -> None:
    done = typed(bare, PROMPT, *words)
    assert done.exit_code == 1
    assert told in done.stderr
    assert not (bare / "clips").exists()


def test_a_part_of_a_clip_begins_another(bare: Path) -> None:
    pictures = [draw("square", color, 3) for color in ("red", "green", "blue", "black")]
    pictures[0].save(bare / "four.gif", save_all=True, append_images=pictures[1:])
    done = typed(bare, PROMPT, "--frame", str(bare / "four.gif"), "--every", "2", "--take", "2")
    assert done.exit_code == 0, done.output
    given = frames(bare / "clips/a-red-square-noto-style-7")[:2]
    np.testing.assert_allclose(given, np.stack([np.asarray(pictures[0]), np.asarray(pictures[2])]), atol=8)
    more = typed(bare, PROMPT, "--frame", str(bare / "square.png"), "--take", "4", "--out", str(bare / "other"))
    assert more.exit_code == 1
    assert "--take: expected at least 4 frames, got 1 of" in more.stderr
    assert not (bare / "other").exists()
