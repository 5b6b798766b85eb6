"""A small project with a model and two data sets, its page's handlers, and pictures of one's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import BASE
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.page.form import Form
from rag_diffusion.page.handlers import Handlers
from rag_diffusion.page.streaming import Drawer
from tests.tiny import draw
from tests.unit.serving.served import two_data_sets

PROMPT = "a red square in noto style"


def form(**changed: object) -> Form:
    """Fields of a quick drawing."""
    fields = {
        "prompt": PROMPT, "variant": "retrieved", "num_neighbors": 2, "mode": "alternate", "text_guidance_scale": 3.0,
        "neighbor_guidance_scale": 6.0, "num_inference_steps": 2, "seed": 7,
    }  # fmt: skip
    return Form(**(fields | changed))  # type: ignore[arg-type]


def make_project(root: Path, project_root: Path, generator: Generator, *, with_sets: bool = True) -> KnowledgeBase:
    """A project in `root`: params.yaml, a base generator, and by choice 120 drawings in two data sets."""
    shutil.copyfile(project_root / "params.yaml", root / "params.yaml")
    save_generator(generator, root / BASE)
    return two_data_sets(root, project_root) if with_sets else KnowledgeBase.open(root)


def opened_project(root: Path, project_root: Path, generator: Generator) -> KnowledgeBase:
    """The project in `root`, made where it is not there yet; see `make_project`."""
    made = (root / "params.yaml").exists()
    return KnowledgeBase.open(root) if made else make_project(root, project_root, generator)


@contextmanager
def handlers_of(base: KnowledgeBase) -> Iterator[Handlers]:
    """Handlers of a project."""
    drawer = Drawer(base.root, base)
    try:
        yield Handlers(base, drawer, base.insert)
    finally:
        drawer.close()


def own_pictures(folder: Path) -> list[str]:
    """Two pictures that say by their names what they show, and a file that is none."""
    folder.mkdir()
    for shape, color in (("circle", "red"), ("square", "blue")):
        draw(shape, color, 0).save(folder / f"a {color} {shape}.png")
    (folder / "a broken heart.png").write_bytes(b"\x89PNG")
    return [str(path) for path in sorted(folder.iterdir())]
