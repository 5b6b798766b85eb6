"""A clip on the page: what its tab asks for, its frames as they come, and the clip that plays; gradio is not known."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from rag_diffusion.errors import ConfigError, MissingExtraError
from rag_diffusion.extras import need
from rag_diffusion.page.cards import shown
from rag_diffusion.page.form import Form, checked_prompt
from rag_diffusion.page.handlers import Handlers
from rag_diffusion.page.uploads import as_neighbors, opened
from rag_diffusion.page.words import percent
from rag_diffusion.project import nothing_to_retrieve, retrieval_options
from rag_diffusion.readers.captioned import VIDEO_SUFFIXES
from rag_diffusion.readers.frames import is_animated
from rag_diffusion.sampling.clip_frames import ClipFrame, GivenFrames
from rag_diffusion.sampling.clip_output import encoded
from rag_diffusion.sampling.credit import NO_LICENCE, credit
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.rollout import Rollout
from rag_diffusion.sampling.rollout_settings import RolloutSettings
from rag_diffusion.sampling.studio import choose_seeds, file_name

MOST = 64  # frames of a clip on the page
_SIDE, _THUMB = 320, 64  # pixels of the clip, and of a frame in the strip

_CLIP = """<div class="figures clip"{% if growing %} aria-busy="true"{% endif %}>
{% if image %}<figure><img alt="{{ alt }}" src="{{ image }}" width="320" height="320">
<figcaption>{% if growing %}<div class="progress" role="progressbar" aria-label="frames" aria-valuemin="0"
 aria-valuemax="{{ total }}" aria-valuenow="{{ done }}"><div style="width: {{ 100 * done // total }}%"></div></div>
