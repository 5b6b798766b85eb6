"""Readers of what others have: one form each, opened by name or guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.files import code_hash, fingerprint
from rag_diffusion.readers.addresses import form_of_address, is_address
from rag_diffusion.readers.archive import ArchiveLimits, ArchiveReader
from rag_diffusion.readers.arrow import ArrowReader
from rag_diffusion.readers.caption_text import ALL, FIRST_LINE, Doubts, check_choice, choose
from rag_diffusion.readers.card import UNSPECIFIED, licence_of
from rag_diffusion.readers.checked import checked_name, escaped
from rag_diffusion.readers.coco import CocoReader
from rag_diffusion.readers.frames import FramesReader
from rag_diffusion.readers.guess import guess_form
from rag_diffusion.readers.hub import HubReader
from rag_diffusion.readers.iconify import open_iconify
from rag_diffusion.readers.imagefolder import FolderReader
from rag_diffusion.readers.names import NameTable
from rag_diffusion.readers.records import Item, Reader, Rejection
from rag_diffusion.readers.shards_elsewhere import ShardsElsewhere
from rag_diffusion.readers.table import TableReader
from rag_diffusion.readers.webdataset import WebDatasetReader

__all__ = ["FORMS", "ArchiveLimits", "OpenReader", "open_reader"]


def _archive(path: Path, *, limits: ArchiveLimits | None = None, scratch: Path | None = None) -> Reader:
    return ArchiveReader(
        path, lambda folder: open_reader("auto", folder, part=ALL), limits=limits or ArchiveLimits(), scratch=scratch
    )


def _webdataset(path: Path | str, **options: Any) -> Reader:
    return WebDatasetReader(path, **options) if isinstance(path, Path) else ShardsElsewhere(path, **options)


_READERS: dict[str, Callable[..., Reader]] = {
    "imagefolder": FolderReader,
    "image_text": partial(FolderReader, sidecars=True),
    "photos": partial(FolderReader, sidecars=True, names=True),
    "webdataset": _webdataset,
    "parquet": TableReader,
    "arrow": ArrowReader,
    "datasets": HubReader,
    "coco": CocoReader,
    "iconify": open_iconify,
    "video": FramesReader,
    "archive": _archive,
}
FORMS = frozenset({*_READERS, "auto"})


class OpenReader:
    """A reader whose names are clean and distinct: a second item of a name is a rejection.

    Attributes:
        form: one of `FORMS`, never `auto`.
        path: what is read, or an address.
        why: what told the form, empty where it was asked for.
        part: of a text that is the caption, see `caption_text.choose`.
        doubts: captions of the last reading that are hardly such.
    """

    def __init__(self, reader: Reader, *, form: str, path: Path | str, why: str, part: str) -> None:
        self._reader, self.part = reader, part
        self.form, self.path, self.why = form, path, why
        self.doubts = Doubts()

    def __iter__(self) -> Iterator[Item | Rejection]:
        return self._items(self._reader)

    def licence(self, said: str) -> str:
        """The licence of images that name none: what somebody `said`, else what the card of their source says."""
        if isinstance(self.path, Path) and self.form != "datasets":
            return licence_of(self.path, said)
        carded = getattr(self._reader, "licence", "") if said in ("", UNSPECIFIED) else ""
        return carded or said

    def fingerprint(self) -> str:
        """See `Resumable`; of a folder's files, of how they are read, and of the code that reads them."""
        files = self._reader.fingerprint() if isinstance(self._reader, FolderReader) else ""
        return files and fingerprint(
            {"files": files, "form": self.form, "part": self.part, "code": code_hash("readers")}
        )

    def after(self, count: int) -> Iterator[Item | Rejection]:
        """See `Resumable`; other forms than folders of images are read all the same, but for the first `count`."""
        reader = self._reader.unread(count) if isinstance(self._reader, FolderReader) else self._reader
        return islice(self._items(reader), count, None)

    def _items(self, reader: Iterable[Item | Rejection]) -> Iterator[Item | Rejection]:
        self.doubts = Doubts()
        with NameTable() as names:
            for candidate in reader:
                if isinstance(candidate, Rejection):
                    yield Rejection(what=escaped(candidate.what), reason=escaped(candidate.reason))
                else:
                    yield self._chosen(_distinct(candidate, names))

    def _chosen(self, candidate: Item | Rejection) -> Item | Rejection:
        """An item with that part of its text which is the caption."""
        if isinstance(candidate, Rejection):
            return candidate
        try:
            caption = choose(candidate.caption, self.part)
        except DataError as error:
            return Rejection(what=candidate.name, reason=str(error))
        self.doubts.look(candidate.name, candidate.caption, caption)
        return candidate if caption == candidate.caption else replace(candidate, caption=caption)


def open_reader(form: str, path: Path | str, *, part: str = FIRST_LINE, **options: Any) -> OpenReader:
    """Open a source of items.

    Args:
        form: one of `FORMS`; `auto` guesses from what lies there, and the reader's `form` and `why` say what.
        path: a file, a folder, or an address, see `addresses`.
        part: of a text that is the caption: `first-line`, `all`, or a language.
        options: of the form's reader, e.g. `caption` of a video or `limits` of an archive.

    Raises:
        ConfigError: an unknown form, or an option that the form does not have.
        DataError: nothing of the form lies there.
    """
    why = ""
    check_choice(part)
    if is_address(path):
        told, why = form_of_address(str(path))
        if form not in ("auto", told):
            raise ConfigError(f"{path}: expected the form {told}, got {form!r}; leave it to `auto`")
        form, why = told, why if form == "auto" else ""
    else:
        path = Path(path)
        if form == "auto":
            form, path, why = guess_form(path)
    if form not in _READERS:
        raise ConfigError(f"form: expected one of {', '.join(sorted(FORMS))}, got {form!r}; name one of them")
    try:
        reader = _READERS[form](path, **options)
    except TypeError as error:
        raise ConfigError(f"{path}: form {form} has no such option: {error}; leave it out") from None
    return OpenReader(reader, form=form, path=path, why=why, part=part)


def _distinct(item: Item, names: NameTable) -> Item | Rejection:
    try:
        name = checked_name(item.name)
    except DataError as error:
        return Rejection(what=escaped(item.name)[:200], reason=str(error))
    if not names.add(name):
        return Rejection(what=name, reason="named twice: another item has this name")
    return item if name == item.name else replace(item, name=name)
