from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rag_diffusion.config import EncoderConfig
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.models.dual_encoder import CONFIG_FILE, DualEncoder
from rag_diffusion.retrieval.align import (
    RECORD_FILE,
    check_training_record,
    contrastive_loss,
    title_loss,
    train_heads,
    training_record,
)
from rag_diffusion.store.corpus import Corpus

CONFIG = EncoderConfig(
    model="embedded",
    pretrained="",
    image_size=32,
    embed_dim=16,
    epochs=6,
    batch_size=32,
    learning_rate=0.01,
    title_weight=0.0,
)


def unit(*shape: int, seed: int = 0) -> Tensor:
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def labels(*values: int) -> Tensor:
    return torch.tensor(values)


def test_with_one_pair_per_entity_the_loss_is_clips() -> None:
    image, text, each = unit(5, 8), unit(5, 8, seed=1), torch.arange(5)
    logits = 7.0 * image @ text.T
    clip = (torch.nn.functional.cross_entropy(logits, each) + torch.nn.functional.cross_entropy(logits.T, each)) / 2
    ours = contrastive_loss(image, text, 7.0, entity=each, family=each)
    torch.testing.assert_close(ours, clip)


def test_loss_of_one_entity_alone_is_the_log_of_its_pairs() -> None:
    same = torch.ones(4, 3) / 3**0.5  # all logits equal: softmax is 1/4 everywhere
    loss = contrastive_loss(same, same, 5.0, entity=labels(1, 1, 1, 1), family=labels(1, 1, 1, 1))
    assert loss.item() == pytest.approx(np.log(4))


def test_pairs_of_one_entity_are_pulled_together_not_apart() -> None:
    near, far = torch.eye(4)[:1].repeat(2, 1), torch.eye(4)[:2]
    entity, apart = labels(1, 1), labels(1, 2)
    together = contrastive_loss(near, near, 10.0, entity=entity, family=entity)
    split = contrastive_loss(far, far, 10.0, entity=entity, family=entity)
    assert together < split
    assert contrastive_loss(near, near, 10.0, entity=apart, family=apart) > contrastive_loss(
        far, far, 10.0, entity=apart, family=apart
    )


def test_another_entity_of_the_same_family_is_neither_positive_nor_negative() -> None:
    image, text = unit(3, 8), unit(3, 8, seed=1)
    moved = text.clone()
    moved[1] = unit(8, seed=2)
    entity, family, apart = labels(0, 1, 2), labels(0, 0, 2), labels(0, 1, 2)

    def gradient_on_first_image(texts: Tensor, families: Tensor) -> Tensor:
        leaf = image.clone().requires_grad_()
        logits_of_first = contrastive_loss(leaf, texts, 7.0, entity=entity, family=families)
        return torch.autograd.grad(logits_of_first, leaf)[0][0]

    kept = gradient_on_first_image(text, family), gradient_on_first_image(moved, family)
    torch.testing.assert_close(*kept)
    pushed = gradient_on_first_image(text, apart), gradient_on_first_image(moved, apart)
    assert not torch.allclose(*pushed, atol=1e-4)


def test_loss_does_not_depend_on_the_order_of_pairs() -> None:
    image, text = unit(6, 8), unit(6, 8, seed=1)
    entity, family = labels(0, 0, 1, 2, 2, 3), labels(0, 0, 1, 1, 1, 3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        contrastive_loss(image, text, 3.0, entity=entity, family=family),
        contrastive_loss(image[order], text[order], 3.0, entity=entity[order], family=family[order]),
    )


