"""What stands in the fields of the page, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

from rag_diffusion.errors import ConfigError
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.studio import Variant
from rag_diffusion.sampling.style_palettes import COLOUR

LONGEST = 2000  # characters of a prompt


@dataclass(frozen=True, kw_only=True)
class Form:
    """What stands in the fields of the page.

    Attributes:
        prompt: the text.
        variant: which neighbors.
        num_neighbors: of `random` and `retrieved`.
        mode: of guidance.
        text_guidance_scale: w_p.
        neighbor_guidance_scale: w_n.
        num_inference_steps: T.
        seed: None draws one.
        stages: of a cascade; None is all.
        where: which pairs may be retrieved, as `licence=CC0-1.0, source=NAME`; empty is what params.yaml says.
        colours: all that the picture may have, as `#dd2e44`; none are those of the style.
        begin_strength: below 1, how far the first neighbor is noised that the picture begins with.
    """

    prompt: str
    variant: Variant
    num_neighbors: int
    mode: str
    text_guidance_scale: float
    neighbor_guidance_scale: float
    num_inference_steps: int
    seed: int | None
    stages: int | None = None
    where: str = ""
    colours: tuple[str, ...] = ()
    begin_strength: float = 1.0

    @property
    def options(self) -> dict[str, Any]:
        """Of `RetrievalPipeline.__call__`.

        Raises:
            ValueError: there is no such guidance.
        """
        guidance = Guidance(
            mode=self.mode,
            text_guidance_scale=self.text_guidance_scale,
            neighbor_guidance_scale=self.neighbor_guidance_scale,
        )
        steps = int(self.num_inference_steps)
        own = {"colours": self.colours} if self.colours else {}
        return own | {
            "guidance": guidance,
            "num_inference_steps": steps,
            "keep_pictures": True,
            "stages": self.stages,
            "begin_strength": self.begin_strength,
        }


def as_variant(label: str) -> Variant:
    """The variant that the value `label` of the page names."""
    return cast(Variant, label)


def as_seed(text: str) -> int | None:
    """The seed that somebody wrote, `text`; None where nothing stands.

    Raises:
        ConfigError: it is no whole number.
    """
    text = (text or "").strip()
    if text and not text.isdecimal():
        raise ConfigError(f"seed: expected a whole number, or nothing for another one each time, got {text[:40]!r}")
    return int(text) if text else None


def as_colours(text: str) -> tuple[str, ...]:
    """The colours that somebody wrote, `text`, with spaces or commas between them.

    Raises:
        ConfigError: one is none; the name of a file is none either.
    """
    colours = tuple((text or "").replace(",", " ").split())
    for colour in colours:
        if not re.fullmatch(COLOUR, colour):
            raise ConfigError(f"colours: expected them as #dd2e44, with spaces between them, got {colour[:40]!r}")
    return colours


def checked_prompt(text: str) -> str:
    """The `text` of a prompt without space around it.

    Raises:
        ConfigError: it is empty, or longer than `LONGEST`.
    """
    text = (text or "").strip()
    if not text:
        raise ConfigError("expected a text, as “a red apple in the style of Noto”, got none; write what to show")
    if len(text) > LONGEST:
        raise ConfigError(f"expected at most {LONGEST} characters, got {len(text)}; shorten the text")
    return text
