"""WebDataset: tar shards in which the files of one sample follow each other and share their name up to the first dot.

Source: the WebDataset format, and what img2dataset writes: `000000012.jpg`, `000000012.txt`, `000000012.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rag_diffusion.errors import DataError
from rag_diffusion.readers.captioned import IMAGE_SUFFIXES, MAX_TEXT_BYTES, parse_object
from rag_diffusion.readers.fields import caption_of, make_item, unsafe_path
from rag_diffusion.readers.images import MAX_BYTES
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.readers.tar_stream import TAR_SUFFIXES, Member, tar_members

_TEXTS = ("txt", "text", "caption")
_MAX_IMAGES = 64  # of one sample
_MAX_SAMPLE = 2 * MAX_BYTES  # of all its images


class WebDatasetReader:
    """Samples of one shard, or of all shards of a folder; items are named `<shard>/<file>`.

    Args:
        path: a tar archive, or a folder that holds some, also in folders below.

    Raises:
        DataError: no shard there.
    """

    def __init__(self, path: Path) -> None:
        self._root = path if path.is_dir() else path.parent
        inside = self._root.rglob("*") if path.is_dir() else [path]
        self._shards = sorted(file for file in inside if file.name.endswith(TAR_SUFFIXES) and file.is_file())
        if not self._shards:
            raise DataError(f"{path}: expected tar shards ({', '.join(TAR_SUFFIXES)}), got none; name another folder")

    def __iter__(self) -> Iterator[Item | Rejection]:
        for shard in self._shards:
            yield from read_shard(shard, shard.relative_to(self._root).as_posix())


@dataclass
class _Sample:
    """What was read so far of the files that share a key."""

    key: str
    images: dict[str, bytes] = field(default_factory=dict)
    caption: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def take(self, member: Member, extension: str) -> None:
        """Read one file of the sample if it is an image, a text or a JSON object; others are passed over.

        Raises:
            DataError: the archive is damaged.
        """
        image = f".{extension.rpartition('.')[2]}" in IMAGE_SUFFIXES
        if not image and extension not in (*_TEXTS, "json", "cls"):
            return
        limit = MAX_BYTES if image else MAX_TEXT_BYTES
        if member.kind != "file":
            self.problems.append((member.name, f"no regular file: a {member.kind}"))
        elif member.size > limit:
            self.problems.append((member.name, f"file too large: {member.size} bytes, at most {limit}"))
        elif image and not self._has_room(member.size):
            limits = f"more than {_MAX_IMAGES}, or than {_MAX_SAMPLE} bytes, in one sample"
            self.problems.append((member.name, f"too many images: {limits}"))
        elif image:
            self.images[member.name] = member.read()
        else:
            self._read_text(member, extension)

    def _has_room(self, size: int) -> bool:
        held = sum(map(len, self.images.values()))
        return len(self.images) < _MAX_IMAGES and held + size <= _MAX_SAMPLE

    def _read_text(self, member: Member, extension: str) -> None:
        content = member.read()
        try:
            if extension == "json":
                self.fields |= parse_object(content)
            elif extension == "cls":
                self.fields["label"] = content.decode("utf-8").strip()
            else:
                self.caption = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            self.problems.append((member.name, f"caption is not UTF-8: {content[:20]!r}"))
        except ValueError as error:
            self.problems.append((member.name, f"no JSON object: {error}"))

    def results(self, shard: str) -> Iterator[Item | Rejection]:
        """One item an image, if every file of the sample could be read."""
        caption = self.caption or caption_of(self.fields)
        if unsafe := unsafe_path(self.key) if self.key else "":
            self.problems.append((self.key, f"unsafe path: {unsafe}"))
        for name, reason in self.problems:
            yield Rejection(what=f"{shard}/{name}", reason=reason)
        if self.problems:
            return
        if caption and not self.images:
            yield Rejection(what=f"{shard}/{self.key}", reason="caption without an image: no image file of this key")
        for name, content in self.images.items():
            if caption:
                yield make_item(f"{shard}/{name}", content, caption, self.fields)
            else:
                yield Rejection(what=f"{shard}/{name}", reason="image without a caption: no text of this key")


def read_shard(archive: Path | IO[bytes], shard: str) -> Iterator[Item | Rejection]:
    """Samples of one shard.

    Args:
        archive: a file, or one that is open.
        shard: its name, before those of its items.
    """
    sample = _Sample("")
    try:
        for member in tar_members(archive):
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            if member.kind == "folder" or not stem or folder.startswith("__MACOSX"):
                continue
            key = f"{folder}/{stem}" if folder else stem
            if key != sample.key:
                yield from sample.results(shard)
                sample = _Sample(key)
            sample.take(member, extension.lower())
    except DataError as error:
        yield Rejection(what=shard, reason=f"{error}; the rest of the shard was not read")
        if sample.images or sample.caption:
            yield Rejection(what=f"{shard}/{sample.key}", reason="incomplete sample: the archive is damaged within it")
        return
    yield from sample.results(shard)