def train(encoder: DualEncoder, seed: int = 0, title_weight: float = 0.0) -> list[float]:
    """Train on 96 pairs of 12 entities whose features carry the entity."""
    entity = np.arange(96) % 12
    rng = torch.Generator().manual_seed(1)
    image = torch.randn(12, 1280, generator=rng)[entity] + torch.randn(96, 1280, generator=rng)
    text = torch.randn(12, 384, generator=rng)[entity] + torch.randn(96, 384, generator=rng)
    losses: list[float] = []
    train_heads(
        encoder,
        image,
        text,
        entity=entity,
        family=entity,
        config=CONFIG.model_copy(update={"title_weight": title_weight}),
        seed=seed,
        title_features=titles()[0][entity] if title_weight else None,
        on_step=lambda step, loss: losses.append(loss),
    )
    return losses


def titles() -> tuple[Tensor, Tensor]:
    """Trunk features of 12 titles, close in pairs, and their cosines."""
    rng = torch.Generator().manual_seed(2)
    made = torch.randn(6, 384, generator=rng).repeat_interleave(2, 0) + 0.5 * torch.randn(12, 384, generator=rng)
    unit = torch.nn.functional.normalize(made, dim=1)
    return made, unit @ unit.T


def test_title_loss_by_hand() -> None:
    text, title, meant = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    expected = 0 + 2 / 4 + 2 / 4  # nothing; one of each row is off by one; the two off-diagonal cosines
    assert title_loss(text, title, meant).item() == pytest.approx(expected)
    assert title_loss(text, text, meant).item() == 0


def test_titles_stay_as_alike_as_the_sentence_encoder_finds_them(encoder: DualEncoder) -> None:
    made, meant = titles()

    def apart(one: DualEncoder) -> float:
        unit = torch.nn.functional.normalize(made @ one.text_head.weight.T, dim=1)
        return float((unit @ unit.T - meant).square().mean())

    free, kept = copy.deepcopy(encoder), copy.deepcopy(encoder)
    train(free)
    losses = train(kept, title_weight=100.0)
    assert losses[-1] < losses[0]
    assert apart(kept) < apart(free) / 2


def test_training_lowers_the_loss_and_leaves_the_trunks_alone(encoder: DualEncoder) -> None:
    trained = copy.deepcopy(encoder)
    losses = train(trained)
    assert len(losses) == 18
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    before, after = encoder.model.state_dict(), trained.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        "visual.head.proj.weight",
        "visual.head.proj.bias",
        "text.proj.weight",
        "logit_scale",
    }


def test_same_seed_same_heads_other_seed_other_heads(encoder: DualEncoder) -> None:
    first, again, other = (copy.deepcopy(encoder) for _ in range(3))
    assert train(first) == train(again)
    assert torch.equal(first.image_head.weight, again.image_head.weight)
    train(other, seed=1)
    assert not torch.equal(first.image_head.weight, other.image_head.weight)


def test_record_names_train_entities_alone(corpus: Corpus) -> None:
    record = training_record(corpus)
    table = corpus.table.set_index("entity")["split"]
    assert {table.loc[name].iloc[0] for name in record["entities"]} == {"train"}
    assert len(record["entities"]) == 40
    assert record["num_pairs"] == 280


def write_record(folder: Path, record: dict[str, object]) -> None:
    (folder / CONFIG_FILE).write_text("{}")
    (folder / RECORD_FILE).write_text(json.dumps(record))


def test_encoder_that_saw_a_test_family_is_refused(corpus: Corpus, folder: Path) -> None:
    record = training_record(corpus)
    write_record(folder, record)
    check_training_record(folder, corpus)
    planted = corpus.table.loc[corpus.table["split"] == "test", "family"].iloc[0]
    write_record(folder, record | {"families": [*record["families"], planted]})
    with pytest.raises(LineageError, match=rf"has seen \['{planted}'\].*run the stage `align`"):
        check_training_record(folder, corpus)


def test_encoder_without_record_is_refused_but_a_published_one_passes(corpus: Corpus, folder: Path) -> None:
    check_training_record(folder, corpus)
    (folder / CONFIG_FILE).write_text("{}")
    with pytest.raises(DataError, match="run the stage `align` again"):
        check_training_record(folder, corpus)
