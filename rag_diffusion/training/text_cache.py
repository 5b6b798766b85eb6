"""Features of the captions that a training reads again and again, within a budget of memory.

A caption of Stable Diffusion XL takes some 300 KB, so that those of 100,000 pairs would take 31 GB.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from rag_diffusion.models.text_encoder import Conditioner, TextFeatures, encode_all

CACHE_BYTES = 2**31  # of features, in float16


class TextCache:
    """Features of the texts that were asked for last, in float16 on the device that asked for them.

    Args:
        encoder: encodes texts that are not here.
        max_bytes: of all features; those of one batch are kept whatever they take.
    """

    def __init__(self, encoder: Conditioner, max_bytes: int = CACHE_BYTES) -> None:
        self._encoder, self._max_bytes = encoder, max_bytes
        self._kept: OrderedDict[str, TextFeatures] = OrderedDict()
        self._bytes_each = 0

    def __len__(self) -> int:
        return len(self._kept)

    def remember(self, texts: Sequence[str], device: torch.device) -> None:
        """Encode what is new of `texts` on `device`, as far as there is room for it."""
        new = sorted(set(texts) - set(self._kept))
        size = 64 if device.type == "cpu" else 1024
        for start in range(0, len(new), size):
            if len(self._kept) >= self._room:
                return
            self._encode(new[start : start + size], device, size)

    def __call__(self, texts: Sequence[str], device: torch.device) -> TextFeatures:
        """Features of B texts, in float32.

        On a CPU each is encoded by itself: rounding depends on what else is in a batch, and what is new at a step on
        where a run was cut.
        """
        new = sorted(set(texts) - set(self._kept))
        if new:
            self._encode(new, device, 1 if device.type == "cpu" else 1024)
        for text in texts:
            self._kept.move_to_end(text)
        features = TextFeatures.cat([self._kept[text] for text in texts])
        while len(self._kept) > max(self._room, len(set(texts))):
            self._kept.popitem(last=False)
        return features.map(lambda value: value.float() if value.is_floating_point() else value).to(device)

    @property
    def _room(self) -> float:
        """Texts that there is room for."""
        return self._max_bytes / self._bytes_each if self._bytes_each else float("inf")

    def _encode(self, texts: Sequence[str], device: torch.device, batch_size: int) -> None:
        added = encode_all(self._encoder, texts, batch_size, device)
        for row, text in enumerate(texts):
            features = added[row : row + 1].map(torch.clone)  # of its own memory, so that it can go alone
            self._kept[text] = features
        tensors = [features.states, *features.added.values(), *([] if features.mask is None else [features.mask])]
        self._bytes_each = sum(value.numel() * value.element_size() for value in tensors)
