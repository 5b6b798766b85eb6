"""Pictures of the drawing queue for who waits over HTTP: at once or as they grow, encoded, counted, kept for a URL."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import ConfigError, DataError, ModelError, QueryError
from rag_diffusion.project import nothing_to_retrieve
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance, Sign, to_jpeg, to_png
from rag_diffusion.sampling.studio import Picture, PictureRequest
from rag_diffusion.serving.bounded_json import BodyError
from rag_diffusion.serving.drawing_queue import Drawing, DrawingQueue, Preview

Format = Literal["png", "jpeg", "webp"]
KEPT_BYTES = 64 << 20  # of pictures that a URL leads to; the oldest make room
KEPT_FILES = 1000
_LOG = logging.getLogger("uvicorn.error")
_QUALITY = 95  # of JPEG and WebP where none is named


_NOTHING = (
    "num_neighbors: expected 0, or neighbors by hand, as nothing can be retrieved from this server's knowledge base "
    "yet, got a drawing with retrieved ones"
)


def sides_of(queue: DrawingQueue) -> list[int]:
    """Pixels that each stage of the model of a `queue` draws; waits until it is open.

    Raises:
        BodyError: it cannot be opened.
    """
    try:
        pipeline = queue.pipeline
    except Exception as error:
        raise _no_model(error) from None
    return [pipeline.generator.image_size, *(stage.model.image_size for stage in pipeline.stages)]


def check_retrieval(queue: DrawingQueue, request: PictureRequest) -> None:
    """Refuse a `request` to a `queue` that wants neighbors where there are none yet.

    Raises:
        BodyError: it does.
    """
    if request.variant in ("retrieved", "random") and nothing_to_retrieve(queue.base):
        raise BodyError(422, _NOTHING)


def _no_model(error: Exception) -> BodyError:
    _LOG.error("%s", str(error)[:500])
    return BodyError(503, "expected a model that draws, got none; the server's log has the reason", 30)


async def drawn(queue: DrawingQueue, requests: Sequence[PictureRequest]) -> list[Picture]:
    """Draw pictures; whoever is cancelled meanwhile is drawn for no further.

    Args:
        queue: draws.
        requests: of them.

    Raises:
        BodyError: there is no room, or one cannot be drawn.
    """
    drawings = queue.submit(requests)
    try:
        return [await _result(one) for one in drawings]
    finally:
        queue.leave(drawings)


class Growing:
    """Pictures that are told while they grow; what was submitted is left by `leave`.

    Args:
        queue: draws.
        requests: of the pictures.
        previews: of each, see `Drawing`.

    Raises:
        BodyError: there is no room.
    """

    def __init__(self, queue: DrawingQueue, requests: Sequence[PictureRequest], previews: int) -> None:
        self._queue, self._loop = queue, asyncio.get_running_loop()
        self._news: asyncio.Queue[tuple[int, Preview | Future[Picture]]] = asyncio.Queue()
        self._drawings = queue.submit(requests, previews=previews, tell=self._tell)
        for number, one in enumerate(self._drawings):
            one.result.add_done_callback(partial(self._tell, number))

    async def news(self) -> AsyncIterator[tuple[int, Preview | Picture]]:
        """Numbers of requests, each with a preview or at last with its picture.

        Raises:
            BodyError: one cannot be drawn.
        """
        left = len(self._drawings)
        while left:
            number, what = await self._news.get()
            if isinstance(what, Preview):
                yield number, what
            else:
                left -= 1
                yield number, await _result(self._drawings[number])

    def leave(self) -> None:
        """Draw no further."""
        self._queue.leave(self._drawings)

    def _tell(self, number: int, what: Preview | Future[Picture]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever listened
            self._loop.call_soon_threadsafe(self._news.put_nowait, (number, what))


async def _result(drawing: Drawing) -> Picture:
    """The picture, or why there is none, as a client is told."""
    try:
        return await asyncio.shield(asyncio.wrap_future(drawing.result))
    except asyncio.CancelledError:
        if drawing.result.cancelled():
            raise BodyError(503, "expected a server that goes on, but it ends; come again", 10) from None
        raise
    except (ValueError, ConfigError, QueryError, DataError) as error:
        raise BodyError(422, str(error)) from None
    except ModelError as error:
        raise _no_model(error) from None


def encoded(
    pixels: Pixels, origin: Provenance | None, kind: Format, quality: int | None = None, sign: Sign | None = None
) -> bytes:
    """A file of a picture; a PNG or JPEG holds where it came from.

    Args:
        pixels: (H, W, 3) uint8.
        origin: its provenance; None where it has none yet.
        kind: of the file.
        quality: of JPEG and WebP, 0 to 100.
        sign: puts credentials into a PNG or JPEG of a known origin; None puts none.
    """
    quality = _QUALITY if quality is None else quality
    if kind != "webp" and origin is not None:
        file = to_png(pixels, origin) if kind == "png" else to_jpeg(pixels, origin, quality)
        return file if sign is None else sign(file, origin)
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if kind == "png" else {"quality": quality}
    Image.fromarray(pixels).save(buffer, format=kind.upper(), **options)
    return buffer.getvalue()


def as_base64(content: bytes) -> str:
    """The bytes `content` as text."""
    return base64.b64encode(content).decode()


@dataclass
class KeptPictures:
    """Files that a URL leads to, for as long as there is room; a name cannot be guessed.

    Attributes:
        most: bytes of all of them.
    """

    most: int = KEPT_BYTES
    _files: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _size: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, content: bytes, kind: Format) -> str:
        """Keep the file `content` of a `kind`; its name."""
        name = f"{secrets.token_urlsafe(24)}.{kind}"
        with self._lock:
            self._files[name] = content
            self._size += len(content)
            while self._size > self.most and len(self._files) > 1:
                self._size -= len(self._files.popitem(last=False)[1])
        return name

    def get(self, name: str) -> bytes | None:
        """The file of the name `name`; None where it is not kept any more."""
        with self._lock:
            return self._files.get(name)


@dataclass(frozen=True)
class SharedPictures:
    """The same for several servers.

    Attributes:
        folder: that all of them see.
        most: number of files in it.
    """

    folder: Path
    most: int = KEPT_FILES

    def keep(self, content: bytes, kind: Format) -> str:
        """See `KeptPictures.keep` for `content` and `kind`."""
        name = f"{time.time_ns():020d}-{secrets.token_urlsafe(24)}.{kind}"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)  # whose name nobody knows before it is whole
        for older in sorted(self.folder.iterdir())[: -self.most]:
            older.unlink(missing_ok=True)
        return name

    def get(self, name: str) -> bytes | None:
        """See `KeptPictures.get` for `name`."""
        try:
            return (self.folder / name).read_bytes()
        except (OSError, ValueError):  # a name that is none
            return None


Kept = KeptPictures | SharedPictures


class Usage:
    """What a drawing read, in tokens: of the prompt by the text encoder, of neighbors the cells that are attended to.

    A diffusion model writes pixels and no tokens, so that `output_tokens` is 0.

    Args:
        pipeline: reads them.
    """

    def __init__(self, pipeline: RetrievalPipeline) -> None:
        self._generator = pipeline.generator

    def of(self, prompt: str, pictures: Sequence[Picture]) -> dict[str, Any]:
        """What the API tells.

        Args:
            prompt: was read once.
            pictures: that were drawn; each neighbor of them was read once.
        """
        names = {source.pair_id for picture in pictures for source in picture.provenance.neighbors}
        text, image = self._text_tokens(prompt), len(names) * self._cells
        return {
            "input_tokens": text + image,
            "input_tokens_details": {"text_tokens": text, "image_tokens": image},
            "output_tokens": 0,
            "total_tokens": text + image,
        }

    def _text_tokens(self, prompt: str) -> int:
        encoder: Any = self._generator.text_encoder
        if hasattr(encoder, "tokenizer") and hasattr(encoder, "max_tokens"):
            return len(encoder.tokenizer(prompt, truncation=True, max_length=encoder.max_tokens)["input_ids"])
        features = encoder([prompt])
        return int(features.states.shape[1] if features.mask is None else features.mask.sum())

    @cached_property
    @torch.no_grad()
    def _cells(self) -> int:
        """Of the feature maps of one neighbor."""
        side = self._generator.image_size
        caption = self._generator.text_encoder([""]).to(self._generator.device)
        maps = self._generator.neighbor_maps(torch.zeros(1, 3, side, side), caption)
        return sum(found.shape[-2] * found.shape[-1] for found in maps.values())
