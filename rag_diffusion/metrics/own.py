"""Measures of a corpus that nobody has labelled, which mean something for few pictures as well.

    own_real_nearest   share of images that are nearer to their own prompt's real image than to any other's
    prompt_agreement   cosine of the prompt and the image in the retriever's space, mean
    agreement_to_real  the same less that of the real image of the prompt, paired: 0 is as near as the real one

The first is by the extractor of the distances, features centred on the real images; guessing reaches 1 / M.

N images of a variant, M prompts and real images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion.arrays import Doubles, Floats, Ints, Pixels
from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.ruler.linear import unit
from rag_diffusion.metrics.variants import Variant

REAL = "real"

Features = Mapping[str, Floats]
Agree = Callable[[Pixels, Sequence[str]], Doubles]


def own_table(
    variants: Mapping[str, Variant], features: Features, texts: Sequence[str], bootstrap: ClusterBootstrap, agree: Agree
) -> dict[str, dict[str, Any]]:
    """The measures of every variant, with intervals.

    Args:
        variants: images, the real ones of all M prompts among them.
        features: (N, D) of the same images.
        texts: M prompts.
        bootstrap: over the prompts.
        agree: cosines (N,) of images and texts.

    Returns:
        Variant -> measure -> interval.
    """
    agreement = {
        name: agree(variant.pixels, [texts[row] for row in variant.answers]) for name, variant in variants.items()
    }
    table: dict[str, dict[str, Any]] = {}
    for name, variant in variants.items():
        rows, cosines = variant.answers, agreement[name]
        part = bootstrap.subset(rows)
        table[name] = {"prompt_agreement": part.interval(cosines).as_dict()}
        if name != REAL:
            right = nearest(features[name], features[REAL]) == rows
            table[name] |= {
                "own_real_nearest": part.interval(right.astype(np.float64)).as_dict(),
                "agreement_to_real": part.difference(cosines, agreement[REAL][rows]).as_dict(),
            }
    return table


def nearest(images: Floats, real: Floats) -> Ints:
    """Which real image each image is nearest to, by cosine around the middle of the real ones.

    Args:
        images: (N, D) features.
        real: (M, D) features.

    Returns:
        (N,) rows of `real`.
    """
    middle = np.asarray(real, dtype=np.float64).mean(axis=0)
    rows: Ints = (unit(images - middle) @ unit(real - middle).T).argmax(axis=1)
    return rows


def dual_encoder_agreement(folder: Path, device: str = "auto") -> Agree:
    """Cosine of image and text by the dual encoder that `align` left in `folder`, computed on `device`."""
    from rag_diffusion.retrieval.encoder import Encoder

    encoder = Encoder(folder, device=device)

    def agree(pixels: Pixels, texts: Sequence[str]) -> Doubles:
        image, text = encoder.images(pixels), encoder.texts(texts)
        cosines: Doubles = (image.astype(np.float64) * text).sum(axis=1)
        return cosines

    return agree
