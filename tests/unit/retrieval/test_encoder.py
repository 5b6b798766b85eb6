from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from rag_diffusion.errors import DataError, ModelError
from rag_diffusion.models.dual_encoder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    DualEncoder,
    load_published,
)
from rag_diffusion.retrieval.encoder import KEPT_FILES, TEXT_BATCH, Encoder
from rag_diffusion.retrieval.threads import in_a_worker, in_order, one_thread_per_operation
from rag_diffusion.store.corpus import Corpus

TEXTS = ["a red circle", "b", "a much longer caption about two blue squares, noto style", "b"]


def test_vectors_are_those_of_open_clip(encoder: DualEncoder, corpus: Corpus) -> None:
    made = Encoder(encoder, device="cpu")
    with torch.inference_mode():
        text = encoder.model.encode_text(encoder.tokenize(TEXTS), normalize=True)
    np.testing.assert_allclose(made.texts(TEXTS), text.numpy(), atol=1e-5)
    vectors = made.images(corpus.pixels([0, 1]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_texts_keep_their_order_and_do_not_depend_on_the_batch(encoder: DualEncoder) -> None:
    made = Encoder(encoder, device="cpu")
    together = made.texts(TEXTS)
    np.testing.assert_allclose(together, np.concatenate([made.texts([t]) for t in TEXTS]), atol=1e-5)
    np.testing.assert_array_equal(together[1], together[3])
    assert np.abs(together[0] - together[2]).max() > 0.01


def test_images_do_not_depend_on_the_batch(encoder: DualEncoder, corpus: Corpus) -> None:
    made = Encoder(encoder, device="cpu")
    pixels = corpus.pixels([0, 100, 200])
    alone = np.concatenate([made.images(pixels[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(made.images(pixels), alone, atol=1e-5)


def test_many_batches_on_all_cores_give_what_one_worker_gives(encoder: DualEncoder, corpus: Corpus) -> None:
    made, rows = Encoder(encoder, device="cpu"), np.arange(40)
    pixels, captions = corpus.pixels(rows), corpus.table["caption"][:40].tolist()

    def in_worker(part: slice) -> tuple[np.ndarray, np.ndarray]:
        assert in_a_worker()
        return made.images(pixels[part]), made.texts(captions[part])

    parts = list(in_order(in_worker, [slice(0, 25), slice(25, 40)]))
    np.testing.assert_allclose(np.concatenate([image for image, _ in parts]), made.images(pixels), atol=1e-5)
    np.testing.assert_allclose(np.concatenate([text for _, text in parts]), made.texts(captions), atol=1e-5)


def test_texts_of_like_length_share_a_batch(encoder: DualEncoder) -> None:
    texts = ["word " * (1 + number % 9) for number in range(3 * TEXT_BATCH)]
    batches = list(Encoder(encoder, device="cpu").token_batches(texts))
    assert sorted(int(row) for rows, _ in batches for row in rows) == list(range(len(texts)))
    assert [len(rows) for rows, _ in batches] == [TEXT_BATCH] * 3
    assert [tokens.shape[1] for _, tokens in batches] == [5, 8, 11], "words of a batch's longest, and both ends"


def test_towers_and_batches_are_on_the_device_asked_for(encoder: DualEncoder, corpus: Corpus) -> None:
    there = replace(encoder, model=deepcopy(encoder.model))
    made = Encoder(there, device="meta")
    assert {weight.device.type for weight in made.encoder.model.parameters()} == {"meta"}
    seen = []

    def here(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        seen.append(inputs[0].device.type)
        return torch.ones(output.shape)

    def stop(_: nn.Module, inputs: tuple[Tensor], named: dict[str, Tensor]) -> None:
        seen.extend(one.device.type for one in named.values())
        raise InterruptedError  # before it looks into a mask that has no values on this device

    for name in ("visual.trunk", "visual.head.proj"):
        there.model.get_submodule(name).register_forward_hook(here)
    there.model.get_submodule("text.transformer").register_forward_pre_hook(stop, with_kwargs=True)
    np.testing.assert_allclose(made.images(corpus.pixels([0, 1, 2])), np.full((3, 16), 0.25))
    with pytest.raises(InterruptedError):
        made.texts(TEXTS)
    assert seen == ["meta"] * 4


def test_results_come_back_from_the_device(encoder: DualEncoder, corpus: Corpus) -> None:
    made = Encoder(replace(encoder, model=deepcopy(encoder.model)), device="meta")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # which a GPU can
        made.images(corpus.pixels([0]))


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(encoder: DualEncoder, corpus: Corpus) -> None:
    pixels, here = corpus.pixels(np.arange(100)), Encoder(encoder, device="cpu")
    image, text = here.images(pixels), here.texts(TEXTS)
    there = Encoder(replace(encoder, model=deepcopy(encoder.model)), device="cuda")
    np.testing.assert_allclose(there.images(pixels), image, atol=5e-3)  # convolutions in TF32
    np.testing.assert_allclose(there.texts(TEXTS), text, atol=5e-3)


def test_a_folder_is_loaded_at_the_first_batch(tmp_path: Path) -> None:
    made = Encoder(tmp_path / "encoder")
    with pytest.raises(ModelError, match="expected the dual encoder that makes vectors, found none"):
        made.hash  # noqa: B018
    with pytest.raises(ModelError, match="expected a dual encoder with open_clip_config.json, found none"):
        made.texts(["a"])


def test_an_encoder_in_memory_has_no_hash(encoder: DualEncoder) -> None:
    with pytest.raises(ModelError, match="expected one that lies in a folder, got one in memory"):
        Encoder(encoder).hash  # noqa: B018


def test_results_come_in_order_and_batches_are_read_only_a_little_ahead() -> None:
    read = []

    def batches() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    results = in_order(lambda number: number * number, batches(), workers=2)
    assert [next(results) for _ in range(10)] == [number * number for number in range(10)]
    assert len(read) <= 10 + 2 + 3
    results.close()
    assert len(read) < 20


def test_an_error_of_the_source_comes_after_the_results_before_it() -> None:
    def batches() -> Iterator[int]:
        yield from (1, 2)
        raise DataError("damaged")

    results = in_order(str, batches())
    assert [next(results), next(results)] == ["1", "2"]
    with pytest.raises(DataError, match="damaged"):
        next(results)


def test_overlapping_blocks_give_the_threads_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = one_thread_per_operation(), one_thread_per_operation()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_num_threads() == 1
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_kept_features_are_used_for_the_same_pixels_only(encoder: DualEncoder, corpus: Corpus, tmp_path: Path) -> None:
    plain, keeping = Encoder(encoder, device="cpu"), Encoder(encoder, device="cpu", scratch=tmp_path)
    first = corpus.pixels([0, 1])
    np.testing.assert_array_equal(keeping.images(first), plain.images(first))
    assert len(list(tmp_path.glob("image-*"))) == 1
    np.testing.assert_array_equal(keeping.images(first), plain.images(first))
    assert len(list(tmp_path.glob("image-*"))) == 1
    other = corpus.pixels([2, 3])
    np.testing.assert_array_equal(keeping.images(other), plain.images(other))
    assert len(list(tmp_path.glob("image-*"))) == 2


def test_scratch_does_not_grow_without_end(encoder: DualEncoder, tmp_path: Path) -> None:
    keeping = Encoder(encoder, device="cpu", scratch=tmp_path)
    for number in range(KEPT_FILES + 3):
        keeping.texts([f"caption {number}"])
    assert len(list(tmp_path.iterdir())) == KEPT_FILES


def test_published_encoder_gives_unit_vectors_of_its_own_towers(corpus: Corpus, tmp_path: Path) -> None:
    tower = {"width": 64, "layers": 1}
    config = {
        "embed_dim": 16,
        "vision_cfg": tower | {"image_size": 32, "patch_size": 16},
        "text_cfg": tower | {"heads": 1, "context_length": 20, "vocab_size": 49408},
    }
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    save_file(theirs.state_dict(), tmp_path / WEIGHTS_FILE)
    encoder = load_published(f"local-dir:{tmp_path}", "")
    made = Encoder(encoder, device="cpu", scratch=tmp_path / "scratch")
    with torch.inference_mode():
        text = theirs.encode_text(encoder.tokenize(TEXTS), normalize=True)
        images = [encoder.preprocess(Image.fromarray(one)) for one in corpus.pixels([0, 9])]
        image = theirs.encode_image(torch.stack(images), normalize=True)
    np.testing.assert_allclose(made.texts(TEXTS), text.numpy(), atol=1e-5)
    np.testing.assert_allclose(made.images(corpus.pixels([0, 9])), image.numpy(), atol=1e-5)
    assert not (tmp_path / "scratch").exists()
