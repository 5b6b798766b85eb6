"""Packages that only some uses need: `pip install rag-diffusion` leaves them out, an extra brings them."""

from __future__ import annotations

from importlib.util import find_spec

from rag_diffusion.errors import MissingExtraError


def need(extra: str, *packages: str) -> None:
    """Say which extra to install, before an import fails.

    Args:
        extra: `hub`, `marks`, `pipeline`, `ray`, `scann`, `server`, `svg` or `video`, as in pyproject.toml.
        packages: by the names that they are imported by.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"expected the package {missing[0]}, which the base installation leaves out; "
            f"install it with `pip install 'rag-diffusion[{extra}]'`"
        )
