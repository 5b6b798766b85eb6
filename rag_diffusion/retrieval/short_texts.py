"""Short texts, as people type them: an index is tuned and checked by them as well as by its captions.

A caption names more than its thing, a manner for example, and finds what lies in a few dense places. Who types the name
alone asks from elsewhere, and the nearest captions lie in many more lists of an index.

Source: benchmarks/2026-11-30-web-scale.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from rag_diffusion.arrays import Floats

SHORT_QUERIES = 1000


def encoded_short(
    encode: Callable[[Sequence[str]], Floats], captions: pa.ChunkedArray, titles: pa.ChunkedArray
) -> Callable[[], Floats]:
    """What `build_indexes` asks for their vectors, and only where it tunes an index.

    Args:
        encode: Q texts -> (Q, D) unit vectors.
        captions: of N pairs.
        titles: of the same pairs.
    """

    def encoded() -> Floats:
        texts = short_texts(captions, titles, SHORT_QUERIES)
        return encode(texts) if texts else np.empty((0, 0), dtype=np.float32)

    return encoded


def short_texts(captions: pa.ChunkedArray, titles: pa.ChunkedArray, count: int) -> list[str]:
    """Texts that ask for evenly spread pairs in fewer words than their captions.

    Args:
        captions: of N pairs.
        titles: of the same pairs. A title that is no caption, and of no pair before, is what is asked for; else half of
            the caption's words.
        count: at most; fewer where pairs are fewer or texts come twice.

    Returns:
        Distinct texts; the same for the same pairs.
    """
    rng, found = np.random.default_rng(0), dict[str, None]()
    for row in np.linspace(0, len(captions) - 1, min(count, len(captions))).astype(np.int64):
        caption, title = captions[int(row)].as_py(), titles[int(row)].as_py()
        title, words = (title or "").strip(), caption.split()
        kept = np.sort(rng.choice(len(words), max(1, len(words) // 2), replace=False)) if words else ()
        asked = title and title != caption and title not in found
        found[title if asked else " ".join(words[place] for place in kept)] = None
    return [text for text in found if text]
