"""A drawing as vectors: outlines of its areas of one colour, traced by vtracer."""

from __future__ import annotations

import io
from html import escape

from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.extras import need
from rag_diffusion.sampling.provenance import Provenance

_SIDE = 512  # pixels that are traced: a small picture is enlarged, so that its outlines become curves


def as_svg(pixels: Pixels, provenance: Provenance) -> str:
    """Trace a picture.

    Args:
        pixels: (H, W, 3).
        provenance: kept inside, as metadata.

    Raises:
        MissingExtraError: vtracer is not installed.
    """
    need("svg", "vtracer")
    import vtracer  # type: ignore[import-not-found, import-untyped, unused-ignore]

    image = Image.fromarray(pixels)
    if image.width < _SIDE:
        image = image.resize((_SIDE, round(_SIDE * image.height / image.width)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert("RGBA").save(buffer, format="PNG")
    traced: str = vtracer.convert_raw_image_to_svg(
        buffer.getvalue(),
        img_format="png",
        colormode="color",
        hierarchical="stacked",
        mode="spline",
        filter_speckle=12,  # pixels: smaller spots are left out
        color_precision=6,  # bits of a channel
        layer_difference=16,
        path_precision=1,
    )
    start = traced.index(">", traced.index("<svg")) + 1
    size = f' viewBox="0 0 {image.width} {image.height}"'
    head = traced[:start] if "viewBox" in traced[:start] else f"{traced[: start - 1]}{size}>"
    return f"{head}<metadata>{escape(provenance.as_json())}</metadata>{traced[start:]}"
