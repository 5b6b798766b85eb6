"""What an engine is given: work that every worker opens once, and units of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from rag_diffusion.config import Config
from rag_diffusion.errors import LineageError
from rag_diffusion.files import code_hash

Unit = TypeVar("Unit")
Result = TypeVar("Result")
EVERY_SOURCE = "."


class Work(Protocol):
    """Travels to workers by the name of its class and the values of its fields; equal works are the same one."""

    def open(self) -> Callable[[Any], Any]:
        """The function of one unit; what it needs is opened here, once in every worker.

        Raises:
            RagDiffusionError: the worker's machine has not what the work is of; its units go to other machines.
        """
        ...


class Engine(Protocol):
    """Workers, here or elsewhere."""

    def map(self, work: Work, units: Iterable[Any]) -> Iterator[Any]:
        """Results of all units in their order, each once.

        Args:
            work: what is to be done.
            units: what its function takes; read in the caller's thread, a few for each worker ahead of the results. If
                they end in an error, the results of those before it come first.

        Raises:
            RagDiffusionError: whatever the function of a unit objects to, or no worker is left that could do it.
        """
        ...

    def close(self) -> None:
        """End the workers: of a work whose files go, or change under the same names; a later map has others."""
        ...


def open_engine(config: Config) -> Engine | None:
    """The engine that a configuration names; None is this process alone.

    Args:
        config: its `engine` and `ray`.

    Raises:
        MissingExtraError: the extra `ray` is not installed.
        RemoteError: no cluster answers at `ray.address`.
    """
    if config.engine == "local":
        return None
    from rag_diffusion.engine.cluster import engine_of

    return engine_of(config.ray)


def check_code(code: str) -> None:
    """Refuse to work for another version of the library.

    Args:
        code: hash of its source where the work comes from, `code_hash(EVERY_SOURCE)`.

    Raises:
        LineageError: this machine has another one.
    """
    if code_hash(EVERY_SOURCE) != code:
        raise LineageError("expected the rag_diffusion of the machine that gives the work, got another version")
