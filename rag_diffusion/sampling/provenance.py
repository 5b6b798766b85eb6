"""Where an image came from: the pairs that conditioned it, their licences, and how much each was looked at.

One JSON schema, version `VERSION`, beside the image and inside the PNG (text chunk `rag_diffusion`) or JPEG (comment):

    {"version": 6, "prompt", "variant", "seed", "corpus_hash", "model_hash", "settings", "null_attention",
     "data_sets": [{"name", "hash", "num_pairs", "added"}, ...],
     "neighbors": [{"pair_id", "caption", "source", "licence", "attribution", "role", "score", "attention", "weight",
                    "digest", "image", "weight_by_step", "weight_by_map", "mask", "fit_mask", "negative"}, ...],
     "phases": [{"start", "pair_ids"}, ...], "credit": [sentence, ...]}

Together with the generator it draws the image again, see `redraw`.

`data_sets` are those that the prompt was searched in, each with the hash of its pairs as they were then; `corpus_hash`
is of all of them together. `settings` holds what else decides a pixel (scheduler and what is unusual of it, steps,
guidance, thresholding, size, precision, where noise was drawn, what it began with), and as `trouble`, where there was
any, which remote data sets did not send what they were asked for. `role` is `content` or `style`. `score` is the fused
retrieval score, null where the neighbor was given by hand.
`digest` is of a neighbor's pixels as the network saw them and of its caption; `image` holds these pixels as a PNG in
base64 where the caller chose so. `phases` says from which step on which neighbors were seen, best first. `attention` of
all neighbors and `null_attention` sum to 1; that of `negative` ones is 0. `weight_by_step` has the points (fraction,
weight) of a curve, none where it is constant; `weight_by_map` a preset or (side, weight) pairs; `mask` a gray PNG in
base64, empty where there is none, and `fit_mask` whether the picture stood in the box around it.
`credit` says what the neighbors' licences ask, see `credit`; it follows from them, and is not read.
Former versions are read too: until 5 neighbors had none of these five; 3 and 4 have no `data_sets`; 3 has no `phases`,
`weight` and `digest` either, and its `seed` may be null.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_write
from rag_diffusion.models.neighbor_control import BOTH, Points
from rag_diffusion.readers.images import encode_png
from rag_diffusion.sampling.credit import credit
from rag_diffusion.types import DataSetVersion

VERSION = 6
READ = (3, 4, 5, VERSION)
DRAWN_AGAIN = (4, 5, VERSION)  # versions that tell all that a picture needs
CHUNK = "rag_diffusion"
JPEG = (".jpg", ".jpeg")
_LONGEST_COMMENT = 65_533  # bytes, of a JPEG


@dataclass(frozen=True, kw_only=True)
class Source:
    """One pair that conditioned an image."""

    pair_id: str
    caption: str
    source: str
    licence: str
    attribution: str
    score: float | None
    attention: float
    role: str = "content"
    weight: float = 1.0
    digest: str = ""
    image: str = ""
    weight_by_step: Points = ()
    weight_by_map: str | tuple[tuple[int, float], ...] = BOTH
    mask: str = ""
    fit_mask: bool = True
    negative: bool = False

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Source:
        """Read `content`, a neighbor of `Provenance.as_dict`; what a former version did not have is as it was then."""
        by_step, by_map = content.get("weight_by_step", ()), content.get("weight_by_map", BOTH)
        tuples = {
            "weight_by_step": tuple(tuple(point) for point in by_step),
            "weight_by_map": by_map if isinstance(by_map, str) else tuple(tuple(pair) for pair in by_map),
        }
        return cls(**{**content, **tuples})


@dataclass(frozen=True, kw_only=True)
class PhaseNeighbors:
    """From the step `start` on, an image saw these pairs, best first."""

    start: int
    pair_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that conditioned one image."""

    prompt: str
    seed: int | None
    corpus_hash: str
    model_hash: str
    neighbors: tuple[Source, ...]
    null_attention: float
    settings: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    phases: tuple[PhaseNeighbors, ...] = ()
    data_sets: tuple[DataSetVersion, ...] = ()
    version: int = field(default=VERSION)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, in the order of the schema."""
        return asdict(self) | {"credit": credit(self.neighbors)}

    def as_json(self, indent: int | None = None) -> str:
        """The same as text, on lines with an `indent`; None is one line."""
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False, indent=indent)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Provenance:
        """Read `content`, which `as_dict` gave.

        Raises:
            DataError: another version, or a field is missing.
        """
        if content.get("version") not in READ:
            raise DataError(
                f"provenance: expected version {VERSION}, got {content.get('version')!r}; draw the image again"
            )
        try:
            neighbors = tuple(Source.from_dict(neighbor) for neighbor in content["neighbors"])
            phases = tuple(
                PhaseNeighbors(start=one["start"], pair_ids=tuple(one["pair_ids"])) for one in content.get("phases", ())
            )
            data_sets = tuple(DataSetVersion(**one) for one in content.get("data_sets", ()))
            own = {name: value for name, value in content.items() if name != "credit"}
            return cls(**own | {"neighbors": neighbors, "phases": phases, "data_sets": data_sets})
        except (KeyError, TypeError) as error:
            raise DataError(f"provenance: expected the fields of version {VERSION}, got {error}") from None


Sign = Callable[[bytes, Provenance], bytes]  # a PNG or JPEG and what made it -> the same with credentials inside


def seen_digest(pixels: Pixels, caption: str) -> str:
    """Hash of a picture, `pixels` (H, W, 3) as the network saw them, and of the `caption` that was said of it."""
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes() + caption.encode()).hexdigest()[:16]


def to_text(pixels: Pixels) -> str:
    """A picture, `pixels` (H, W, 3), or levels (H, W), uint8, as a PNG in base64."""
    return base64.b64encode(encode_png(pixels)).decode()


def from_text(text: str) -> Pixels:
    """The picture (H, W, 3) uint8 that `to_text` made `text` of; levels come as gray."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image.convert("RGB"))


