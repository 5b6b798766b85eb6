"""Clips on one HTML page that plays them: which frames and pairs each frame looked at, how much, and what is owed.

The page lies beside the folders of its clips and shows their frames' files; it loads nothing else. It follows the
reader's choice of dark or light and of less motion, and the width of a telephone. Every text in it is escaped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from rag_diffusion.sampling.clip_folder import ClipFolder
from rag_diffusion.sampling.clip_frames import ClipFrame
from rag_diffusion.sampling.clip_output import FORMS, FPS
from rag_diffusion.sampling.credit import credit
from rag_diffusion.sampling.provenance import Source

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 18%, Canvas); }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 68rem; padding: 0 1rem; }
section { border-top: 1px solid var(--line); padding: 1.2rem 0; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: flex-start; }
figure { margin: 0; width: min(100%, 20rem); }
figure img { width: 100%; display: block; border: 1px solid var(--line); border-radius: 4px; background: white; }
.controls { display: flex; gap: .6rem; align-items: center; margin-top: .5rem; } .controls input { flex: 1; }
button { font: inherit; min-width: 4.5rem; padding: .2rem .6rem; }
small { opacity: .8; } .trouble { font-weight: 600; }
ul { list-style: none; margin: 0; padding: 0; flex: 1; min-width: min(100%, 18rem); }
li { display: grid; grid-template-columns: 4rem 1fr; gap: .2rem .7rem; padding: .35rem 0; overflow-wrap: anywhere; }
li img { width: 4rem; border: 1px solid var(--line); border-radius: 4px; background: white; grid-row: span 2; }
.bar { height: .4rem; background: var(--line); } .bar div { height: 100%; background: rgb(255, 72, 0); }
"""

_SCRIPT = """
for (const section of document.querySelectorAll('section')) {
  const clip = JSON.parse(section.querySelector('script').textContent);
  const [picture, button, slider, told, list] =
    ['figure img', 'button', 'input', 'output', 'ul'].map((name) => section.querySelector(name));
  const loaded = clip.frames.map((frame) => Object.assign(new Image(), {src: frame.image}));
  let place = 0, timer = null;
  const show = (number) => {
    place = (number + clip.frames.length) % clip.frames.length;
    const frame = clip.frames[place];
    picture.src = loaded[place].src;
    picture.alt = `frame ${place + 1} of ${clip.prompt}`;
    slider.value = place;
    slider.setAttribute('aria-valuetext', `frame ${place + 1}`);
    told.textContent = `frame ${place + 1} of ${clip.frames.length}`;
    if (timer === null) list.replaceChildren(...lines(frame));
  };
  const lines = (frame) => {
    const items = frame.neighbors.map((near) => {
      const item = document.createElement('li');
      item.innerHTML = '<img alt=""><span></span><div class="bar"><div></div></div>';
      const [image, words, share] = [item.children[0], item.children[1], item.children[2].children[0]];
      near.image ? image.src = near.image : image.remove();
      words.textContent = `${near.caption} (${near.words}): ${near.percent} % of the attention`;
      share.style.width = `${near.percent}%`;
      return item;
    });
    const last = document.createElement('li');
    last.append(document.createElement('small'));
    last.style.display = 'block';
    last.firstChild.textContent = frame.words;
    return [...items, last];
  };
  const play = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(() => show(place + 1), 1000 / clip.fps) : null;
    button.textContent = on ? 'Pause' : 'Play';
    list.hidden = on;
    show(place);
  };
  button.addEventListener('click', () => play(timer === null));
  slider.addEventListener('input', () => { place = Number(slider.value); play(false); });
  play(!matchMedia('(prefers-reduced-motion: reduce)').matches);
}
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style }}</style></head><body><h1>{{ title }}</h1>
{% for one in clips %}<section><h2><bdi>{{ one.prompt }}</bdi></h2><div class="row">
<figure><img alt="frame 1 of {{ one.prompt }}" src="{{ one.first }}" width="320" height="320">
<div class="controls"><button type="button">Pause</button>
<input type="range" min="0" max="{{ one.last }}" value="0" aria-label="frame"><output></output></div>
<figcaption><small>{{ one.words }}{% for name, link in one.files %} · <a href="{{ link }}">{{ name }}</a>{% endfor %}
</small></figcaption></figure>
<ul aria-label="what this frame looked at" hidden></ul></div>
{% for text in one.credit %}<p><small>{{ text }}</small></p>{% endfor %}
{% for text in one.trouble %}<p class="trouble">{{ text }}</p>{% endfor %}
<script type="application/json">{{ one.json }}</script></section>
{% else %}<p>No clip lies here yet.</p>{% endfor %}<script>{{ script }}</script></body></html>
"""


