"""Uploads over HTTP: a pair as a form or as JSON, and archives of pairs; visible to the next query."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from rag_diffusion.errors import DataError
from rag_diffusion.knowledge.bodies import BodyError, in_thread, parse_object, read_form, save, url_of
from rag_diffusion.knowledge.protocol import MAX_IMAGE_BYTES, decode_base64, global_id
from rag_diffusion.knowledge.readers import Limits, open_reader
from rag_diffusion.knowledge.records import Item, Rejection
from rag_diffusion.knowledge.service import Service, uploaded_name
from rag_diffusion.knowledge.writer import UNKNOWN

UPLOADED = "uploaded"  # data set of pairs that name none
MAX_WORDS = 10_000  # characters of a form's field
THREADS = 4  # of uploads, so that those which wait for another writer take none from searches
SHOWN = 100  # rejections of an archive that are told one by one
ARCHIVE_LIMITS = Limits(bytes=4 << 30)


class PairForm(BaseModel):
    """What may be said of an uploaded pair beside its image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    caption: str = Field(max_length=MAX_WORDS)
    data_set: str = UPLOADED
    name: str = Field(default="", max_length=1000)
    label: str = ""
    style: str = ""
    title: str = ""
    licence: str = ""
    attribution: str = ""
    split: str = ""
    url: str = ""

    def told(self) -> dict[str, str]:
        """What an item has beside its name and image."""
        return self.model_dump(exclude={"data_set", "name"})


def add_uploads(app: FastAPI, service: Service, read_only: bool) -> None:
    """Add the paths that take uploads.

    Args:
        app: gets them.
        service: takes what comes.
        read_only: whether uploads are refused.
    """
    taking = CapacityLimiter(THREADS)

    def check(request: Request) -> None:
        if read_only:
            raise BodyError(403, "expected no upload: this server was started with --read-only")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise BodyError(403, f"expected an upload from this server's own pages or a program, got one from {origin}")

    @app.post("/pairs", status_code=201)
    async def pairs(request: Request) -> Any:
        check(request)
        url = url_of(request)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            image, words = await read_form(request, "image", MAX_WORDS)
            return await in_thread(lambda: _insert_one(service, image, words, url), 201, taking)
        body = await request.body()

        def insert() -> dict[str, Any]:
            found = parse_object(body)
            image = found.pop("image", None)
            if not isinstance(image, str):
                raise BodyError(422, "image: expected base64, or a multipart form with a file of this name, got none")
            try:
                content = decode_base64(image, "image", MAX_IMAGE_BYTES)
            except DataError as error:
                raise BodyError(422, str(error)) from None
            return _insert_one(service, content, found, url)

        return await in_thread(insert, 201, taking)

    @app.post("/archives", status_code=201)
    async def archives(
        request: Request, data_set: str = UPLOADED, licence: str = UNKNOWN, attribution: str = UNKNOWN
    ) -> Any:
        check(request)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise BodyError(415, "expected a tar or zip as the body itself (curl --data-binary @FILE), got a form")
        with tempfile.TemporaryDirectory(prefix="rag-diffusion-upload-") as folder:
            path = Path(folder) / "archive"
            if not await save(request, path):
                raise BodyError(422, "expected a tar or zip as the body, got 0 bytes")
            said = {"licence": licence, "attribution": attribution}
            return await in_thread(lambda: _insert_archive(service, path, data_set, said), 201, taking)


def _insert_one(service: Service, image: bytes, words: dict[str, Any], url: Callable[[int], str]) -> dict[str, Any]:
    form = PairForm.model_validate(words)
    item = Item(name=form.name or uploaded_name(image, form.caption), image=image, **form.told())
    checked = service.checked(form.data_set, item)
    if isinstance(checked, Rejection):
        raise BodyError(422, checked.reason)
    key = global_id(checked.pair_id)
    if service.image(key) is not None:
        raise BodyError(409, f"expected a new pair, but there is one of the id {checked.pair_id!r}")
    manifest, _ = service.insert(form.data_set, [item])
    told = {"data_set": form.data_set, "pair_id": checked.pair_id, "id": key, "url": url(key)}
    return told | {"num_pairs": manifest.num_pairs}


def _insert_archive(service: Service, path: Path, data_set: str, said: dict[str, str]) -> dict[str, Any]:
    reader = open_reader("archive", path, limits=ARCHIVE_LIMITS, scratch=path.parent)
    before = service.num_pairs(data_set)
    try:
        manifest, rejected = service.insert(data_set, reader, **said)
    except DataError as error:
        raise BodyError(422, str(error)) from None
    kinds = Counter(one.kind for one in rejected)
    return {
        "data_set": data_set,
        "num_pairs": manifest.num_pairs,
        "num_new": manifest.num_pairs - before,
        "num_rejected": len(rejected),
        "rejected_by_reason": dict(sorted(kinds.items())),
        "rejected": [{"what": one.what, "reason": one.reason} for one in rejected[:SHOWN]],
    }
