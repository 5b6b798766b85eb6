"""A project whose page is asked, one for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_diffusion.models.generator import Generator
from rag_diffusion.page.handlers import Handlers
from tests.unit.page.opened import handlers_of, opened_project


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def handlers(root: Path, project_root: Path, tiny_generator: Generator) -> Iterator[Handlers]:
    """Of a project with a model and two data sets."""
    with handlers_of(opened_project(root, project_root, tiny_generator)) as found:
        yield found
