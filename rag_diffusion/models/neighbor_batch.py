"""The neighbors of a batch: distinct images and captions once, and who sees which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.models.codec import pixels_to_images


@dataclass(frozen=True, kw_only=True)
class NeighborBatch:
    """Neighbors of B images.

    Attributes:
        pair_ids: N distinct pairs.
        captions: their texts.
        images: (N, 3, H, W) in [-1, 1].
        rows: (B, K) which of the N each image sees.
        mask: (B, K) true where there is a neighbor.
    """

    pair_ids: tuple[str, ...]
    captions: tuple[str, ...]
    images: Tensor
    rows: Tensor
    mask: Tensor

    @classmethod
    def gather(cls, corpus: Corpus, lists: Sequence[Sequence[str]]) -> NeighborBatch:
        """Collect the neighbors named by `lists`, one list of pair ids an image; lists may differ in length.

        Raises:
            LineageError: the corpus has no such pair.
        """
        distinct = tuple(sorted({pair_id for names in lists for pair_id in names}))
        place = {pair_id: number for number, pair_id in enumerate(distinct)}
        width = max((len(names) for names in lists), default=0)
        rows = torch.zeros(len(lists), width, dtype=torch.long)
        mask = torch.zeros(len(lists), width, dtype=torch.bool)
        for number, names in enumerate(lists):
            rows[number, : len(names)] = torch.tensor([place[name] for name in names], dtype=torch.long)
            mask[number, : len(names)] = True
        corpus_rows = corpus.rows(distinct)
        captions = tuple(str(text) for text in corpus.table["caption"].iloc[corpus_rows])
        images = pixels_to_images(torch.from_numpy(corpus.pixels(corpus_rows)))
        return cls(pair_ids=distinct, captions=captions, images=images, rows=rows, mask=mask)

    def __len__(self) -> int:
        return len(self.rows)