def as_clips_page(folders: Sequence[ClipFolder], title: str, *, fps: float = FPS, beside: Path) -> str:
    """Clips on one page.

    Args:
        folders: of the clips; one without frames is left out.
        title: of the page.
        fps: frames a second.
        beside: the folder that the page lies in, for its links.

    Returns:
        HTML.

    Raises:
        DataError: a frame is damaged.
    """
    described = [_described(folder, fps, beside) for folder in folders]
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(
        title=title,
        style=Markup(_STYLE),  # noqa: S704
        script=Markup(_SCRIPT),  # noqa: S704
        clips=[one for one in described if one is not None],
    )


def _described(folder: ClipFolder, fps: float, beside: Path) -> dict[str, Any] | None:
    """What the page says of one clip; None where it has no frame."""
    paths, prompt = folder.frame_paths(), str((folder.plan() or {}).get("prompt", folder.path.name))
    if not paths:
        return None
    links = [_link(path, beside) for path in paths]
    frames, owed, trouble, seed = list[dict[str, Any]](), dict[str, Source](), dict[str, None](), None
    for frame, link in zip(folder.frames(), links, strict=True):
        frames.append({"image": link} | _frame(frame, links))
        if frame.provenance is not None:
            seed = frame.provenance.settings["clip"]["seed"]
            owed |= {one.pair_id: one for one in frame.provenance.neighbors}
            trouble |= dict.fromkeys(map(str, frame.provenance.settings.get("trouble", ())))
    told = {"prompt": prompt, "fps": fps, "frames": frames}
    files = [(path.name, _link(path, beside)) for form in FORMS if (path := folder.path / f"clip{form}").exists()]
    return {
        "prompt": prompt,
        "first": links[0],
        "last": len(links) - 1,
        "words": f"{len(links)} frames, {fps:g} a second" + ("" if seed is None else f", seed {seed}"),
        "files": files,
        "credit": credit(owed.values()),
        "trouble": list(trouble),
        "json": Markup(json.dumps(told, ensure_ascii=True).replace("<", "\\u003c")),  # noqa: S704
    }


def _frame(frame: ClipFrame, links: Sequence[str]) -> dict[str, Any]:
    """What the page says of one frame."""
    if frame.provenance is None:
        return {"neighbors": [], "words": f"Given: {frame.source}."}
    near = [_neighbor(one, links) for one in frame.provenance.neighbors]
    null = round(100 * frame.provenance.null_attention)
    said = f"{null} % of the attention went to no neighbor." if near else "Drawn by the text alone."
    return {"neighbors": near, "words": said}


def _neighbor(source: Source, links: Sequence[str]) -> dict[str, Any]:
    """A frame or a pair that was looked at, with its picture where there is one."""
    image = f"data:image/png;base64,{source.image}" if source.image else ""
    if source.pair_id.startswith("frame/"):
        image = links[int(source.pair_id.removeprefix("frame/")) - 1]
    words = ", ".join(filter(None, (source.pair_id, source.licence, source.attribution)))
    return {"image": image, "caption": source.caption, "words": words, "percent": round(100 * source.attention)}


def _link(path: Path, beside: Path) -> str:
    return quote(Path(os.path.relpath(path, beside)).as_posix())
