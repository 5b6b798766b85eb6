"""Pieces of the page as HTML: pictures, neighbors, history. Every text in them is escaped; a card is a button.

A button has `data-index`, its place among its kind; `PRESSED` tells the page's handlers which one was pressed.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.page.session import VARIANTS, Entry
from rag_diffusion.page.words import controls_of, lineage_of, percent, score_of
from rag_diffusion.readers.images import encode_png
from rag_diffusion.sampling.credit import NO_LICENCE, credit
from rag_diffusion.sampling.explain_page import overlay
from rag_diffusion.sampling.provenance import Sign, to_png
from rag_diffusion.sampling.studio import file_name
from rag_diffusion.serving.drawing_queue import Preview

_SIDE = 384  # pixels of a picture on the page
_THUMB = 96  # of a neighbor

PRESSED = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('select', {index: Number(button.dataset.index)});
});
"""

_FIGURES = """<div class="figures">{% for one in figures %}<figure{% if one.growing %} aria-busy="true"{% endif %}>
<img alt="{{ one.alt }}" src="{{ one.image }}" width="384" height="384">
<figcaption>{% if one.growing %}<div class="progress" role="progressbar" aria-label="denoising" aria-valuemin="0"
 aria-valuemax="{{ one.num_steps }}" aria-valuenow="{{ one.step }}"><div style="width: {{ one.percent }}%"></div></div>
<span role="status">{{ one.words }}:{% if one.stage > 1 %} stage {{ one.stage }},{% endif %}
 step {{ one.step }} of {{ one.num_steps }}</span>{% else %}
<b>{{ one.words }}</b>
<span class="fine">seed {{ one.seed }}{% if one.looked %} · {{ one.looked }}{% endif %}</span>
<a class="save" download="{{ one.file }}" href="{{ one.png }}">Save PNG with provenance</a>{% endif %}
</figcaption></figure>
{% else %}<p class="hint">{{ hint }}</p>{% endfor %}</div>
{% for text in trouble %}<p class="trouble" role="note">{{ text }}</p>{% endfor %}
{% for sentence in credit %}<p class="fine">{{ sentence }}</p>{% endfor %}"""

_NEIGHBORS = """<ul class="cards {{ kind }}">{% for one in cards %}
<li><button type="button" data-index="{{ loop.index0 }}"
 aria-pressed="{{ 'true' if one.pressed else 'false' }}"><img alt="" src="{{ one.image }}" width="96" height="96">
<span class="what"><b><bdi>{{ one.caption }}</bdi></b><span class="fine">{{ one.where }}</span>
<span class="fine">{{ one.licence }}</span>
<span class="fine">{{ one.score }}{% if one.percent %} · {{ one.percent }} of the
 attention{% endif %}{% for word in one.control %} · <em>{{ word }}</em>{% endfor %}</span>{% if one.percent %}
<span class="bar"><span style="width: {{ one.percent|replace(' ', '') }}"></span></span>{% endif %}</span></button></li>
{% else %}<li class="hint">{{ hint }}</li>{% endfor %}</ul>"""

_HISTORY = """<ul class="cards past">{% for one in cards %}
<li><button type="button" data-index="{{ one.number }}"
 aria-pressed="{{ 'true' if one.pressed else 'false' }}"><img alt="" src="{{ one.image }}" width="96" height="96">
<span class="what"><b><bdi>{{ one.prompt }}</bdi></b>
<span class="fine">picture {{ one.number }}, seed {{ one.seed }}</span>
<span class="fine">{{ one.words }}</span></span></button></li>
{% else %}<li class="hint">{{ hint }}</li>{% endfor %}</ul>"""

_LINEAGE = """{% if lines %}<ul class="lineage">{% for line in lines %}<li><bdi>{{ line }}</bdi></li>{% endfor %}</ul>
{% endif %}"""

_SETS = """<table class="sets"><caption>Data sets</caption><thead><tr><th>name</th><th>pairs</th><th>licence</th>
<th>state</th></tr></thead><tbody>{% for row in rows %}
<tr>{% for cell in row %}<td><bdi>{{ cell }}</bdi></td>{% endfor %}</tr>
{% else %}<tr><td colspan="4">None yet: add pictures of your own, or run `make demo`.</td></tr>{% endfor %}
</tbody></table>"""

_PIECES = {"figures": _FIGURES, "neighbors": _NEIGHBORS, "history": _HISTORY, "lineage": _LINEAGE, "sets": _SETS}
_TEMPLATES = {name: Environment(autoescape=True, trim_blocks=True).from_string(text) for name, text in _PIECES.items()}

BEFORE_FIRST = "Write what to draw and press Enter."
NO_NEIGHBORS = "None yet. What is retrieved stands here after drawing; or drop pictures of your own."


