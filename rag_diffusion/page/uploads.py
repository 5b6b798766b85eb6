"""Files that were dropped on the page, in any form that `rag-diffusion kb add` takes, as neighbors or as items."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rag_diffusion.errors import DataError
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.readers.checked import Decode
from rag_diffusion.readers.forms import ArchiveLimits, open_reader
from rag_diffusion.readers.images import ImageError
from rag_diffusion.readers.records import Item, Reader, Rejection

MOST = 8  # neighbors by hand
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".zst")
_SIDE = 256  # pixels of a picture that was dropped, before the generator's own size


@contextmanager
def opened(files: Sequence[str]) -> Iterator[Reader]:
    """A reader of dropped files: one archive, or files as if they lay in one folder.

    Args:
        files: paths on this machine.

    Raises:
        DataError: there are none, or nothing in them is a picture.
    """
    if not files:
        raise DataError("files: expected pictures, a folder or an archive, got none; drop some")
    with TemporaryDirectory(prefix="rag-diffusion-dropped-") as scratch:
        folder = Path(scratch)
        if len(files) == 1 and Path(files[0]).suffix.lower() in _ARCHIVES:
            limits = ArchiveLimits(bytes=4 << 30)
            yield open_reader("archive", files[0], limits=limits, scratch=folder)
            return
        for file in map(Path, files):
            place = folder / file.name
            if place.exists():
                raise DataError(f"{file.name}: expected files of different names, got two of this one; rename one")
            shutil.copyfile(file, place)
        yield open_reader("auto", folder)


def as_neighbors(reader: Reader, decode: Decode, licence: str = "") -> tuple[list[Neighbor], list[Rejection]]:
    """The first `MOST` pictures of a reader as neighbors.

    Args:
        reader: of `opened`.
        decode: makes pictures of files that anybody may have made.
        licence: of pictures that name none.

    Returns:
        The neighbors, and what was not taken.

    Raises:
        DataError: nothing was.
    """
    taken, rejected = list[Neighbor](), list[Rejection]()
    for entry in reader:
        made = _neighbor(entry, decode, licence)
        if isinstance(made, Rejection):
            rejected.append(made)
        elif len(taken) == MOST:
            rejected.append(Rejection(what=made.source, reason=f"one too many: {MOST} neighbors are looked at"))
            break
        else:
            taken.append(made)
    if not taken:
        reason = f"{rejected[0].what}: {rejected[0].reason}" if rejected else "nothing"
        raise DataError(f"files: expected a picture, got {reason}")
    return taken, rejected


def _neighbor(entry: Item | Rejection, decode: Decode, licence: str) -> Neighbor | Rejection:
    if isinstance(entry, Rejection):
        return entry
    try:
        image = decode(entry.image, entry.name, _SIDE)
    except ImageError as error:
        return Rejection(what=entry.name, reason=error.reason)
    return Neighbor(
        image=image,
        caption=entry.caption.strip(),
        pair_id=f"given/{entry.name}",
        source=entry.name,
        licence=entry.licence or licence,
        attribution=entry.attribution,
    )
