"""The super-resolution stage's crops and its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rag_diffusion.arrays import Pixels
from rag_diffusion.config import Config, UpsampleTrainConfig
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.detail_codec import DetailCodec, upsample
from rag_diffusion.models.super_resolution import SuperResolution, build_upsampler
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.loop import TrainResult
from rag_diffusion.training.processes import open_accelerator
from rag_diffusion.training.upsample import UpsampleProbe, train_upsampler, upsampling_errors
from rag_diffusion.training.upsample_data import CropBatches, Crops, as_batch, fitting_pairs, rendered

Drawings = tuple[Pixels, Pixels]


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    """24 discs at 16 and at 64 pixels."""
    rng = np.random.default_rng(0)
    line = (np.arange(64) + 0.5) / 64
    high = []
    for _ in range(24):
        x, y, radius, *color = rng.random(6)
        distance = np.hypot(line[None] - 0.25 - x / 2, line[:, None] - 0.25 - y / 2)
        inside = np.clip((0.1 + radius / 4 - distance) * 64, 0, 1)[..., None]
        high.append(np.rint(255 * (inside * np.array(color) + 1 - inside)))
    large = np.stack(high)
    low = np.rint(large.reshape(24, 16, 4, 16, 4, 3).mean((2, 4)))
    return low.astype(np.uint8), large.astype(np.uint8)


@pytest.fixture
def config(default_config: Config) -> UpsampleTrainConfig:
    given = default_config.upsample.model_dump()
    given |= {
        "steps": 6, "batch_size": 8, "crop_size": 32, "warmup_steps": 2, "checkpoint_every": 3, "validate_every": 6,
        "learning_rate": 0.002, "precision": "fp32", "max_minutes": 0.0,
    }  # fmt: skip
    given["model"] |= {
        "low_size": 16, "image_size": 64, "block_out_channels": [16, 16], "layers_per_block": [0, 1],
        "max_text_tokens": 16,
    }  # fmt: skip
    return UpsampleTrainConfig.model_validate(given)


def batches(drawings: Drawings, config: UpsampleTrainConfig) -> CropBatches:
    return CropBatches(*drawings, [f"disc {row}" for row in range(24)], config, seed=0)


def fresh(drawings: Drawings, config: UpsampleTrainConfig) -> SuperResolution:
    torch.manual_seed(0)
    return build_upsampler(config.model, DetailCodec.fit(fitting_pairs(*drawings, seed=0), 2), "cpu")


def run(
    stage: SuperResolution,
    drawings: Drawings,
    config: UpsampleTrainConfig,
    scratch: Path,
    crops: CropBatches | None = None,
) -> TrainResult:
    low, high = drawings
    probe = UpsampleProbe(low=low[:4], high=high[:4], captions=("disc 0", "disc 1", "disc 2", "disc 3"))
    return train_upsampler(
        stage, crops or batches(drawings, config), config, seed=0, scratch=scratch, tracker=NullTracker(), probe=probe,
        accelerator=open_accelerator("cpu"),
    )  # fmt: skip


def errors_of(stage: SuperResolution, drawings: Drawings) -> dict[str, float]:
    low, high = drawings
    captions = tuple(f"disc {row}" for row in range(4))
    probe = UpsampleProbe(low=low[:4], high=high[:4], captions=captions)
    return upsampling_errors(stage, probe, stage.text_encoder(captions))[0]


def test_crops_of_both_images_show_the_same(drawings: Drawings, config: UpsampleTrainConfig) -> None:
    made, sizes = batches(drawings, config), set()
    for step in range(12):
        crops = made[step]
        edge = 4 * crops.margin
        up = upsample(crops.low, 4 * crops.low.shape[-1])[..., edge:, edge:][
            ..., : crops.high.shape[-1], : crops.high.shape[-1]
        ]
        assert float((up - crops.high).abs().mean()) < 0.1
        assert len(crops.captions) == len(crops.low) == len(crops.high)
        sizes.add((len(crops.high), crops.high.shape[-1]))
    assert sizes == {(8, 32), (2, 64)}, "crops, and as many pixels of whole images"


def test_a_crop_is_upsampled_as_the_whole_image_is(drawings: Drawings, config: UpsampleTrainConfig) -> None:
    still = config.model_copy(update={"augment_turn": False, "whole_share": 0.0})
    crops = batches(drawings, still)[0]
    low, high = (pixels_to_images(torch.from_numpy(part)) for part in drawings)
    whole = upsample(low, 64)
    part = upsample(crops.low, 4 * crops.low.shape[-1])[..., 16:48, 16:48]
    for row in range(len(crops.low)):
        number, top, left = _where(high, crops.high[row])
        there = whole[number, :, top : top + 32, left : left + 32]
        torch.testing.assert_close(part[row], there, atol=1e-5, rtol=0)


def test_batches_depend_on_the_step_alone(drawings: Drawings, config: UpsampleTrainConfig) -> None:
    one, two = batches(drawings, config), batches(drawings, config)
    _ = one[0], one[1]
    assert torch.equal(one[5].high, two[5].high)
    assert one[5].captions == two[5].captions
    assert not torch.equal(one[5].low, one[6].low)


def seeing(drawings: Drawings, config: UpsampleTrainConfig) -> tuple[CropBatches, UpsampleTrainConfig]:
    """Batches in which every disc has the next three for neighbors."""
    changed = config.model_copy(update={"num_neighbors": 2, "drop_neighbors": 0.25, "augment_turn": False})
    candidates = [np.array([(row + step) % 24 for step in (1, 2, 3)]) for row in range(24)]
    captions = [f"disc {row}" for row in range(24)]
    return CropBatches(*drawings, captions, changed, seed=0, candidates=candidates), changed


def test_neighbors_are_cropped_where_the_picture_is(drawings: Drawings, config: UpsampleTrainConfig) -> None:
    made, _ = seeing(drawings, config)
    high = pixels_to_images(torch.from_numpy(drawings[1]))
    counts = set()
    for step in range(8):
        crops = made[step]
        assert crops.neighbors is not None
        for row, target in enumerate(crops.high):
            number, top, left = _where(high, target)
            side = target.shape[-1]
            seen = crops.neighbors.rows[row][crops.neighbors.weights[row] > 0].tolist()
            counts.add(len(seen))
            around = [high[(number + step) % 24, :, top : top + side, left : left + side] for step in (1, 2, 3)]
            for place in seen:
                image = crops.neighbors.images[place]
                assert min(float((image - other).abs().max()) for other in around) < 1e-6
                assert crops.neighbors.captions[place] in {f"disc {(number + step) % 24}" for step in (1, 2, 3)}
    assert counts == {0, 1, 2}


def _where(high: torch.Tensor, target: torch.Tensor) -> tuple[int, int, int]:
    side = target.shape[-1]
    windows = high.unfold(2, side, 4).unfold(3, side, 4)
    distance = (windows - target[None, :, None, None]).abs().sum(dim=(1, 4, 5))
    number, top, left = np.unravel_index(int(distance.argmin()), distance.shape)
    return int(number), 4 * int(top), 4 * int(left)


def test_a_stage_is_trained_with_neighbors(drawings: Drawings, config: UpsampleTrainConfig, tmp_path: Path) -> None:
    crops, seen = seeing(drawings, config)
    torch.manual_seed(0)
    codec = DetailCodec.fit(fitting_pairs(*drawings, seed=0), 2)
    stage = build_upsampler(seen.model, codec, "cpu", seen.num_neighbors)
    before = {name: value.clone() for name, value in stage.unet.named_parameters() if "neighbor_attention" in name}
    low, high = drawings
    images = [pixels_to_images(torch.from_numpy(high[4:9]))]
    neighbors = as_batch(images, tuple(f"disc {row}" for row in range(4, 9)), [2, 0, 1, 2])
    captions = ("disc 0", "disc 1", "disc 2", "disc 3")
    probe = UpsampleProbe(low=low[:4], high=high[:4], captions=captions, neighbors=neighbors)
    result = train_upsampler(
        stage, crops, seen, seed=0, scratch=tmp_path, tracker=NullTracker(), probe=probe,
        accelerator=open_accelerator("cpu"),
    )  # fmt: skip
    after = dict(stage.unet.named_parameters())
    assert before
    assert all(not torch.equal(value, after[name]) for name, value in before.items() if "to_out" in name)
    gains = result.gains[-1]
    assert {"error_s0_t999", "error_s0_t999_none", "error_s100_t300_none"} <= set(gains)
    assert gains["error_s0_t999"] != gains["error_s0_t999_none"]


@pytest.mark.parametrize("size", [30, 72, 4])
def test_a_crop_that_does_not_fit_is_told(drawings: Drawings, config: UpsampleTrainConfig, size: int) -> None:
    with pytest.raises(ConfigError, match="upsample.crop_size: expected a multiple of 4 up to 64"):
        batches(drawings, config.model_copy(update={"crop_size": size + (size == 4) * 2}))


@pytest.mark.slow
def test_training_draws_finer_than_bicubic(drawings: Drawings, config: UpsampleTrainConfig, tmp_path: Path) -> None:
    longer = config.model_copy(update={"steps": 200, "checkpoint_every": 200, "ema_decay": 0.9, "learning_rate": 0.004})
    stage = fresh(drawings, config)
    before = errors_of(stage, drawings)
    result = run(stage, drawings, longer, tmp_path / "run")
    after = result.gains[-1]
    assert before["error_s0_t999"] == pytest.approx(before["bicubic"], rel=0.01), "nothing is known yet"
    assert after["error_s0_t999"] < before["bicubic"]
    for name in ("error_s0_t300", "error_s100_t300", "error_s100_t999"):
        assert after[name] < 0.9 * before[name], name
    assert result.images_seen == 200 * 8


class StopAt(CropBatches):
    """Interrupts the run, as Ctrl-C would."""

    def __getitem__(self, step: int) -> Crops:
        if step == 4:
            raise KeyboardInterrupt
        return super().__getitem__(step)


def test_an_interrupted_run_goes_on_to_the_same_weights(
    drawings: Drawings, config: UpsampleTrainConfig, tmp_path: Path
) -> None:
    stage = fresh(drawings, config)
    run(stage, drawings, config, tmp_path / "whole")
    stopped = StopAt(*drawings, [f"disc {row}" for row in range(24)], config, seed=0)
    with pytest.raises(KeyboardInterrupt):
        run(fresh(drawings, config), drawings, config, tmp_path / "cut", stopped)
    again = fresh(drawings, config)
    run(again, drawings, config, tmp_path / "cut")
    for name, value in stage.unet.state_dict().items():
        torch.testing.assert_close(again.unet.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_a_pair_without_a_drawing_is_told(tiny_corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a drawing that renders at 128 pixels, got a pair without original"):
        rendered(tiny_corpus, np.arange(2), 128, tmp_path / "rendered")
    assert not (tmp_path / "rendered").exists()
