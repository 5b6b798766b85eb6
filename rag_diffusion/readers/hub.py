"""Data sets that the package `datasets` reads: of Hugging Face by name, or a folder of files; row by row, streamed.

Images come as the bytes that lie there. Whoever made a data set names the files of its rows, so a row may lead to no
other place than the data set itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError
from rag_diffusion.extras import need
from rag_diffusion.readers.addresses import HUB, hub_address, is_address
from rag_diffusion.readers.captioned import NO_CAPTION
from rag_diffusion.readers.card import CARD, licence_in
from rag_diffusion.readers.fields import CAPTIONS, KNOWN, caption_of, make_item, no_text
from rag_diffusion.readers.images import MAX_BYTES
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.readers.table import IMAGES, KEYS
from rag_diffusion.types import SPLITS

_LOG = logging.getLogger(__name__)

_SPLITS = {"valid": "validation", "val": "validation", "dev": "validation", **{name: name for name in SPLITS}}


class HubReader:
    """Rows of a data set; items are named by their key, or `<split>#<row>`.

    Args:
        source: `hf://datasets/OWNER/NAME[@REVISION][?config=NAME&split=NAME]`, or a folder.
        image_column: of images; the one that there is, where it is empty.
        caption_column: of captions, or of classes whose names are to be the captions; found by its usual names, else
            the only one of texts, else that of classes.

    Raises:
        DataError: there is no such data set, it cannot be reached, or its columns are not told.
        MissingExtraError: the extra `hub` is not installed.
    """

    def __init__(self, source: Path | str, *, image_column: str = "", caption_column: str = "") -> None:
        need("hub", "datasets")
        import datasets

        self._source, self._named = str(source), (image_column, caption_column)
        self._name, revision, options = hub_address(str(source)) if is_address(source) else (str(source), None, {})
        self._revision = revision
        split = options.get("split")
        try:
            found = datasets.load_dataset(
                self._name, options.get("config"), split=split, revision=revision, streaming=True
            )
        except Exception as error:  # each loader of `datasets` has errors of its own
            raise DataError(f"{source}: expected a data set, got: {_one_line(error)}") from None
        self._parts: dict[str, Any] = {split or "": found} if split else dict(found)
        for part in self._parts.values():
            self._columns(part)

    @property
    def licence(self) -> str:
        """What its card says; empty where nothing does."""
        if not is_address(self._source):
            path = Path(self._source) / CARD
            return licence_in(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""
        from huggingface_hub import hf_hub_download

        try:
            card = hf_hub_download(self._name, CARD, repo_type="dataset", revision=self._revision)
        except Exception as error:  # of huggingface_hub, httpx, sockets: any way not to reach it
            _LOG.warning("%s: no card could be read (%s): nothing is known of its licence", self._source, error)
            return ""
        return licence_in(Path(card).read_text(encoding="utf-8", errors="replace"))

    def __iter__(self) -> Iterator[Item | Rejection]:
        for split, part in self._parts.items():
            image, captions, names = self._columns(part)
            read = {image, *captions, *KEYS, *KNOWN}
            rows = iter(part.decode(False) if hasattr(part, "decode") else part)
            number = 0
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    break
                except Exception as error:  # as above
                    yield Rejection(
                        what=f"{split}#{number:08d}", reason=f"unreadable rows from here: {_one_line(error)}"
                    )
                    break
                yield self._item(
                    {key: value for key, value in row.items() if key in read}, f"{split}#{number:08d}", split, image,
                    captions, names,
                )  # fmt: skip
                number += 1

    def _columns(self, part: Any) -> tuple[str, tuple[str, ...], dict[str, list[str]]]:
        """The column of images, those of captions, and the names of classes.

        Raises:
            DataError: one is not told.
        """
        features = part.features or part._resolve_features().features
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        texts = [name for name, feature in features.items() if _holds_text(feature)]
        images = [name for name, kind in kinds.items() if kind == "Image"]
        images += [name for name in IMAGES if name in features and getattr(features[name], "dtype", "") == "binary"]
        names = {name: list(feature.names) for name, feature in features.items() if kinds[name] == "ClassLabel"}
        image, caption = self._named
        usual = [name for name in CAPTIONS if name in texts]
        others = [name for name in texts if name not in (*KEYS, *KNOWN)]
        captions = tuple(usual or (others if len(others) == 1 else list(names)[:1] if not others else []))
        captions = (caption,) if caption else captions
        image = image or (images[0] if len(images) == 1 or (images and images[0] in IMAGES) else "")
        for what, chosen in (("image", image), ("caption", captions[0] if captions else "")):
            if chosen not in features:
                got = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())[:300]
                asked = f"{chosen!r}" if chosen else f"one that is told to be of {what}s"
                raise DataError(f"{self._source}: expected the column {asked}, got {got}; name it: {what}_column")
        return image, captions, names

    def _item(
        self,
        row: Mapping[str, Any],
        name: str,
        split: str,
        image: str,
        captions: tuple[str, ...],
        names: Mapping[str, list[str]],
    ) -> Item | Rejection:
        fields = {key: _class_name(value, names.get(key)) for key, value in row.items()}
        key = next((str(fields[key]) for key in KEYS if fields.get(key) is not None), name)
        caption = caption_of(fields, captions)
        if captions[0] in names:
            caption = caption.replace("_", " ")
        if not caption:
            return Rejection(what=key, reason=no_text(fields, captions) or f"{NO_CAPTION}: the cell is empty")
        try:
            content = self._content(row.get(image))
        except DataError as error:
            return Rejection(what=key, reason=str(error))
        return make_item(key, content, caption, {"split": _SPLITS.get(split, "")} | fields)

    def _content(self, cell: Any) -> bytes:
        """Bytes of a cell of images: what it holds, or the file of the data set that it names."""
        content = cell.get("bytes") if isinstance(cell, Mapping) else cell
        path = str(cell.get("path") or "") if isinstance(cell, Mapping) else ""
        if not content and path:
            content = self._file(path)
        if not isinstance(content, bytes) or not content:
            raise DataError("caption without an image: the cell is empty")
        if len(content) > MAX_BYTES:
            raise DataError(f"file too large: {len(content)} bytes, at most {MAX_BYTES}")
        return content

    def _file(self, path: str) -> bytes:
        """A file of the data set, and of nothing else."""
        inner = path.rpartition("::")[2] if path.startswith("zip://") else path
        if is_address(self._source):
            own = inner.startswith((f"{HUB}{self._name}@", f"{HUB}{self._name}/"))
        else:
            own = Path(inner).resolve().is_relative_to(Path(self._source).resolve())
        if not own or ".." in path:
            raise DataError(f"image only by address: {path[:100]}; it is no file of the data set")
        import fsspec

        try:
            with fsspec.open(path, "rb") as file:
                return bytes(file.read(MAX_BYTES + 1))
        except OSError as error:
            raise DataError(f"unreadable file: {_one_line(error)}") from None


def _holds_text(feature: Any) -> bool:
    """Whether a column is of texts, or of lists of them."""
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
    return getattr(inner, "dtype", "") in ("string", "large_string")


def _class_name(value: Any, names: list[str] | None) -> Any:
    return names[value] if names is not None and isinstance(value, int) and 0 <= value < len(names) else value


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
