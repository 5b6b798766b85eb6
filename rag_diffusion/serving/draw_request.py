"""What a request to the served model may ask for, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rag_diffusion.serving.queries import Where
from rag_diffusion.store.filters import Filter

MAX_PROMPTS = 16
MAX_PROMPT = 2_000  # characters; no text encoder reads more
MAX_STEPS = 250
MAX_NEIGHBORS = 16
MAX_SEED = 2**63 - MAX_PROMPTS  # the images of one request have the seeds after it
DEFAULTS = {"seed": 0, "num_neighbors": -1, "num_inference_steps": -1}  # -1: as in params.yaml
TEXTS = {"weight_by_step": "", "weight_by_map": "", "where": ""}  # empty: as in params.yaml
_MAX_TEXT = 300  # characters
_RANGES = {"seed": (0, MAX_SEED), "num_neighbors": (0, MAX_NEIGHBORS), "num_inference_steps": (1, MAX_STEPS)}


class DrawRequestError(ValueError):
    """A request that is not drawn; the message says what was expected and what came."""


@dataclass(frozen=True, kw_only=True)
class DrawRequest:
    """A request within its limits.

    Attributes:
        prompts: one for each image.
        seed: of the first image; the next has the next.
        num_neighbors, num_inference_steps: -1 is what params.yaml says.
        weight_by_step, weight_by_map: of retrieved neighbors, as `Neighbor` reads them; empty is what params.yaml says.
        where: JSON, which pairs may be retrieved; empty is what params.yaml says.
        neighbors: by hand, JSON for each prompt, empty for none.
    """

    prompts: tuple[str, ...]
    seed: int
    num_neighbors: int
    num_inference_steps: int
    weight_by_step: str = ""
    weight_by_map: str = ""
    where: str = ""
    neighbors: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def checked(
        cls, prompts: Sequence[Any], params: Mapping[str, Any] | None, neighbors: Sequence[Any] = ()
    ) -> DrawRequest:
        """Check a request.

        Args:
            prompts: of the input's column.
            params: of the request; those that are missing or None are as in `DEFAULTS` and `TEXTS`.
            neighbors: of the input's column, where it has one.

        Returns:
            The request, within its limits.

        Raises:
            DrawRequestError: a prompt is none, empty or too long, or there are too many; a number is none, or out of
                range; a text is none.
        """
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise DrawRequestError(
                f"prompt: expected 1 to {MAX_PROMPTS} prompts, got {len(prompts)}; send several requests"
            )
        texts = tuple(_prompt(number, text) for number, text in enumerate(prompts))
        given = {name: value for name, value in (params or {}).items() if value is not None}
        known = {**DEFAULTS, **TEXTS}
        if unknown := sorted(set(given) - set(known)):
            raise DrawRequestError(f"params: expected {', '.join(known)}, got {', '.join(map(repr, unknown))[:200]}")
        numbers = {name: _number(name, given.get(name, value)) for name, value in DEFAULTS.items()}
        words = {name: _text(name, given.get(name, value)) for name, value in TEXTS.items()}
        _where(words["where"])
        given_neighbors = tuple(map(_json, neighbors))
        return cls(prompts=texts, **numbers, **words, neighbors=given_neighbors)  # type: ignore[arg-type]

    @property
    def filter(self) -> Filter | None:
        """Which pairs may be retrieved; None is what params.yaml says."""
        return _where(self.where)


def _where(text: Any) -> Filter | None:
    """A filter as JSON, as `/knn-service` takes it: {"class": ["food"]}; None where there is none."""
    if text == "":
        return None
    try:
        return Where.model_validate_json(text).filter
    except (ValueError, TypeError):
        raise DrawRequestError(
            'where: expected JSON as {"class": ["food"]}, of the columns source, class, licence and split, got '
            f"{str(text)[:100]!r}"
        ) from None


def _prompt(number: int, text: Any) -> str:
    what = f"prompt {number}: expected a text of 1 to {MAX_PROMPT} characters"
    if not isinstance(text, str):
        raise DrawRequestError(f"{what}, got {type(text).__name__} {text!r}"[:300])
    if not text.strip():
        raise DrawRequestError(f"{what}, got an empty one")
    if len(text) > MAX_PROMPT:
        raise DrawRequestError(f"{what}, got {len(text)}")
    return text


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise DrawRequestError(f"{name}: expected a text of at most {_MAX_TEXT} characters, got {value!r}"[:300])
    return value


def _json(value: Any) -> str:
    """A cell of the column `neighbors`; one that is missing is none, or not a number."""
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        raise DrawRequestError(f"neighbors: expected JSON as text, got {type(value).__name__}")
    return value


def _number(name: str, value: Any) -> int:
    low, high = _RANGES[name]
    default = f", or {DEFAULTS[name]} for what params.yaml says" * (DEFAULTS[name] < 0)
    what = f"{name}: expected a whole number from {low} to {high}{default}"
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        raise DrawRequestError(f"{what}, got {value!r}"[:300]) from None
    if isinstance(value, str | bool) or whole != value or not (low <= whole <= high or whole == DEFAULTS[name]):
        raise DrawRequestError(f"{what}, got {value!r}"[:300])
    return whole
