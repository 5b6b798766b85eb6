"""Clips frame by frame: what each frame looks at, stopping and going on, what is refused before anything is written."""

from __future__ import annotations

import itertools
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rag_diffusion.errors import BlockedError, ConfigError, DataError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.retrieval.blocklist import Blocklist
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings
from rag_diffusion.sampling.clip_folder import ClipFolder
from rag_diffusion.sampling.clip_frames import as_given, read_frame
from rag_diffusion.sampling.credit import credit
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import read_provenance
from rag_diffusion.sampling.rollout import Rollout
from rag_diffusion.sampling.rollout_settings import RolloutSettings
from tests.tiny import draw
from tests.unit.sampling.cascades import small_stage
from tests.unit.sampling.prompts import quiet

PROMPT = "a red circle bounces"
BEGIN = draw("circle", "red", 0)


def seed(number: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def roll(pipeline: RetrievalPipeline, frames: Any = BEGIN, **how: Any) -> Any:
    how = {"num_frames": 5, "generator": seed(), "num_inference_steps": 2} | how
    return pipeline.rollout(PROMPT, frames, **how)


def shown(out: Any) -> list[list[str]]:
    return [[one.pair_id for one in origin.neighbors] for origin in out.provenance if origin is not None]


@pytest.fixture
def cascade(tiny_generator: Generator, text_encoder: TextEncoder) -> RetrievalPipeline:
    """64 px, and from these 128."""
    stage = CascadeStage(model=small_stage(text_encoder), settings=StageSettings(num_inference_steps=1))
    return quiet(RetrievalPipeline(tiny_generator, stages=[stage]))


def test_each_frame_looks_at_the_last_one_the_first_and_one_that_is_retrieved(pipeline: RetrievalPipeline) -> None:
    out = roll(pipeline)

    assert len(out.frames) == 5
    assert out.provenance[0] is None
    np.testing.assert_array_equal(np.asarray(out.frames[0]), np.asarray(BEGIN))
    assert shown(out)[:2] == [["frame/00001"], ["frame/00002", "frame/00001"]]
    assert [names[:2] for names in shown(out)[2:]] == [["frame/00003", "frame/00001"], ["frame/00004", "frame/00001"]]
    assert all(len(set(names)) == 3 for names in shown(out)[2:])
    for number, origin in enumerate(out.provenance[1:], start=2):
        assert origin.prompt == f"{PROMPT}, frame {number} of 5"
        assert origin.settings["clip"] == {
            "prompt": PROMPT, "seed": 5, "frame": number, "num_frames": 5, "given": 1
        }  # fmt: skip
        assert sum(one.attention for one in origin.neighbors) + origin.null_attention == pytest.approx(1, abs=1e-3)
    assert out.provenance[4].neighbors[0].caption == f"{PROMPT}, the frame before"


def test_what_a_frame_looks_at_decides_what_is_drawn(pipeline: RetrievalPipeline) -> None:
    whole = as_arrays(roll(pipeline).frames)
    np.testing.assert_array_equal(whole, as_arrays(roll(pipeline).frames))
    assert not np.array_equal(whole[4], as_arrays(roll(pipeline, num_retrieved=0).frames)[4])
    assert not np.array_equal(whole[2], as_arrays(roll(pipeline, draw("square", "blue", 1)).frames)[2])
    assert not np.array_equal(whole[2], as_arrays(roll(pipeline, same_noise=True).frames)[2])
    apart = roll(pipeline, num_last=0, num_retrieved=0)
    assert shown(apart) == [[], [], [], []]


def test_the_first_frame_is_drawn_from_the_text_and_retrieved_pairs(
    tiny_generator: Generator, retriever: Retriever
) -> None:
    pipeline = quiet(RetrievalPipeline(tiny_generator, retriever))
    out = pipeline.rollout("red circle, noto style", num_frames=3, num_pairs=1, generator=seed(), num_inference_steps=2)

    first, *later = out.provenance
    assert first.prompt == "red circle, noto style"
    assert len(first.neighbors) == 3
    assert all(one.score is not None and one.licence == "CC0-1.0" for one in first.neighbors)
    assert first.corpus_hash == retriever.corpus.hash
    assert [one.pair_id for one in later[0].neighbors] == ["frame/00001", first.neighbors[0].pair_id]
    alone = pipeline("red circle, noto style", generator=seed(), num_inference_steps=2)
    np.testing.assert_array_equal(np.asarray(out.frames[0]), np.asarray(alone.images[0]))


def test_pairs_by_hand_are_looked_at_by_every_frame_and_credited_from_frame_to_frame(
    pipeline: RetrievalPipeline,
) -> None:
    by_hand = [
        Neighbor(image=draw("circle", "green", 1), caption="a ball", licence="CC-BY-4.0", attribution="Ada"),
        Neighbor(image=draw("ring", "green", 1), caption="a ring", licence="CC0-1.0", attribution="Bob"),
    ]
    out = roll(pipeline, None, neighbors=by_hand, num_frames=3)

    assert all(len([one for one in names if one.startswith("given/")]) == 2 for names in shown(out))
    frame = out.provenance[2].neighbors[0]
    assert (frame.licence, frame.attribution) == ("CC-BY-4.0 AND CC0-1.0", "Ada; Bob")
    owed = credit(out.provenance[2].neighbors[:1])
    assert owed[0].startswith("Name the author")
    nothing = roll(pipeline, None, num_frames=3)
    assert credit(nothing.provenance[2].neighbors) == []
    given = roll(pipeline, Neighbor(image=BEGIN, caption="", licence="MIT", attribution="Eve"), num_frames=3)
    assert credit(given.provenance[2].neighbors)[-1] == "Credit: Eve (MIT)."


def test_a_clip_that_was_stopped_goes_on_as_if_it_had_not_been(pipeline: RetrievalPipeline, tmp_path: Path) -> None:
    whole, told = as_arrays(roll(pipeline).frames), list[int]()

    def stop(pipe: RetrievalPipeline, frame: Any) -> None:
        told.append(frame.number)
        pipe._interrupt = frame.number == 3

    first = roll(pipeline, folder=tmp_path / "clip", callback_on_frame_end=stop)
    assert (len(first.frames), told) == (3, [1, 2, 3])
    again = roll(pipeline, folder=tmp_path / "clip", generator=None)  # the seed is that of the folder
    np.testing.assert_array_equal(as_arrays(again.frames), whole)
    assert [frame.drawn_now for frame in ClipFolder(tmp_path / "clip").frames()] == [False] * 5
    assert read_provenance(tmp_path / "clip/frames/00004.png") == again.provenance[3]
    assert again.provenance[1] == first.provenance[1]


def test_a_frame_whose_steps_were_interrupted_is_no_frame(pipeline: RetrievalPipeline, tmp_path: Path) -> None:
    calls = itertools.count()

    def stop(pipe: RetrievalPipeline, number: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        pipe._interrupt = next(calls) == 4
        return {}

    out = roll(pipeline, folder=tmp_path / "clip", num_inference_steps=4, callback_on_step_end=stop)
    assert len(out.frames) == 2
    assert len(ClipFolder(tmp_path / "clip").frame_paths()) == 2


def test_a_clip_goes_on_from_its_first_missing_frame(pipeline: RetrievalPipeline, tmp_path: Path) -> None:
    whole = as_arrays(roll(pipeline, folder=tmp_path / "clip").frames)
    (tmp_path / "clip/frames/00003.png").unlink()
    np.testing.assert_array_equal(as_arrays(roll(pipeline, folder=tmp_path / "clip").frames), whole)


def test_another_clip_and_a_damaged_frame_are_refused(pipeline: RetrievalPipeline, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    roll(pipeline, folder=folder)
    with pytest.raises(ConfigError, match="another settings, seed;"):
        roll(pipeline, folder=folder, generator=seed(6), num_frames=6)
    with pytest.raises(ConfigError, match="another frames;"):
        roll(pipeline, draw("ring", "red", 0), folder=folder)
    frame = folder / "frames/00002.png"
    frame.write_bytes(frame.read_bytes()[:100])
    with pytest.raises(DataError, match=r"00002\.png: expected a frame"):
        roll(pipeline, folder=folder)
    (folder / "clip.json").write_text("{")
    with pytest.raises(DataError, match=r"clip\.json"):
        roll(pipeline, folder=folder)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="other files"):
        roll(pipeline, folder=tmp_path / "photos")


def test_frames_of_a_cascade_see_small_ones_and_are_shown_large(cascade: RetrievalPipeline, tmp_path: Path) -> None:
    out = roll(cascade, folder=tmp_path / "clip", num_frames=3)
    small = roll(cascade, stages=1, num_frames=3)

    assert [frame.size for frame in out.frames] == [(128, 128)] * 3
    kept = list(ClipFolder(tmp_path / "clip").frames())
    np.testing.assert_array_equal(np.stack([frame.small for frame in kept]), as_arrays(small.frames))
    assert out.provenance[2].settings["stages"][0]["image_size"] == 128
    np.testing.assert_array_equal(
        as_arrays(roll(cascade, folder=tmp_path / "clip", num_frames=3).frames), as_arrays(out.frames)
    )
    large = roll(cascade, draw("circle", "red", 0, 256), num_frames=2).frames[0]
    np.testing.assert_allclose(np.asarray(large), np.asarray(draw("circle", "red", 0, 256).resize((128, 128))), atol=90)


def test_every_frame_carries_the_watermark_and_no_frame_inherits_it(
    pipeline: RetrievalPipeline, tmp_path: Path
) -> None:
    plain = as_arrays(roll(pipeline, num_frames=3).frames)
    pipeline.watermark = "mine"
    roll(pipeline, folder=tmp_path / "clip", num_frames=3)
    for frame in itertools.islice(ClipFolder(tmp_path / "clip").frames(), 1, None):
        np.testing.assert_array_equal(frame.small, plain[frame.number - 1])
        assert not np.array_equal(frame.pixels, frame.small)
        assert frame.provenance is not None
        assert frame.provenance.settings["watermark"] == "mine"


def test_a_frame_is_drawn_again_from_its_own_file(pipeline: RetrievalPipeline, tmp_path: Path) -> None:
    out = roll(pipeline, folder=tmp_path / "clip", keep_pictures=True)
    again = pipeline.redraw(tmp_path / "clip/frames/00004.png")
    np.testing.assert_array_equal(np.asarray(again.images[0]), np.asarray(out.frames[3]))


@pytest.mark.parametrize("count", [0, 1, -3, 10_000, 2.5, True])
def test_a_number_of_frames_that_cannot_be_is_refused(count: Any, pipeline: RetrievalPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_frames: expected a whole number from 2 to 1000"):
        roll(pipeline, num_frames=count, folder=tmp_path / "clip")
    assert not (tmp_path / "clip").exists()


WHITE = Image.new("RGB", (64, 64), "white")


@pytest.mark.parametrize(
    ("frames", "error", "words"),
    [
        ([], ValueError, "got an empty list; None draws"),
        ([BEGIN, BEGIN.resize((32, 32))], ValueError, "64 x 64 pixels first and 32 x 32 as frame 2"),
        ([WHITE, Image.new("RGB", (64, 64), "red")], ValueError, "one colour"),
        ([BEGIN] * 5, ValueError, "more than the 5 frames that are given"),
        ([BEGIN, 3], ValueError, "frames: expected a PIL image"),
        ("nowhere.gif", DataError, "nowhere.gif"),
    ],
)
def test_frames_that_cannot_begin_a_clip_are_refused(
    frames: Any, error: type[Exception], words: str, pipeline: RetrievalPipeline, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        roll(pipeline, frames, folder=tmp_path / "clip")
    assert not (tmp_path / "clip").exists()


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"image": BEGIN}, TypeError, "image: a clip has no such argument"),
        ({"num_images_per_prompt": 2}, TypeError, "a clip has no such"),
        ({"diversity": 2.0}, ValueError, "diversity: expected 0 to 1"),
        ({"num_last": -1}, ValueError, "num_last: expected a whole number"),
        ({"num_retrieved": 99}, ValueError, "num_retrieved: expected a whole number from 0 to 16"),
        ({"stages": 2}, ValueError, "stages: expected 1 to 1"),
    ],
)
def test_what_a_clip_does_not_have_is_refused(
    how: dict[str, Any], error: type[Exception], words: str, pipeline: RetrievalPipeline, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        roll(pipeline, folder=tmp_path / "clip", **how)
    assert not (tmp_path / "clip").exists()


def test_an_empty_prompt_and_a_blocked_one_are_refused(tiny_generator: Generator) -> None:
    with pytest.raises(ValueError, match="prompt: expected a text"):
        RetrievalPipeline(tiny_generator).rollout("  ", BEGIN)
    with pytest.raises(BlockedError):
        RetrievalPipeline(tiny_generator, blocklist=Blocklist(words=("circle",))).rollout(PROMPT, BEGIN)


def test_a_clip_begins_with_a_clip(pipeline: RetrievalPipeline, tmp_path: Path) -> None:
    frames = [draw("circle", color, 0) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "three.gif", save_all=True, append_images=frames[1:])
    out = roll(pipeline, tmp_path / "three.gif", num_frames=5)
    assert shown(out)[0][:2] == ["frame/00003", "frame/00001"]
    frames[0].save(tmp_path / "one.gif")
    assert len(as_given(tmp_path / "one.gif")) == 1
    (tmp_path / "cut.gif").write_bytes((tmp_path / "three.gif").read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cut\.gif: expected a whole clip"):
        roll(pipeline, tmp_path / "cut.gif", num_frames=5)


@pytest.mark.slow
def test_64_frames_take_no_more_memory_than_16(cascade: RetrievalPipeline, tmp_path: Path) -> None:
    """Frames of 128 px and their small ones: 48 more of them would be 2.9 MB, what conditions them more."""
    rollout = Rollout(
        cascade, PROMPT, BEGIN, RolloutSettings(num_frames=64, num_pairs=0), options={"num_inference_steps": 1}
    )
    folder, resident = ClipFolder(tmp_path / "clip"), dict[int, int]()
    folder.begin(rollout)
    rollout.memory.capacity = 16
    for frame in rollout.run(folder):
        resident[frame.number] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert len(rollout.memory) == 16
    assert resident[64] - resident[24] < 2 << 20


def test_settings_are_what_they_are_called() -> None:
    assert set(asdict(RolloutSettings())) <= set(RetrievalPipeline.rollout.__kwdefaults__)
    assert {name: RetrievalPipeline.rollout.__kwdefaults__[name] for name in asdict(RolloutSettings())} == asdict(
        RolloutSettings()
    )


def test_a_given_frame_is_kept_as_it_came(pipeline: RetrievalPipeline, tmp_path: Path) -> None:
    roll(pipeline, folder=tmp_path / "clip", num_frames=2)
    np.testing.assert_array_equal(read_frame(tmp_path / "clip/frames/00001.png"), np.asarray(BEGIN))
    assert next(ClipFolder(tmp_path / "clip").frames()).licence == "unspecified"
