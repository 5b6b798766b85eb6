"""A project of a few files and real parts, for examples: the base generator, an encoder, captioned pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from rag_diffusion import KnowledgeBase
from rag_diffusion.layout import BASE, ENCODER
from rag_diffusion.models.dual_encoder import create_embedded, save_weights
from rag_diffusion.readers.forms import open_reader

CIRCLES = ("red", "green", "blue")


def small_project(root: Path, origin: Path) -> Path:
    """Write the base generator, an untrained encoder, a folder of captioned pictures, and a data set of them.

    Args:
        root: an empty folder.
        origin: the repository, whose base and settings it has.
    """
    (root / "params.yaml").write_text((origin / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (root / ENCODER).mkdir(parents=True)
    (root / BASE).symlink_to(origin / BASE)
    save_weights(create_embedded(root / ENCODER, image_size=64, embed_dim=16, seed=0), root / ENCODER)
    (root / "photos").mkdir()
    for color in CIRCLES:
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).ellipse((8, 8, 56, 56), fill=color)
        picture.save(root / "photos" / f"{color}.png")
        (root / "photos" / f"{color}.txt").write_text(f"a {color} circle", encoding="utf-8")
    KnowledgeBase.open(root).add("photos", open_reader("auto", root / "photos"), licence="CC0-1.0")
    return root