def figures(
    entries: Sequence[Entry],
    growing: tuple[Preview, str] | None = None,
    heat_of: str = "",
    sign: Sign | None = None,
) -> str:
    """Pictures side by side.

    Args:
        entries: drawn.
        growing: what is being drawn, after them, and its variant.
        heat_of: name of the neighbor whose attention lies over the pictures; empty for none.
        sign: puts credentials into the files to save; None puts none.
    """
    figures_html = [_figure(entry, heat_of, sign) for entry in entries]
    if growing is not None:
        preview, variant = growing
        figures_html.append(
            {
                "growing": True,
                "image": shown(preview.pixels, _SIDE // 2),
                "alt": "the picture so far",
                "words": VARIANTS[variant].capitalize(),
                "step": preview.step,
                "stage": preview.stage,
                "num_steps": preview.num_steps,
                "percent": round(100 * preview.step / preview.num_steps),
            }
        )
    settled = [entry for entry in entries if growing is None]
    trouble = dict.fromkeys(
        str(text) for entry in settled for text in entry.picture.provenance.settings.get("trouble", ())
    )
    looked_at = [source for entry in settled for source in entry.picture.provenance.neighbors]
    return _TEMPLATES["figures"].render(
        figures=figures_html, hint=BEFORE_FIRST, trouble=list(trouble), credit=credit(looked_at)
    )


def neighbors(
    some: Sequence[Neighbor],
    entry: Entry | None = None,
    pressed: Collection[str] = (),
    *,
    hint: str = NO_NEIGHBORS,
    kind: str = "near",
) -> str:
    """Neighbors, or hits of a search, a card each.

    Args:
        some: the neighbors.
        entry: the drawing that looked at them; None where none has.
        pressed: names of those that were touched.
        hint: said where there is none.
        kind: CSS class of the list.
    """
    shares = [None if entry is None else entry.share(neighbor.name) for neighbor in some]
    cards = [
        {
            "image": shown(neighbor.pixels(_THUMB), _THUMB),
            "caption": neighbor.caption or "(shows what the prompt asks for)",
            "where": neighbor.pair_id or neighbor.source or "your own picture",
            "licence": ", ".join(filter(None, (neighbor.licence or NO_LICENCE, neighbor.attribution))),
            "score": score_of(neighbor.score),
            "percent": "" if share is None else percent(share),
            "control": controls_of(neighbor),
            "pressed": neighbor.name in pressed,
        }
        for neighbor, share in zip(some, shares, strict=True)
    ]
    return _TEMPLATES["neighbors"].render(cards=cards, hint=hint, kind=kind)


def history(entries: Sequence[Entry], pressed: int = 0) -> str:
    """The drawings `entries` of a session, newest first; the one of the number `pressed` is marked."""
    cards = [
        {
            "number": entry.number,
            "image": shown(entry.picture.pixels, _THUMB),
            "prompt": entry.picture.provenance.prompt,
            "seed": entry.picture.provenance.seed,
            "words": entry.words,
            "pressed": entry.number == pressed,
        }
        for entry in reversed(entries)
    ]
    return _TEMPLATES["history"].render(cards=cards, hint="Nothing was drawn yet.")


def lineage(entry: Entry | None) -> str:
    """Provenance of the drawing `entry` in words; empty for None."""
    return _TEMPLATES["lineage"].render(lines=[] if entry is None else lineage_of(entry))


def data_sets(rows: Sequence[Sequence[str]]) -> str:
    """A table of data sets, of which `rows` say name, pairs, licence and state."""
    return _TEMPLATES["sets"].render(rows=rows)


def _figure(entry: Entry, heat_of: str, sign: Sign | None) -> dict[str, Any]:
    picture, origin = entry.picture, entry.picture.provenance
    heat = entry.heat(heat_of) if heat_of else None
    pixels = picture.pixels if heat is None else overlay(picture.pixels, heat)
    named = next((source.caption for source in origin.neighbors if source.pair_id == heat_of), "")
    variant = picture.variant if picture.variant != "given" else None
    file = to_png(picture.pixels, origin)
    return {
        "image": shown(pixels, _SIDE),
        "alt": f"drawn for: {origin.prompt}" + (f"; where it looked at: {named}" if heat is not None else ""),
        "words": entry.words.capitalize(),
        "seed": origin.seed,
        "looked": f"where it looked at “{named}”" if heat is not None else "",
        "png": _url(file if sign is None else sign(file, origin)),
        "file": file_name(origin.prompt, int(origin.seed or 0), variant),
    }


def shown(pixels: Pixels, side: int) -> str:
    """A picture, `pixels` (H, W, 3), at `side` pixels at least, as a URL that holds it."""
    image = Image.fromarray(pixels)
    if image.width < side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return _url(encode_png(np.asarray(image)))


def _url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
