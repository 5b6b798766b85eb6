"""What was not taken into a data set, each with its reason, read without anything that embeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rag_diffusion.errors import DataError
from rag_diffusion.knowledge.places import Places
from rag_diffusion.layout import CORPUS
from rag_diffusion.readers.records import Rejection
from rag_diffusion.store.manifest import CORPUS_NAME, REJECTED, Manifest


def rejections(root: Path, name: str) -> Iterator[Rejection]:
    """Every rejection of a data set, in the order in which they came.

    Args:
        root: the project.
        name: of the data set; `corpus` is the pipeline's own.

    Raises:
        DataError: there is no such data set, or its list is damaged.
    """
    try:
        if name == CORPUS_NAME:
            content = json.loads((root / CORPUS / "manifest.json").read_text(encoding="utf-8"))
            yield from (Rejection(what=str(one["what"]), reason=str(one["reason"])) for one in content["rejected"])
            return
        places = Places(root)
        manifest = Manifest.read(places.manifest(name))
        if manifest.remote:
            return
        with (places.generation(name, manifest.generation) / REJECTED).open(encoding="utf-8") as lines:
            yield from (Rejection(**json.loads(line)) for line in lines)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"kb: expected the rejections of {name!r}, got {error!r}; add the data set again") from None
