"""Align the embedded dual encoder: two linear heads on frozen trunks, symmetric contrastive loss.

Shapes: N pairs, B batch, T trunk width, D width of the shared space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rag_diffusion.config import EncoderConfig
from rag_diffusion.models.dual_encoder import DualEncoder
from rag_diffusion.progress import progress

MAX_SCALE = 100.0  # CLIP's bound of the logit scale
WARMUP = 0.1  # share of the steps
WEIGHT_DECAY = 0.1
FEATURE_DROPOUT = 0.2
IGNORED = -1e4  # logit of a pair that is neither positive nor negative

StepHook = Callable[[int, float], None]


def contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor | float, *, entity: Tensor, family: Tensor
) -> Tensor:
    """Symmetric contrastive loss with several positives per row.

    Every pair of one entity is a positive of each other pair of it, its own included; pairs of the same family but of
    another entity (near-identical drawings) are left out; all other pairs are negatives. With one pair per entity and
    family this is CLIP's loss.

    Args:
        image, text: (B, D) unit vectors, row by row of the same pair.
        scale: inverse temperature.
        entity, family: (B,) integer labels.

    Returns:
        Mean over both directions of -mean_p log softmax(scale * <a, b>)_p over the positives p.

    Source:
        CLIP (arXiv 2103.00020), several positives as in Khosla et al. (arXiv 2004.11362), equation 2.
    """
    positive = entity[:, None] == entity[None, :]
    ignored = (family[:, None] == family[None, :]) & ~positive
    target = positive.float() / positive.sum(dim=1, keepdim=True)
    logits = (scale * image @ text.T).masked_fill(ignored, IGNORED)
    loss = torch.zeros((), device=logits.device)
    for direction in (logits, logits.T):
        loss = loss - (target * direction.log_softmax(dim=1)).sum(dim=1).mean() / 2
    return loss


def train_heads(
    encoder: DualEncoder,
    image_features: Tensor,
    text_features: Tensor,
    *,
    entity: NDArray[np.int64],
    family: NDArray[np.int64],
    config: EncoderConfig,
    seed: int,
    on_step: StepHook,
) -> None:
    """Train the encoder's two linear heads in place; the trunks are not touched.

    Args:
        encoder: embedded encoder.
        image_features, text_features: (N, T) trunk features of the training pairs, row by row of the same pair.
        entity, family: (N,) integer labels of the pairs.
        config: epochs, batch size and learning rate.
        seed: of the batches and the dropout; the same seed gives the same heads.
        on_step: called with step number and loss.
    """
    image_head, image_scale = _standardised_head(encoder.image_head, image_features)
    text_head, text_scale = _standardised_head(encoder.text_head, text_features)
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    weights = [image_head.weight, text_head.weight]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": [image_head.bias, log_scale], "weight_decay": 0}],
        lr=config.learning_rate,
    )
    images, texts = image_features / image_scale, text_features / text_scale
    labels = torch.from_numpy(entity), torch.from_numpy(family)
    total = config.epochs * math.ceil(len(entity) / config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, total))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        batches = _batches(len(entity), config.batch_size, config.epochs)
        for step, rows in enumerate(progress(batches, total=total, desc="align", unit="step")):
            image = nn.functional.normalize(image_head(nn.functional.dropout(images[rows], FEATURE_DROPOUT)), dim=1)
            text = nn.functional.normalize(text_head(nn.functional.dropout(texts[rows], FEATURE_DROPOUT)), dim=1)
            loss = contrastive_loss(image, text, log_scale.exp(), entity=labels[0][rows], family=labels[1][rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            log_scale.data.clamp_(max=math.log(MAX_SCALE))
            on_step(step, loss.item())
    _put_back(encoder.image_head, image_head, image_scale)
    _put_back(encoder.text_head, text_head, text_scale)
    encoder.model.get_parameter("logit_scale").data.copy_(log_scale.data)


def _standardised_head(head: nn.Linear, features: Tensor) -> tuple[nn.Linear, Tensor]:
    """A trainable copy of a head for features that were divided by their standard deviations, and those."""
    scale = features.std(dim=0).clamp_min(1e-3)
    copy = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
    copy.load_state_dict(head.state_dict())
    return copy, scale


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
