"""A reader of one's own: pairs out of anything that can be iterated over, what is no pair with its reason."""

from collections.abc import Iterator
from pathlib import Path

from rag_diffusion import KnowledgeBase
from rag_diffusion.readers.records import Item, Rejection


def by_file_name(folder: Path) -> Iterator[Item | Rejection]:
    """Pictures whose caption is their file's name."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".png":
            yield Item(name=path.name, image=path.read_bytes(), caption=f"a {path.stem} thing", licence="CC0-1.0")
        else:
            yield Rejection(what=path.name, reason=f"no picture: {path.suffix}")


manifest = KnowledgeBase.open(".").add("by-name", by_file_name(Path("photos")))
print(manifest.num_pairs, "pairs; rejected:", manifest.rejected_by_reason)