<span role="status">frame {{ done }} of {{ total }}</span>{% else %}
<span class="fine">{{ done }} frames, seed {{ seed }}</span>
{% for file, name, url in files %}<a class="save" download="{{ file }}" href="{{ url }}">Save {{ name }}</a>
{% endfor %}{% endif %}</figcaption></figure>{% else %}<p class="hint">{{ hint }}</p>{% endif %}</div>
{% for text in trouble %}<p class="trouble" role="note">{{ text }}</p>{% endfor %}
{% for sentence in credit %}<p class="fine">{{ sentence }}</p>{% endfor %}"""

_STRIP = """<ol class="frames" tabindex="0" aria-label="frames">{% for one in frames %}<li><span class="frame">
<img alt="frame {{ one.number }}" src="{{ one.image }}" width="64" height="64">
<span class="what"><b>Frame {{ one.number }}</b>{% for near in one.near %}
<span class="fine"><bdi>{{ near }}</bdi></span>{% endfor %}</span></span></li>{% endfor %}</ol>"""

_TEMPLATES = {
    name: Environment(autoescape=True, trim_blocks=True).from_string(text)
    for name, text in {"clip": _CLIP, "strip": _STRIP}.items()
}
BEFORE_FIRST = "Write what the clip shows and how it moves; begin with pictures of your own, or let the first be drawn."


@dataclass(frozen=True, kw_only=True)
class ClipForm:
    """What stands in the fields of the tab.

    Attributes:
        files: pictures or a clip to begin with, on this machine; none lets the first frame be drawn.
        licence: of these.
        num_frames: of the clip.
        fps: frames a second.
        num_last, num_retrieved, num_pairs: as `RolloutSettings`.
        same_noise: likewise.
        drawing: fields of the other tab: prompt, guidance, steps, seed and stages.
    """

    drawing: Form
    files: Sequence[str] = ()
    licence: str = ""
    num_frames: int = 16
    fps: float = 8.0
    num_last: int = 1
    num_retrieved: int = 2
    num_pairs: int = 0
    same_noise: bool = False


def empty() -> tuple[str, str]:
    """The tab before anything was drawn: the clip, and the strip of its frames."""
    return _TEMPLATES["clip"].render(hint=BEFORE_FIRST), ""


def animate(handlers: Handlers, form: ClipForm) -> Iterator[tuple[str, str]]:
    """Draw a clip.

    Args:
        handlers: of the page, whose queue draws.
        form: the fields.

    Yields:
        The clip so far, or at the end as it plays, and the strip of its frames, as HTML, after every frame.

    Raises:
        RagDiffusionError, ValueError: it cannot be drawn.
    """
    if form.num_frames > MOST:
        raise ConfigError(
            f"frames: expected at most {MOST} here, got {form.num_frames}; `rag-diffusion animate` draws more"
        )
    rollout = _rollout(handlers, form)
    frames = list[ClipFrame]()
    for frame in handlers.drawer.roll(rollout):
        frames.append(frame)
        if len(frames) < len(rollout):
            yield _growing(frames, rollout), _strip(frames)
    if frames:
        yield _playing(frames, rollout, form.fps), _strip(frames)


def _rollout(handlers: Handlers, form: ClipForm) -> Rollout:
    drawing, base = form.drawing, handlers.base
    prompt, (seed,) = checked_prompt(drawing.prompt), choose_seeds(drawing.seed, 1)
    pairs = 0 if nothing_to_retrieve(base) else form.num_pairs
    settings = RolloutSettings(
        num_frames=form.num_frames, num_last=form.num_last, num_retrieved=form.num_retrieved, num_pairs=pairs,
        num_neighbors=0 if nothing_to_retrieve(base) else drawing.num_neighbors, same_noise=form.same_noise,
    )  # fmt: skip
    options: dict[str, Any] = drawing.options | {"keep_pictures": False}
    stages, sample = options.pop("stages"), base.config.sample
    options.pop("begin_strength")
    usual = {"guidance": Guidance.from_config(sample), "num_inference_steps": sample.num_inference_steps}
    if handlers.drawer.pipeline.frames is not None:  # drawn as `frames_drawing` says where nothing else was chosen
        options = {name: value for name, value in options.items() if usual.get(name) != value}
    if settings.num_pairs or settings.num_neighbors:
        options |= retrieval_options(base.config)
        options.pop("retrieval_schedule")
    return Rollout(
        handlers.drawer.pipeline, prompt, _begin(handlers, form), settings, seed=seed, stages=stages, options=options
    )


def _begin(handlers: Handlers, form: ClipForm) -> GivenFrames | None:
    """The frames that were dropped; None where none were. Pictures are decoded where they can do no harm."""
    if not form.files:
        return None
    clips = [one for one in map(Path, form.files) if one.suffix.lower() in VIDEO_SUFFIXES or is_animated(one)]
    if clips:
        raise ConfigError(
            f"{clips[0].name}: expected pictures here, got a clip; `rag-diffusion animate --frame {clips[0].name}` "
            "begins with one"
        )
    with opened(form.files) as reader:
        taken, rejected = as_neighbors(reader, handlers.base.writer.decode, form.licence.strip())
    if rejected:
        raise ConfigError(f"{rejected[0].what}: expected a picture to begin with, got {rejected[0].reason}")
    return taken


def _growing(frames: Sequence[ClipFrame], rollout: Rollout) -> str:
    return _TEMPLATES["clip"].render(
        growing=True,
        image=shown(frames[-1].pixels, _SIDE),
        alt="the newest frame",
        done=len(frames),
        total=len(rollout),
    )


def _playing(frames: Sequence[ClipFrame], rollout: Rollout, fps: float) -> str:
    """The clip, files of it to save, and what is owed for it."""
    stem = Path(file_name(rollout.prompt, rollout.seed)).stem
    files = [(f"{stem}{form}", name, _url(form, kind, frames, fps)) for form, name, kind in _forms()]
    origins = [frame.provenance for frame in frames if frame.provenance is not None]
    sources = {source.pair_id: source for origin in origins for source in origin.neighbors}
    trouble = dict.fromkeys(str(text) for origin in origins for text in origin.settings.get("trouble", ()))
    return _TEMPLATES["clip"].render(
        image=files[0][2], alt=f"clip: {rollout.prompt}", done=len(frames), seed=rollout.seed, files=files,
        trouble=list(trouble), credit=credit(sources.values()),
    )  # fmt: skip


def _forms() -> list[tuple[str, str, str]]:
    """Ending, name and media type of the forms that can be written here."""
    forms = [(".webp", "WebP", "image/webp"), (".gif", "GIF", "image/gif")]
    try:
        need("video", "av")
    except MissingExtraError:
        return forms
    return [*forms, (".mp4", "MP4", "video/mp4")]


def _url(form: str, kind: str, frames: Sequence[ClipFrame], fps: float) -> str:
    content = encoded(form, (frame.pixels for frame in frames), fps)
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _strip(frames: Sequence[ClipFrame]) -> str:
    """Every frame, newest last, with what it looked at."""
    return _TEMPLATES["strip"].render(
        frames=[{"number": frame.number, "image": shown(frame.small, _THUMB), "near": _near(frame)} for frame in frames]
    )


def _near(frame: ClipFrame) -> list[str]:
    """What a frame looked at, in words."""
    origin = frame.provenance
    if origin is None:
        return [f"given: {frame.source}, {frame.licence or NO_LICENCE}"]
    seen = [f"{one.caption} ({one.pair_id}): {percent(one.attention)}" for one in origin.neighbors]
    return [*seen, f"no neighbor: {percent(origin.null_attention)}"]
