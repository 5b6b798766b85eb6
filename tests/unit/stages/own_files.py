"""Files of somebody's own, for a corpus of them."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tests.unit.readers.pictures import DRAWING, encoded

PHOTOS = 12
COLOURS = [(red, green, blue) for red in (9, 120, 230) for green in (0, 250) for blue in (60, 200)]


def write_source(folder: Path) -> dict[str, bytes]:
    """Photographs with labels, splits and titles, a drawing, and two bad ones; the good files by name."""
    folder.mkdir(parents=True)
    files = {f"{number}.png": encoded(Image.new("RGB", (90, 60 + number), COLOURS[number])) for number in range(PHOTOS)}
    files["drawing.svg"] = DRAWING
    long = "a caption that is much longer than a title may be; " * 30
    rows: list[dict[str, str]] = [{"file_name": name, "text": f"{long} number {name}"} for name in files]
    for number, row in enumerate(rows[:6]):
        row |= {"label": f"thing {number % 3}", "split": ("train", "val", "test")[number % 3], "style": "grainy"}
    rows[1]["title"] = "a name of its own"
    (folder / "broken.png").write_bytes(b"\x89PNG")
    rows += [{"file_name": "broken.png", "text": "x"}, {"file_name": "gone.png", "text": "x"}]
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return files
