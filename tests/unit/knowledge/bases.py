"""Knowledge bases for tests: a small encoder that counts its work, items drawn on the spot, projects to put them in."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from rag_diffusion.config import Config, load_config
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.readers.records import Item
from rag_diffusion.retrieval.tokens import tokenize

ROOT = Path(__file__).resolve().parents[3]
SIZE = 32  # pixels
COLORS = ("red", "green", "blue", "orange", "purple", "black", "pink", "gray")
THINGS = ("fox", "hammer", "apple", "boat", "moon", "house", "wolf", "drum", "leaf", "key")


class TinyEncoder:
    """Colours and words as unit vectors of one space; deterministic, a row does not depend on its batch.

    Attributes:
        num_images, num_texts: how many it has seen.
    """

    def __init__(self, name: str = "tiny") -> None:
        self.hash = name.ljust(64, "0")
        self.num_images = self.num_texts = 0

    def images(self, pixels: np.ndarray) -> np.ndarray:
        self.num_images += len(pixels)
        small = pixels.reshape(len(pixels), 2, pixels.shape[1] // 2, 2, -1, 3).mean(axis=(2, 4))
        return _unit(np.concatenate([small.reshape(len(pixels), -1) / 255, np.full((len(pixels), 4), 0.1)], axis=1))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.num_texts += len(texts)
        return _unit(np.stack([sum(map(_word, tokenize(text)), np.full(16, 0.01)) for text in texts]))


def _word(word: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).normal(size=16)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def picture(number: int, size: int = SIZE) -> bytes:
    """A PNG unlike any other."""
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    tiles = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(tiles).resize((size, size), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def items(numbers: Iterable[int], prefix: str = "", **fields: str) -> list[Item]:
    """Captioned pictures; numbers make names, captions, classes and pictures."""
    return [
        Item(
            name=f"{prefix}{number:05d}.png",
            image=picture(number),
            caption=f"a {COLORS[number % 8]} {THINGS[number % 10]} number {number % 97}",
            label=THINGS[number % 10],
            **({"split": ("train", "validation", "test")[number % 3]} | fields),
        )
        for number in numbers
    ]


def settings(**sections: dict[str, object]) -> Config:
    """params.yaml with small images, and with other values in some sections."""
    config = load_config(ROOT / "params.yaml")
    sections = {"corpus": {"image_size": SIZE}, **sections}
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )


def make_base(root: Path, encoder: TinyEncoder | None = None, *, wait: float = 5.0, **sections: dict[str, object]):
    """A knowledge base in a folder."""
    return KnowledgeBase(root, settings(**sections), encoder or TinyEncoder(), wait=wait)


def write_params(root: Path, image_size: int = SIZE) -> None:
    """A project's params.yaml."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["corpus"]["image_size"] = image_size
    (root / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
