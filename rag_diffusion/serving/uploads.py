"""Uploads over HTTP: a pair as a form or as JSON, and archives of pairs; visible to the next query."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from rag_diffusion.clip_protocol import MAX_IMAGE_BYTES, decode_base64
from rag_diffusion.errors import DataError
from rag_diffusion.knowledge.writer import UNKNOWN
from rag_diffusion.readers.forms import ArchiveLimits, open_reader
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.serving import openapi
from rag_diffusion.serving.admission import Admission, image_url
from rag_diffusion.serving.bounded_json import BodyError, parse_object
from rag_diffusion.serving.queries import MAX_BASE64, global_id
from rag_diffusion.serving.request_bodies import read_form, received, save
from rag_diffusion.serving.request_guard import foreign_origin
from rag_diffusion.serving.service import Service, uploaded_name

UPLOADED = "uploaded"  # data set of pairs that name none
MAX_WORDS = 10_000  # characters of a form's field
SHOWN = 100  # rejections of an archive that are told one by one
ARCHIVE_LIMITS = ArchiveLimits(bytes=4 << 30)
_TAKEN = "name taken"


Words = Annotated[str, Query(max_length=1000)]


class PairForm(BaseModel):
    """What may be said of an uploaded pair beside its image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    caption: str = Field(max_length=MAX_WORDS)
    data_set: str = UPLOADED
    name: str = Field(default="", max_length=1000)
    label: str = Field(default="", max_length=MAX_WORDS)
    style: str = Field(default="", max_length=MAX_WORDS)
    title: str = Field(default="", max_length=MAX_WORDS)
    licence: str = Field(default="", max_length=MAX_WORDS)
    attribution: str = Field(default="", max_length=MAX_WORDS)
    split: str = Field(default="", max_length=100)
    url: str = Field(default="", max_length=MAX_WORDS)

    def item_fields(self) -> dict[str, str]:
        """What an item has beside its name and image."""
        return self.model_dump(exclude={"data_set", "name"})


FIELDS = dict.fromkeys(PairForm.model_fields, 12 * MAX_WORDS + 2) | {"image": MAX_BASE64}


def add_uploads(
    app: FastAPI, service: Service, admission: Admission, read_only: bool, origins: Collection[str] = ()
) -> None:
    """Add the paths that take uploads.

    Args:
        app: gets them.
        service: takes what comes.
        admission: how many requests of each kind at a time.
        read_only: whether uploads are refused.
        origins: of pages of other sites that may ask; empty for none.
    """

    def check(request: Request) -> None:
        if read_only:
            raise BodyError(403, "expected no upload: this server was started with --read-only")
        if origin := foreign_origin(request, origins):
            raise BodyError(403, f"expected an upload from this server's own pages or a program, got one from {origin}")

    @app.post(
        "/pairs",
        status_code=201,
        openapi_extra=openapi.pair_body(PairForm),
        **openapi.described(openapi.UploadResult, "Take one pair", 409, 503, status=201),
    )
    async def pairs(request: Request) -> Any:
        check(request)
        url = image_url(request)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with read_form(request, "image", MAX_WORDS) as (file, words), admission.admit_body(file.size or 0):
                return await admission.upload.answer(lambda: _insert_one(service, file.file.read(), words, url), 201)
        with await received(request) as body:
            size = body.tell()
            body.seek(0)
            async with admission.admit_body(size):
                return await admission.upload.answer(lambda: _insert_one(service, *_pair_of(body.read()), url), 201)

    @app.post(
        "/archives",
        status_code=201,
        openapi_extra=openapi.archive_body(),
        **openapi.described(openapi.ArchiveUploadResult, "Take an archive of pairs", 409, 415, 503, status=201),
    )
    async def archives(
        request: Request, data_set: str = UPLOADED, licence: Words = UNKNOWN, attribution: Words = UNKNOWN
    ) -> Any:
        check(request)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise BodyError(415, "expected a tar or zip as the body itself (curl --data-binary @FILE), got a form")
        with tempfile.TemporaryDirectory(prefix="rag-diffusion-upload-") as folder:
            path = Path(folder) / "archive"
            if not await save(request, path):
                raise BodyError(422, "expected a tar or zip as the body, got 0 bytes")
            defaults = {"licence": licence, "attribution": attribution}
            gone = request.scope.get("gone") or threading.Event()
            return await admission.upload.answer(lambda: _insert_archive(service, path, data_set, defaults, gone), 201)


def _pair_of(body: bytes) -> tuple[bytes, dict[str, Any]]:
    """The image in a JSON body, and what else it says."""
    fields = parse_object(body, FIELDS, ascii_alone="image")
    image = fields.pop("image", None)
    if not isinstance(image, str):
        raise BodyError(422, "image: expected base64, or a multipart form with a file of this name, got none")
    try:
        return decode_base64(image, "image", MAX_IMAGE_BYTES), fields
    except DataError as error:
        raise BodyError(422, str(error)) from None


def _insert_one(service: Service, image: bytes, words: dict[str, Any], url: Callable[[int], str]) -> dict[str, Any]:
    form = PairForm.model_validate(words)
    item = Item(name=form.name or uploaded_name(image, form.caption), image=image, side=0, **form.item_fields())
    checked = service.checked(form.data_set, item)
    if isinstance(checked, Rejection):
        raise BodyError(422, checked.reason)
    key = global_id(checked.pair_id)
    if service.image(key) is not None:
        raise BodyError(409, f"expected a new pair, but there is one of the id {checked.pair_id!r}")
    manifest, _ = service.insert(form.data_set, [checked])
    taken = {"data_set": form.data_set, "pair_id": checked.pair_id, "id": key, "url": url(key)}
    return taken | {"num_pairs": manifest.num_pairs}


def _insert_archive(
    service: Service, path: Path, data_set: str, defaults: dict[str, str], gone: threading.Event
) -> dict[str, Any]:
    reader = open_reader("archive", path, limits=ARCHIVE_LIMITS, scratch=path.parent)
    before = service.num_pairs(data_set)
    try:
        manifest, rejected = service.insert(data_set, _while_wanted(reader, gone), **defaults)
    except DataError as error:
        raise BodyError(422, str(error)) from None
    new = manifest.num_pairs - before
    if not new:
        first = rejected[0] if rejected else Rejection(what=path.name, reason="nothing at all")
        known = bool(rejected) and all(one.kind == _TAKEN for one in rejected)
        got = f"{len(rejected)} rejections alone, the first: {first.what[:100]}: {first.reason[:300]}"
        raise BodyError(409 if known else 422, f"expected new pairs of images and captions, got {got}")
    kinds = Counter(one.kind for one in rejected)
    return {
        "data_set": data_set,
        "num_pairs": manifest.num_pairs,
        "num_new": new,
        "num_rejected": len(rejected),
        "rejected_by_reason": dict(sorted(kinds.items())),
        "rejected": [{"what": one.what, "reason": one.reason} for one in rejected[:SHOWN]],
    }


def _while_wanted(items: Iterable[Item | Rejection], gone: threading.Event) -> Iterator[Item | Rejection]:
    """Items until the client that sent them has left; nothing of them is kept then."""
    for one in items:
        if gone.is_set():
            raise BodyError(499, "expected the client to wait for its answer, but it left; nothing was taken")
        yield one
