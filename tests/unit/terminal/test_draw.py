"""`rag-diffusion draw` as somebody types it, over a tiny generator and a small knowledge base."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from rag_diffusion.layout import BASE, MODEL
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.sampling.provenance import read_provenance
from rag_diffusion.terminal.app import app
from tests.unit.readers.pictures import picture
from tests.unit.serving.served import two_data_sets

PROMPT = "a red square in noto style"
QUICK = ("--steps", "2", "--seed", "7")


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    """A project with two data sets."""
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text((project_root / "params.yaml").read_text())
    two_data_sets(root, project_root)
    return root


@pytest.fixture
def project(two_sets: Path, tiny_generator: Generator) -> Path:
    """A project with a model and two data sets."""
    if not (two_sets / MODEL).exists():
        save_generator(tiny_generator, two_sets / MODEL)
    return two_sets


@pytest.fixture
def bare(tmp_path: Path, tiny_generator: Generator) -> Path:
    """A folder with base weights and nothing else."""
    save_generator(tiny_generator, tmp_path / BASE)
    return tmp_path


def typed(root: Path, *words: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, ["draw", *words, "--root", str(root)], input=text)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_text_becomes_a_picture_with_its_neighbors_inside(project: Path, tmp_path: Path) -> None:
    done = typed(project, PROMPT, *QUICK, "-o", str(tmp_path))

    assert done.exit_code == 0, done.output
    path = tmp_path / "a-red-square-in-noto-style-7.png"
    assert done.stdout == f"{path}\n"
    origin = read_provenance(path)
    assert (origin.prompt, origin.seed, len(origin.neighbors)) == (PROMPT, 7, 3)
    assert json.loads(path.with_suffix(".json").read_text())["seed"] == 7
    for one in origin.neighbors:
        assert f"({one.pair_id}, score {one.score:.2f}, {one.attention:.0%} of attention, {one.licence})" in done.stderr
    assert origin.settings["guidance"]["text_guidance_scale"] == 3.0  # as params.yaml says


def test_a_picture_has_the_colours_that_are_given(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "icons" / "set"
    folder.mkdir(parents=True)
    circle = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><circle cx="4" cy="4" r="3" fill="#14a03c"/></svg>'
    )
    (folder / "circle.svg").write_text(circle)
    Image.new("RGB", (64, 64), "#dd2e44").save(folder / "square.png")
    for words in (["#14a03c", "#dd2e44", "#ffffff"], [str(tmp_path / "icons")]):
        options = [part for word in words for part in ("--colours", word)]
        assert typed(project, PROMPT, *QUICK, *options, "-q", "-o", str(tmp_path / "a.png")).exit_code == 0
        told = read_provenance(tmp_path / "a.png").settings
        assert (told["thresholding"], sorted(told["colours"])) == ("palette", ["#14a03c", "#dd2e44", "#ffffff"])
        (tmp_path / "a.png").unlink()
    refused = typed(project, PROMPT, *QUICK, "--colours", str(tmp_path / "nothing"))
    assert refused.exit_code == 1
    assert "--colours: expected '#dd2e44', a picture or a folder of pictures, got" in refused.stderr


def test_a_picture_begins_with_its_first_neighbor(project: Path, tmp_path: Path) -> None:
    found = []
    for number, words in enumerate((("--begin-strength", "0.5"), ())):
        path = tmp_path / f"{number}.png"
        assert typed(project, PROMPT, "--steps", "4", "--seed", "7", *words, "-q", "-o", str(path)).exit_code == 0
        found.append((pixels(path), read_provenance(path).settings.get("begin_strength")))
    assert [strength for _, strength in found] == [0.5, None]
    assert not np.array_equal(found[0][0], found[1][0])
    refused = typed(project, PROMPT, *QUICK, "--begin-strength", "0.5", "--image", str(tmp_path / "0.png"))
    assert refused.exit_code == 1
    assert "begin_strength: expected none beside image=, which is begun with already, got 0.5" in refused.stderr


def test_a_picture_of_a_seed_is_the_same_alone_and_among_others(project: Path, tmp_path: Path) -> None:
    assert typed(project, PROMPT, *QUICK, "-n", "3", "-o", str(tmp_path / "three")).exit_code == 0
    assert typed(project, PROMPT, "--steps", "2", "--seed", "9", "-o", str(tmp_path / "one.png")).exit_code == 0

    names = sorted(path.name for path in (tmp_path / "three").glob("*.png"))
    assert [re.findall(r"-(\d+)\.png", name)[0] for name in names] == ["7", "8", "9"]
    apart = np.abs(pixels(tmp_path / "three" / names[2]).astype(int) - pixels(tmp_path / "one.png"))
    assert apart.max() <= 1


def test_nothing_is_written_over(project: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert typed(project, PROMPT, *QUICK, "-o", str(tmp_path / "a.png"), "-q").exit_code == 0

    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "a-2.png")).all()


def test_prompts_come_from_a_file_and_from_standard_input(project: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a moon\n\na blue circle\n")
    first = typed(project, "-f", str(tmp_path / "prompts.txt"), *QUICK, "-o", str(tmp_path / "x"))
    second = typed(project, "-f", "-", *QUICK, "-o", str(tmp_path / "y"), text="a moon\n")

    assert [Path(line).name for line in first.stdout.splitlines()] == ["a-moon-7.png", "a-blue-circle-7.png"]
    assert [Path(line).name for line in second.stdout.splitlines()] == ["a-moon-7.png"]


def test_variants_side_by_side_have_one_noise_and_other_neighbors(project: Path, tmp_path: Path) -> None:
    done = typed(project, PROMPT, *QUICK, "--compare", "--explain", "--svg", "-o", str(tmp_path))

    assert done.exit_code == 0, done.output
    stem = "a-red-square-in-noto-style-7"
    origins = {name: read_provenance(tmp_path / f"{stem}-{name}.png") for name in ("none", "random", "retrieved")}
    assert {origin.seed for origin in origins.values()} == {7}
    assert [len(origin.neighbors) for origin in origins.values()] == [0, 3, 3]
    assert {one.score for one in origins["random"].neighbors} == {None}
    assert (done.output.count("by chance"), "by hand" in done.output) == (3, False)
    sheet = pixels(tmp_path / "comparison.png")
    assert sheet.shape[1] > 3 * 96
    page = (tmp_path / "explain.html").read_text()
    assert page.count("<section>") == 3
    for one in (*origins["random"].neighbors, *origins["retrieved"].neighbors):
        assert one.pair_id in page
    assert "http" not in page.replace("http-equiv", "")  # it needs no other file
    drawn = ElementTree.parse(tmp_path / f"{stem}-retrieved.svg").getroot()
    inside = drawn.find("{http://www.w3.org/2000/svg}metadata")
    assert inside is not None
    assert json.loads(inside.text or "")["prompt"] == PROMPT
    assert drawn.findall("{http://www.w3.org/2000/svg}path")


def test_a_page_shows_hostile_captions_as_text(bare: Path) -> None:
    (bare / "cat.png").write_bytes(picture())
    hostile = "<script>alert(1)</script>"
    done = typed(bare, "a cat", *QUICK, "--neighbor", f"{bare}/cat.png={hostile}", "--explain", "-o", str(bare / "out"))

    assert done.exit_code == 0, done.output
    page = (bare / "out/explain.html").read_text()
    assert hostile not in page
    assert "&lt;script&gt;" in page


def test_base_weights_draw_with_neighbors_by_hand(bare: Path) -> None:
    (bare / "cat.png").write_bytes(picture())
    done = typed(bare, "my cat", *QUICK, "--neighbor", f"{bare}/cat.png=a cat of mine", "-o", str(bare / "cat-out.png"))

    assert done.exit_code == 0, done.output
    (neighbor,) = read_provenance(bare / "cat-out.png").neighbors
    assert (neighbor.caption, neighbor.source, neighbor.score) == ("a cat of mine", "cat.png", None)


def test_each_neighbor_by_hand_is_used_as_it_is_told(bare: Path) -> None:
    cat = f"{bare}/cat.png"
    (bare / "cat.png").write_bytes(picture())
    words = ["--neighbor", cat, "--neighbor", f"{cat}=my other", "--negative", f"{cat}=no dog", "--mask", "left"]
    words += ["--mask", "0.5,0,1,1", "--weight", "2", "--weight-by-step", "early", "--weight-by-map", "style"]
    done = typed(bare, "two cats", *QUICK, *words, "-o", str(bare / "cats.png"))

    assert done.exit_code == 0, done.output
    left, right, negative = read_provenance(bare / "cats.png").neighbors
    assert left.mask != right.mask
    assert (negative.mask, negative.negative, left.negative, right.negative) == ("", True, False, False)
    assert {(one.weight, one.weight_by_step, one.weight_by_map) for one in (left, right)} == {
        (2.0, ((0.4, 1.0), (0.6, 0.0)), "style")
    }


def test_weights_are_said_of_what_is_retrieved(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    done = typed(project, PROMPT, *QUICK, "--weight-by-step", "0.2,1", "-o", str(out))

    assert done.exit_code == 0, done.output
    assert {one.weight_by_step for one in read_provenance(out).neighbors} == {((0.2, 0.0), (0.2, 1.0))}


def test_style_neighbors_are_as_many_as_params_yaml_says(project: Path, tmp_path: Path) -> None:
    params = project / "params.yaml"
    plain = params.read_text()
    params.write_text(re.sub(r"^  style: 0\b", "  style: 1", plain, flags=re.M))
    try:
        refused = typed(project, PROMPT, *QUICK, "-o", str(tmp_path / "a.png"))
        done = typed(project, PROMPT, *QUICK, "--style-neighbors", "0", "-o", str(tmp_path / "a.png"))
    finally:
        params.write_text(plain)

    assert "expected content neighbors alone, got one of style" in refused.output  # the tiny generator knows no roles
    assert done.exit_code == 0, done.output


def test_without_neighbors_nothing_is_opened_to_find_any(bare: Path) -> None:
    done = typed(bare, "a cat", *QUICK, "--neighbors", "0", "-o", str(bare / "a.png"))

    assert done.exit_code == 0, done.output
    assert read_provenance(bare / "a.png").neighbors == ()


def test_one_picture_goes_to_standard_output(bare: Path) -> None:
    done = typed(bare, "a cat", *QUICK, "--neighbors", "0", "-o", "-")

    assert done.exit_code == 0
    assert done.stdout_bytes.startswith(b"\x89PNG")
    assert read_provenance(done.stdout_bytes).prompt == "a cat"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "draw: expected a text, as in rag-diffusion draw"),
        (["  "], "expected a text"),
        (["a cat"], "Nothing can be retrieved here yet"),
        (["a cat", "--neighbor", "gone.png"], "gone.png: expected an image file"),
        (["a cat", "--neighbors", "0", "--guidance", "much"], "guidance mode: expected one of"),
        (["a cat", "--neighbors", "0", "--seed", "-1"], "--seed: expected a whole number from 0"),
        (["a cat", "--neighbors", "0", "--mask", "left"], "--mask: expected --neighbor with it, got none"),
        (["a cat", "--neighbor", "here.png", "--mask", "middle"], "mask middle: expected a picture, or one of left"),
        (["a cat", "--neighbor", "here.png", "--weight", "1", "--weight", "2"], "expected 1 or 1, as there are"),
        (["a cat", "--neighbors", "0", "--weight-by-step", "2,3"], "weight_by_step: expected constant"),
        (
            ["a cat", "--negative", "here.png", "--neighbors", "0", "--guidance", "none"],
            "expected guidance, which goes",
        ),
        (["a cat", "--neighbors", "0", "-n", "2", "-o", "a.png"], "expected a folder for 2 pictures, got one file"),
        (["a cat", "--neighbors", "0", "-o", "a.gif"], "expected a folder, NAME.png or NAME.jpg"),
        (["a cat", "--neighbors", "0", "-o", "-", "--svg"], "--out -: expected a folder"),
        (["a cat", "--neighbors", "0", "--scheduler", "Quick"], "Quick"),
        (["-f", "gone.txt"], "--file gone.txt: expected a text file"),
        (["a cat", "--neighbors", "0", "--model", "./gone"], "gone"),
    ],
)
def test_what_does_not_fit_is_one_message(bare: Path, words: list[str], told: str) -> None:
    (bare / "here.png").write_bytes(picture())
    done = typed(bare, *(str(bare / word) if word == "here.png" else word for word in words))

    assert done.exit_code == 1, done.output
    assert told in done.stderr
    assert "Traceback" not in done.output
    assert not list(Path().glob("drawings*"))


def test_a_folder_without_weights_says_where_they_are_looked_for(tmp_path: Path) -> None:
    done = typed(tmp_path, "a cat", "--neighbors", "0")

    assert done.exit_code == 1
    assert "expected a generator in data/model or data/base, found none" in done.stderr


def test_a_signed_picture_is_verified_and_a_changed_one_is_not(bare: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(bare / "fox.png")
    for name in ("one.png", "two.jpg"):
        drawn = typed(
            bare, "a fox", "--neighbor", f"{bare / 'fox.png'}=my fox", "--steps", "1", "--credentials",
            "development", "--watermark", "mine", "-o", str(bare / name),
        )  # fmt: skip
        assert drawn.exit_code == 0, drawn.output
        assert "Licence unknown, ask before use: no licence given" in drawn.stderr
        root = str(bare / ".credentials" / "root.pem")
        told = CliRunner().invoke(app, ["verify", str(bare / name), "--watermark", "mine", "--trust", root])
        assert told.exit_code == 0, told.output
        assert "which you trust, and as it was signed" in told.output
        assert "signed: drawn for 'a fox'" in told.output
        assert "my fox" in told.output
        assert "watermark    there" in told.output
        assert CliRunner().invoke(app, ["verify", str(bare / name), "--watermark", "another"]).exit_code == 1
        content = bytearray((bare / name).read_bytes())
        content[-30] ^= 1
        (bare / "changed.png").write_bytes(content)
        changed = CliRunner().invoke(app, ["verify", str(bare / "changed.png")])
        assert changed.exit_code == 1
        assert "not as it was signed (" in changed.output
        assert "assertion.dataHash.mismatch" in changed.output


def test_what_params_yaml_forbids_is_one_message(project: Path, tmp_path: Path) -> None:
    params = project / "params.yaml"
    before = params.read_text()
    try:
        params.write_text(before.replace("words: [] ", "words: [pistol] "))
        refused = typed(project, "two Pistols", "-o", str(tmp_path))
    finally:
        params.write_text(before)
    assert refused.exit_code == 1
    assert "'two Pistols' has the blocked word 'pistol'" in refused.output
