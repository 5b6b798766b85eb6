"""Pictures and what made them as one HTML file that needs no other: neighbors, licences, where each was looked at.

The page follows the reader's choice of dark or light, and the width of a telephone. Every text in it is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.readers.images import encode_png
from rag_diffusion.sampling.credit import credit
from rag_diffusion.sampling.provenance import Source
from rag_diffusion.sampling.studio import Picture

_SIDE = 320  # pixels of a picture and of a heat map on the page
_GLOW = (255, 72, 0)  # colour of what was looked at
_MOST = 0.75  # opacity where it was looked at most

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 18%, Canvas); }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 68rem; padding: 0 1rem; }
section { border-top: 1px solid var(--line); padding: 1.2rem 0; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: flex-start; }
figure { margin: 0; width: min(100%, 20rem); } figure.neighbor { width: min(100%, 14rem); }
img { width: 100%; display: block; border: 1px solid var(--line); border-radius: 4px; background: white; }
figcaption { margin-top: .4rem; overflow-wrap: anywhere; } small { opacity: .75; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; } .bar { height: .4rem; background: var(--line); }
.bar div { height: 100%; background: rgb(255, 72, 0); } .trouble { font-weight: 600; }
</style></head><body><h1>{{ title }}</h1>
{% for one in pictures %}<section><h2><bdi>{{ one.prompt }}</bdi></h2><div class="row">
<figure><img alt="the picture drawn for this prompt" src="{{ one.image }}">
<figcaption>{{ one.variant }}, seed {{ one.seed }}
<br><small>{{ one.settings }}</small></figcaption></figure>
{% for near in one.neighbors %}<figure class="neighbor"><div class="pair">
<img alt="neighbor: {{ near.caption }}" src="{{ near.image }}">
<img alt="where the picture looked at it" src="{{ near.heat }}"></div>
<figcaption><bdi>{{ near.caption }}</bdi><br><small>{{ near.pair_id }}
{%- if near.role != "content" %}, {{ near.role }}{% endif %}
<br>{{ near.licence }}{% if near.attribution %}, {{ near.attribution }}{% endif %}
{% if near.score is not none %}<br>score {{ "%.3f"|format(near.score) }}{% endif %}</small>
<div class="bar" title="share of attention"><div style="width: {{ near.percent }}%"></div></div>
<small>{{ near.percent }} % of the attention</small></figcaption></figure>
{% else %}<p>Drawn by the prompt alone: no neighbor was shown.</p>{% endfor %}</div>
{% if one.neighbors %}<p><small>{{ one.null }} % of the attention went to no neighbor.</small></p>{% endif %}
{% for text in one.credit %}<p><small>{{ text }}</small></p>{% endfor %}
{% for text in one.trouble %}<p class="trouble">{{ text }}</p>{% endfor %}</section>
{% endfor %}</body></html>
"""


def as_page(pictures: Sequence[Picture], title: str) -> str:
    """Pictures on one page.

    Args:
        pictures: drawn with `keep_pictures`, so that their neighbors can be shown.
        title: of the page.
    """
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(title=title, pictures=[_described(one) for one in pictures])


def overlay(pixels: Pixels, heat: Tensor) -> Pixels:
    """A picture under the places that looked at a neighbor.

    Args:
        pixels: (H, W, 3).
        heat: (H', W'), any scale.

    Returns:
        (`_SIDE`, `_SIDE`, 3).
    """
    size = (_SIDE, _SIDE)
    below = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    values = heat.float().numpy()
    scaled = Image.fromarray(values / max(float(values.max()), 1e-9)).resize(size, Image.Resampling.BICUBIC)
    opacity = np.clip(np.asarray(scaled), 0, 1)[..., None] * _MOST
    grey = below.mean(axis=2, keepdims=True) * 0.6 + below * 0.4
    blended: Pixels = np.round(grey * (1 - opacity) + np.array(_GLOW) * opacity).astype(np.uint8)
    return blended


def _described(one: Picture) -> dict[str, Any]:
    origin = one.provenance
    settings = origin.settings
    guidance = settings.get("guidance", {})
    variant = {"none": "without neighbors", "given": "neighbors by hand"}.get(one.variant, f"{one.variant} neighbors")
    recipe = f"{settings.get('num_inference_steps', '?')} steps of {settings.get('scheduler', '?')}"
    return {
        "prompt": origin.prompt,
        "variant": variant,
        "seed": origin.seed,
        "settings": f"{recipe}, guidance {guidance.get('mode', guidance) if isinstance(guidance, dict) else guidance}",
        "image": _url(_scaled(one.pixels)),
        "null": round(100 * origin.null_attention),
        "credit": credit(origin.neighbors),
        "trouble": settings.get("trouble", ()),
        "neighbors": [_neighbor(one.pixels, *both) for both in zip(origin.neighbors, one.heat, strict=True)],
    }


def _neighbor(pixels: Pixels, source: Source, heat: Tensor) -> dict[str, Any]:
    names = ("caption", "pair_id", "role", "licence", "attribution", "score")
    return {name: getattr(source, name) for name in names} | {
        "image": f"data:image/png;base64,{source.image}",
        "heat": _url(overlay(pixels, heat)),
        "percent": round(100 * source.attention),
    }


def _scaled(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS) if image.width < _SIDE else image)


def _url(pixels: Pixels) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode()
