"""Batches of clips: targets of the train split, neighbors before them, spoiled as asked, the same when resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rag_diffusion.config import ClipsTrainConfig, Config
from rag_diffusion.errors import DataError
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.store.clips import Clips
from rag_diffusion.training.clips_data import ClipBatches, earlier_places, spoil
from tests.clip_files import tiny_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return tiny_clips(tmp_path_factory.mktemp("clips") / "corpus")


def changed(config: Config, **other: object) -> ClipsTrainConfig:
    return config.clips.train.model_copy(update={"batch_size": 8, **other})


def test_targets_are_train_frames_and_neighbors_are_earlier_ones(clips: Clips, default_config: Config) -> None:
    config = changed(default_config, degrade=0.0, mirror=0.0, drop_neighbors=0.0, drop_both=0.0, drop_text=0.0)
    frames = {clip.title: clips.frames(clip) for clip in clips.clips}
    trained = {clip.title for clip in clips.of("train")}
    for step in range(6):
        (batch,) = ClipBatches(clips, config, 0).parts(step, [slice(None)])
        for row, prompt in enumerate(batch.captions):
            title = next(name for name in frames if name.split()[0] in prompt)
            assert title in trained
            places = [place(frames[title], image) for image in batch.images[row : row + 1]]
            seen = batch.neighbors.rows[row][batch.neighbors.weights[row] > 0]
            shown = [place(frames[title], batch.neighbors.images[number]) for number in seen.tolist()]
            assert shown
            assert len(set(shown)) == len(shown)
            assert max(shown) < places[0]
            assert all("before" in batch.neighbors.captions[n] or "first" in batch.neighbors.captions[n] for n in seen)


def place(frames: np.ndarray, image: torch.Tensor) -> int:
    """Where a picture stands in its clip, to the pixel."""
    pixels = images_to_pixels(image[None])[0].numpy()
    (found,) = np.flatnonzero((frames == pixels).all((1, 2, 3)))
    return int(found)


def test_a_step_is_the_same_again_and_in_parts(clips: Clips, default_config: Config) -> None:
    config = changed(default_config)
    (first,), (again,) = (ClipBatches(clips, config, 4).parts(3, [slice(None)]) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.neighbors.images, again.neighbors.images)
    assert first.captions == again.captions
    assert first.neighbors.captions == again.neighbors.captions
    (other,) = ClipBatches(clips, config, 4).parts(4, [slice(None)])
    assert not torch.equal(first.images, other.images)
    parts = ClipBatches(clips, config, 4).parts(3, [slice(0, 3), slice(3, 8)])
    assert torch.equal(torch.cat([part.images for part in parts]), first.images)


def test_text_and_frames_are_dropped_as_asked(clips: Clips, default_config: Config) -> None:
    (batch,) = ClipBatches(clips, changed(default_config, drop_both=1.0), 0).parts(0, [slice(None)])
    assert set(batch.captions) == {""}
    assert not len(batch.neighbors.images)
    config = changed(default_config, drop_both=0.0, drop_text=1.0, drop_neighbors=0.0)
    (batch,) = ClipBatches(clips, config, 0).parts(0, [slice(None)])
    assert set(batch.captions) == {""}
    assert bool((batch.neighbors.weights.sum(1) > 0).all())


def test_a_still_drawing_of_the_entity_is_shown_as_often_as_asked(clips: Clips, default_config: Config) -> None:
    config = changed(default_config, knowledge=1.0, drop_both=0.0, drop_neighbors=0.0)
    still = np.full((64, 64, 3), 7, np.uint8)
    stills = {clip.entity: [(still, "a still")] for clip in clips.of("train")}
    (batch,) = ClipBatches(clips, config, 0, stills).parts(0, [slice(None)])
    numbers = [number for number, caption in enumerate(batch.neighbors.captions) if caption == "a still"]
    assert len(numbers) == 8
    assert (images_to_pixels(batch.neighbors.images[numbers]) == 7).all()


def test_spoiled_images_differ_a_little_and_the_others_not_at_all() -> None:
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    spoiled = spoil(images, torch.tensor([0.0, 1.0]).repeat(32), torch.Generator().manual_seed(1))
    assert torch.equal(spoiled[::2], images[::2])
    error = (spoiled - images)[1::2].square().mean((1, 2, 3))
    assert float(error.mean()) > 1e-3
    assert float((error > 0).float().mean()) > 0.9
    assert spoiled.abs().max() <= 1


def test_the_last_frame_is_shown_nearly_always_and_the_first_often() -> None:
    rng = np.random.default_rng(0)
    drawn = [earlier_places(rng, 9, 2) for _ in range(400)]
    assert all(len(set(places)) == len(places) and max(places) < 9 and min(places) > 0 for places in drawn)
    assert np.mean([places[0] == 8 for places in drawn]) > 0.85
    assert 0.3 < np.mean([1 in places for places in drawn]) < 0.8
    assert earlier_places(rng, 2, 3) == [1]


def test_no_train_clip_is_told(clips: Clips, default_config: Config, tmp_path: Path) -> None:
    manifest = dict(clips.manifest) | {"clips": [row for row in clips.manifest["clips"] if row["split"] == "test"]}
    with pytest.raises(DataError, match="run the stage `clips`"):
        ClipBatches(Clips(manifest, clips.frames(clips.clips[0])), changed(default_config), 0)
