"""Align the embedded dual encoder: two linear heads on frozen trunks, symmetric contrastive loss.

By choice the text head also keeps what the sentence encoder knows: captions, which tell style and kind as well, shall
be as alike as the sentence encoder finds their titles.

Shapes: N pairs, B batch, T trunk width, D width of the shared space.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rag_diffusion.arrays import Ints
from rag_diffusion.config import EncoderConfig
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.models.dual_encoder import CONFIG_FILE, DualEncoder
from rag_diffusion.progress import progress
from rag_diffusion.retrieval.threads import one_thread_per_operation
from rag_diffusion.store.corpus import Corpus

RECORD_FILE = "training.json"
MAX_SCALE = 100.0  # CLIP's bound of the logit scale
WARMUP = 0.1  # share of the steps
WEIGHT_DECAY = 0.1
IMAGE_DROPOUT = 0.5  # of the trunk features; captions need none
IGNORED = -1e4  # logit of a pair that is neither positive nor negative

StepHook = Callable[[int, float], None]


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor | float, *, entity: Tensor, family: Tensor) -> Tensor:
    """Symmetric contrastive loss with several positives per row.

    Every pair of one entity is a positive of each other pair of it, its own included; pairs of the
    same family but of another entity (near-identical drawings) are left out; all other pairs are
    negatives. With one pair per entity and family this is CLIP's loss.

    Args:
        image: (B, D) unit vectors of images.
        text: (B, D) unit vectors of the captions, row by row of the same pair.
        scale: inverse temperature.
        entity: (B,) integer labels.
        family: (B,) integer labels.

    Returns:
        Mean over both directions of -mean_p log softmax(scale * <a, b>)_p over the positives p.

    Source:
        CLIP (arXiv 2103.00020), several positives as in Khosla et al. (arXiv 2004.11362), eq. 2.
    """
    positive = entity[:, None] == entity[None, :]
    ignored = (family[:, None] == family[None, :]) & ~positive
    target = positive.float() / positive.sum(dim=1, keepdim=True)
    logits = (scale * image @ text.T).masked_fill(ignored, IGNORED)
    loss = torch.zeros((), device=logits.device)
    for direction in (logits, logits.T):
        loss = loss - (target * direction.log_softmax(dim=1)).sum(dim=1).mean() / 2
    return loss


def title_loss(text: Tensor, title: Tensor, meant: Tensor) -> Tensor:
    """How far the similarities of captions and titles are from those of the titles in the sentence encoder.

    Args:
        text: (B, D) unit vectors of captions.
        title: (B, D) unit vectors of their titles, by the same head.
        meant: (B, T) unit vectors of the titles as the sentence encoder has them.

    Returns:
        Sum of the mean squared differences of text-text, text-title and title-title cosines from title-title cosines
        in `meant`.

    Source:
        Distillation of relations: Park et al. (arXiv 1904.05068); cosines of titles as targets are our own choice.
    """
    target = meant @ meant.T
    pairs = ((text, text), (text, title), (title, title))
    return torch.stack([(a @ b.T - target).square().mean() for a, b in pairs]).sum()


def train_heads(
    encoder: DualEncoder,
    image_features: Tensor,
    text_features: Tensor,
    *,
    entity: Ints,
    family: Ints,
    config: EncoderConfig,
    seed: int,
    on_step: StepHook,
    title_features: Tensor | None = None,
) -> None:
    """Train the encoder's two linear heads in place; the trunks are not touched.

    Args:
        encoder: embedded encoder.
        image_features: (N, T) trunk features of the training images.
        text_features: (N, T) trunk features of their captions, in the same order.
        entity: (N,) integer labels of the pairs.
        family: (N,) integer labels of the pairs.
        config: epochs, batch size and learning rate.
        seed: of the batches and the dropout; the same seed gives the same heads.
        on_step: called with step number and loss.
        title_features: (N, T) trunk features of the titles; wanted where `config.title_weight` is above 0.
    """
    image_head, image_scale = _standardised_head(encoder.image_head, image_features)
    text_head, text_scale = _standardised_head(encoder.text_head, text_features)
    if title_features is not None:
        text_head.weight.data.copy_(_principal(torch.cat([text_features, title_features]), text_head) * text_scale)
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    weights = [image_head.weight, text_head.weight]
    optimizer = torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": WEIGHT_DECAY},
            {"params": [image_head.bias, log_scale], "weight_decay": 0},
        ],
        lr=config.learning_rate,
    )
    images, texts = image_features / image_scale, text_features / text_scale
    labels = torch.from_numpy(entity), torch.from_numpy(family)
    total = config.epochs * math.ceil(len(entity) / config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, total))
    with torch.random.fork_rng(devices=[]), one_thread_per_operation():
        torch.manual_seed(seed)
        batches = _batches(len(entity), config.batch_size, config.epochs)
        for step, rows in enumerate(progress(batches, total=total, desc="align", unit="step")):
            image = nn.functional.normalize(image_head(nn.functional.dropout(images[rows], IMAGE_DROPOUT)), dim=1)
            text = nn.functional.normalize(text_head(texts[rows]), dim=1)
            loss = contrastive_loss(image, text, log_scale.exp(), entity=labels[0][rows], family=labels[1][rows])
            if title_features is not None:
                title = nn.functional.normalize(text_head(title_features[rows] / text_scale), dim=1)
                meant = nn.functional.normalize(title_features[rows], dim=1)
                loss = loss + config.title_weight * title_loss(text, title, meant)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            log_scale.data.clamp_(max=math.log(MAX_SCALE))
            on_step(step, loss.item())
    _put_back(encoder.image_head, image_head, image_scale)
    _put_back(encoder.text_head, text_head, text_scale)
    encoder.model.get_parameter("logit_scale").data.copy_(log_scale.data)


def _standardised_head(head: nn.Linear, features: Tensor) -> tuple[nn.Linear, Tensor]:
    """A trainable copy of a head, and the deviations by which its features must be divided."""
    scale = features.std(dim=0).clamp_min(1e-3)
    copy = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
    copy.load_state_dict(head.state_dict())
    return copy, scale


def _principal(features: Tensor, head: nn.Linear) -> Tensor:
    """(D, T) main directions of unit features: of all maps to D dimensions it keeps their cosines best."""
    unit = nn.functional.normalize(features, dim=1)
    directions = torch.linalg.eigh(unit.T @ unit).eigenvectors.flip(1).T[: head.out_features]
    start = head.weight.detach().clone()  # rows beyond the width of the trunk stay as they are
    start[: len(directions)] = directions
    return start


def _put_back(head: nn.Linear, trained: nn.Linear, scale: Tensor) -> None:
    """Fold the division by `scale` into the weights."""
    head.weight.data.copy_(trained.weight.data / scale)
    if head.bias is not None:
        head.bias.data.copy_(trained.bias.data)


def _warm_cosine(step: int, total: int) -> float:
    warmup = max(1, round(WARMUP * total))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _batches(count: int, batch_size: int, epochs: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count).split(batch_size)


def training_record(corpus: Corpus) -> dict[str, object]:
    """What an encoder aligned on `corpus` has seen: entities, families and a digest of pairs."""
    rows = np.flatnonzero(corpus.column("split") == "train")
    return {
        "corpus_hash": corpus.hash,
        "num_pairs": len(rows),
        "pairs_sha256": hashlib.sha256("\n".join(corpus.ids(rows)).encode()).hexdigest(),
        "entities": sorted(set(corpus.cells("entity", rows))),
        "families": sorted(set(corpus.cells("family", rows))),
    }


def check_training_record(folder: Path, corpus: Corpus) -> None:
    """Refuse an embedded encoder that has seen a family which this corpus holds out.

    Args:
        folder: the encoder; a published one has no record and passes.
        corpus: the corpus at hand.

    Raises:
        DataError: the embedded encoder has no record.
        LineageError: a validation or test family of the corpus was trained on.
    """
    if not (folder / CONFIG_FILE).is_file():
        return
    try:
        seen = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        entities, families = set(seen["entities"]), set(seen["families"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder / RECORD_FILE}: expected the entities the encoder was trained on, got "
            f"{error!r}; "
            "run the stage `align` again"
        ) from None
    rows = np.flatnonzero(corpus.column("split") != "train")
    held_out = zip(corpus.cells("entity", rows), corpus.cells("family", rows), strict=True)
    leaked = {family for entity, family in held_out if entity in entities or family in families}
    if leaked:
        raise LineageError(
            f"{folder}: expected an encoder that has seen no validation or test family of corpus "
            f"{corpus.hash}, got one "
            f"aligned on corpus {seen.get('corpus_hash')} that has seen "
            f"{sorted(leaked)[:5]}; "
            "run the stage `align` again"
        )
