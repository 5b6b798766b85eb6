"""diffusers' own tests, taken from a checkout of its source, which the environment variable DIFFUSERS_SOURCE names.

Its wheel has none of them and nothing of them is copied here: where there is no checkout, the tests that need them are
skipped. They want the package `parameterized` besides. The package of the tests there, `tests`, is known as
`diffusers_tests` here, as ours has the same name.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

VARIABLE = "DIFFUSERS_SOURCE"
PACKAGE = "diffusers_tests"


def suite(name: str) -> ModuleType:
    """A module of diffusers' tests, as `pipelines.testing_utils`; what asks for it is skipped where there is none."""
    folder = Path(os.environ.get(VARIABLE, "")) / "tests"
    if not os.environ.get(VARIABLE) or not (folder / "__init__.py").is_file():
        pytest.skip(
            f"{VARIABLE}: names no checkout of diffusers' source, whose tests these are", allow_module_level=True
        )
    pytest.importorskip("parameterized", reason="diffusers' tests need the package parameterized")
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{PACKAGE}.{name}")


def expected(failures: dict[str, str]) -> Any:
    """A decorator of a class: its tests of these names are expected to fail, for these reasons.

    A test that passes nevertheless is reported: the list holds what fails and nothing else.
    """

    def mark(cls: Any) -> Any:
        for name, reason in failures.items():
            inherited = getattr(cls, name)

            def run(self: Any, *given: Any, _inherited: Any = inherited, **more: Any) -> None:
                _inherited(self, *given, **more)

            run.__wrapped__ = inherited  # type: ignore[attr-defined]  # fixtures are asked for by its arguments
            setattr(cls, name, pytest.mark.xfail(reason=reason, strict=True)(run))
        return cls

    return mark