def to_png(pixels: Pixels, provenance: Provenance) -> bytes:
    """A PNG file of an image, `pixels` (H, W, 3) uint8, with its `provenance` inside."""
    info = PngInfo()
    info.add_itxt(CHUNK, provenance.as_json())
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def to_jpeg(pixels: Pixels, provenance: Provenance, quality: int = 95) -> bytes:
    """A JPEG file of an image with its provenance in a comment, without the pictures that do not fit into one.

    Args:
        pixels: (H, W, 3) uint8.
        provenance: of the image.
        quality: 0 to 100.
    """
    text = provenance.as_json().encode()
    if len(text) > _LONGEST_COMMENT:
        bare = tuple(replace(source, image="", mask="") for source in provenance.neighbors)
        text = replace(provenance, neighbors=bare).as_json().encode()
    buffer = io.BytesIO()
    comment = text if len(text) <= _LONGEST_COMMENT else b""
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality, subsampling=0, comment=comment)
    return buffer.getvalue()


def save_picture(
    path: Path, pixels: Pixels, provenance: Provenance, sign: Sign | None = None, *, picture_last: bool = False
) -> None:
    """Write an image with its provenance inside, and the same as JSON beside it.

    Args:
        path: of the file, a JPEG where it ends so, else a PNG.
        pixels: (H, W, 3) uint8.
        provenance: of the image.
        sign: makes the file one with credentials; None leaves it as it is.
        picture_last: whether the JSON is written before the picture, so that a picture that is there has it.
    """
    file = (to_jpeg if path.suffix.lower() in JPEG else to_png)(pixels, provenance)
    file = file if sign is None else sign(file, provenance)
    if not picture_last:
        atomic_write(path, file)
    atomic_write(path.with_suffix(".json"), provenance.as_json(indent=1) + "\n")
    if picture_last:
        atomic_write(path, file)


def read_provenance(file: Path | bytes) -> Provenance:
    """The provenance inside an image, a `file` or its bytes.

    Raises:
        DataError: there is none, or it is no image.
    """
    name = "image" if isinstance(file, bytes) else file
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            text = image.info.get(CHUNK) or image.info.get("comment")
    except OSError as error:
        raise DataError(f"{name}: expected an image with its provenance inside, got {error}") from None
    if text is None:
        raise DataError(f"{name}: expected an image with its provenance inside, found none")
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{name}: expected an image with its provenance inside, found other words")
    return Provenance.from_dict(content)
