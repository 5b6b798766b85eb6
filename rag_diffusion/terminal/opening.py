"""What commands that draw open and choose: the pipeline, guidance, signing. Light to import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rag_diffusion.errors import ConfigError, DataError, ModelError
from rag_diffusion.project import model_of, nothing_to_retrieve, open_pipeline

if TYPE_CHECKING:
    from rag_diffusion.config import Config
    from rag_diffusion.sampling.guidance import Guidance
    from rag_diffusion.sampling.pipeline import RetrievalPipeline
    from rag_diffusion.sampling.provenance import Sign

NOTHING_TO_FIND = (
    '{error}\nNothing can be retrieved here yet. Give neighbors by hand, as in --neighbor photo.png="my cat"; draw '
    "without, by --neighbors 0; or make a knowledge base: `make demo`, then `rag-diffusion kb add NAME FOLDER` for "
    "pictures of your own"
)


def signing(root: Path, given: str | None, config: Config | None) -> Sign | None:
    """What puts credentials into pictures.

    Args:
        root: of the project.
        given: a folder as it was typed, or `development`; None is as params.yaml says.
        config: of params.yaml; None where there is none.
    """
    from rag_diffusion.marks.certificates import DEVELOPMENT
    from rag_diffusion.marks.credentials import ContentCredentials

    if given is None:
        return None if config is None else ContentCredentials.of_project(config.marks.credentials, root)
    named = given if given in ("", DEVELOPMENT) else str(Path(given).absolute())
    return ContentCredentials.of_project(named, root)


def chosen_guidance(config: Config | None, *, mode: str | None, text: float | None, neighbor: float | None) -> Guidance:
    """As params.yaml says, but for what is given.

    Args:
        config: of params.yaml; None where there is none.
        mode: of guidance.
        text: scale of the text.
        neighbor: scale of the neighbors.

    Raises:
        ConfigError: there is no such guidance.
    """
    from rag_diffusion.sampling.guidance import Guidance

    base = Guidance() if config is None else Guidance.from_config(config.sample)
    changed = {"mode": mode, "text_guidance_scale": text, "neighbor_guidance_scale": neighbor}
    try:
        return replace(base, **{name: value for name, value in changed.items() if value is not None})  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(str(error)) from None


def opened_pipeline(
    root: Path, model: str | None, retrieves: bool, *, scheduler: str | None, precision: str
) -> RetrievalPipeline:
    """The project's own model, or what is named; with its knowledge base where neighbors are retrieved.

    Args:
        root: of the project.
        model: weights by name; None is the project's own.
        retrieves: whether neighbors are retrieved.
        scheduler: by class name; None is the project's.
        precision: as `RetrievalPipeline`.

    Raises:
        ModelError: there are no such weights.
        DataError: there is nothing to retrieve from.
    """
    model, retriever = model or model_of(root), None
    if retrieves:
        from rag_diffusion.knowledge.knowledge_base import KnowledgeBase

        try:
            retriever = KnowledgeBase.open(root)
            trouble = nothing_to_retrieve(retriever)
        except (DataError, ConfigError, ModelError) as error:
            trouble = str(error)
        if trouble:
            raise DataError(NOTHING_TO_FIND.format(error=trouble))
    return open_pipeline(root, model, retriever, scheduler=scheduler, precision=precision)


def silence_libraries() -> None:
    """What other libraries say of weights that load is no news to who draws."""
    import warnings

    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="(diffusers|transformers|huggingface_hub).*")
