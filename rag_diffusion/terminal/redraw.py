"""A drawn file again, beside it, and how far the two are apart: `rag-diffusion redraw FILE.png`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rag_diffusion.errors import ModelError
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.project import open_pipeline
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.provenance import Provenance, read_provenance, save_picture

_ROUNDING = 1  # of 255: where a value lies between two


def redraw_file(root: Path, file: Path, out: Path) -> str:
    """Draw the picture of a file again with the project's generator and knowledge base.

    Args:
        root: the project.
        file: a PNG with its provenance inside.
        out: where the new one is written.

    Returns:
        How far the two are apart, in words.

    Raises:
        LineageError: it cannot be drawn again, with the reasons.
        ModelError: it was drawn in float32 and came out as another one.
        DataError: the file holds no provenance.
    """
    origin = read_provenance(file)
    pipeline = open_pipeline(root, retriever=_retriever(root, origin))
    drawn = pipeline.redraw(origin)
    pixels = as_arrays(drawn.images)[0]
    save_picture(out, pixels, drawn.provenance[0])
    with Image.open(file) as image:
        apart = np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels)
    if apart.max() == 0:
        return f"{out}: the same picture, pixel by pixel"
    difference = f"largest difference {apart.max()} of 255, mean {apart.mean():.3f}"
    if apart.max() <= _ROUNDING:
        return f"{out}: the same picture but for rounding ({difference})"
    if origin.settings["precision"] != "float32":
        rounding = f"it was drawn in {origin.settings['precision']}, which rounds"
        return f"{out}: nearly the same picture ({difference}); {rounding}"
    raise ModelError(
        f"{out}: expected the same picture, got another one ({difference}); it was drawn by another version of this "
        "package or of torch"
    )


def _retriever(root: Path, origin: Provenance) -> KnowledgeBase | None:
    """What has its neighbors, where the file does not keep them all itself."""
    return None if all(source.image for source in origin.neighbors) else KnowledgeBase.open(root)
