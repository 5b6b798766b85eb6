"""What readers yield: candidates of a corpus or a knowledge base, and what could not be one, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Item:
    """One candidate pair as it lay in its file; nothing is decoded or checked yet.

    Attributes:
        name: stable inside its data set: a relative path, a row's key, a frame `clip.webp#0012`.
        image: an encoded image file or an SVG, byte for byte as it came.
        caption: the text as it stood there; may be empty or unclean.
        label: what is shown, the pair's entity; empty where there is none.
        category: a coarser class, empty where there is none.
        style: drawing style, empty where there is none.
        title: the thing in words, empty where there is none.
        licence: SPDX identifier or own words; empty means that of the data set.
        attribution: author; empty means that of the data set.
        split: `train`, `validation` or `test`; where it is empty `kb add` takes it for `train`, and `ingest` chooses.
        url: where the image can be looked up, if anywhere.
        side: of a drawing or a frame: pixels of the longer side with which it is rendered, or to which it is scaled
            down, before it becomes a square; see `checked.checked_image`.
    """

    name: str
    image: bytes
    caption: str
    label: str = ""
    category: str = ""
    style: str = ""
    title: str = ""
    licence: str = ""
    attribution: str = ""
    split: str = ""
    url: str = ""
    side: int = 0


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """What was not taken, and why.

    Attributes:
        what: the item's name, or the place in its file, e.g. `metadata.jsonl:3`.
        reason: a short class, a colon, and what came, e.g. `truncated image: 200 of 512 bytes`. Rejections are
            counted by what stands before the colon.
    """

    what: str
    reason: str

    @property
    def kind(self) -> str:
        """The short class of the reason."""
        return self.reason.split(":")[0]


class Reader(Protocol):
    """Items of one source, in the same order every time, in constant memory whatever its size.

    A bad file, row or member is a `Rejection` and the reading goes on; only a source that is not there at all, or is
    of another form, raises `DataError`.
    """

    def __iter__(self) -> Iterator[Item | Rejection]:
        """Begin from the start."""
        ...


@runtime_checkable
class Resumable(Reader, Protocol):
    """A reader that tells without reading files whether they are as they were, and passes over those that are known."""

    def fingerprint(self) -> str:
        """What tells the state of all files that items are made of, empty where it cannot be told.

        Equal fingerprints, equal items.
        """
        ...

    def after(self, count: int) -> Iterator[Item | Rejection]:
        """Items and rejections from number `count` on; the images of those before are not read."""
        ...
