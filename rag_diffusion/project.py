"""A project's parts opened for drawing: its settings, its model, its knowledge base. Light to import."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_diffusion.errors import ConfigError, DataError, ModelError
from rag_diffusion.layout import BASE, CORPUS, FRAMES, MODEL

if TYPE_CHECKING:
    from rag_diffusion.config import Config
    from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
    from rag_diffusion.retrieval.query import Searcher
    from rag_diffusion.sampling.pipeline import RetrievalPipeline

_LOG = logging.getLogger(__name__)

_NO_MODEL = (
    "{root}: expected a generator in {model} or {base}, found none; run this in a clone of rag-diffusion or a project "
    "of yours, or name weights by --model"
)


def config_of(root: Path) -> Config | None:
    """What params.yaml of the project `root` says; None where there is none, and the library's defaults hold.

    Raises:
        ConfigError: it is wrong.
    """
    from rag_diffusion.config import load_config

    return load_config(root / "params.yaml") if (root / "params.yaml").exists() else None


def model_of(root: Path) -> str:
    """The folder of the generator of the project `root`: the fine-tuned one, else the base.

    Raises:
        ModelError: there is neither.
    """
    folder = next((str(root / place) for place in (MODEL, BASE) if (root / place).is_dir()), None)
    if folder is None:
        raise ModelError(_NO_MODEL.format(root=root.resolve(), model=MODEL, base=BASE))
    return folder


def nothing_to_retrieve(base: KnowledgeBase) -> str:
    """Why nothing can be retrieved from the knowledge base `base` yet, in words; empty where something can."""
    try:
        len(base.corpus)
    except (DataError, ConfigError, ModelError) as error:
        return str(error)
    return ""


def retrieval_options(config: Config) -> dict[str, Any]:
    """What params.yaml, `config`, says of retrieved neighbors, for every door alike.

    Returns:
        Arguments of `RetrievalPipeline.__call__`: style neighbors, filter, schedule, weights by step and map.
    """
    from rag_diffusion.sampling.schedule import RetrievalSchedule
    from rag_diffusion.store.filters import Filter

    return {
        "num_style_neighbors": config.retrieval.style,
        "where": Filter.from_config(config.retrieval.where),
        "retrieval_schedule": RetrievalSchedule.from_config(config.retrieval.schedule),
        "weight_by_step": config.sample.weight_by_step,
        "weight_by_map": config.sample.weight_by_map,
    }


def make_safe(pipeline: RetrievalPipeline, config: Config) -> None:
    """Let a pipeline draw what params.yaml lets it, with its watermark; for every door alike.

    Args:
        pipeline: gets the safety checker, the blocklist and the watermark.
        config: of params.yaml.

    Raises:
        ModelError: the safety checker cannot be had.
    """
    from rag_diffusion.device import choose_device
    from rag_diffusion.retrieval.blocklist import Blocklist
    from rag_diffusion.sampling.safety import PublishedChecker

    name = config.safety.checker
    pipeline.safety_checker = PublishedChecker(name, choose_device(config.device)) if name else None
    pipeline.blocklist = Blocklist.from_config(config.safety)
    pipeline.watermark = config.marks.watermark


def open_pipeline(
    root: Path,
    model: str | None = None,
    retriever: Searcher | None = None,
    *,
    scheduler: str | None = None,
    precision: str = "fp32",
) -> RetrievalPipeline:
    """The project's own model, or what is named, where `device` of params.yaml says.

    Frames of clips are drawn with the changes in data/frames where these fit. Pictures begin and are thresholded as
    `sample.begin_strength` and `sample.thresholding` say, in colours of the project's corpus where there is no
    retriever, and the stages of a cascade draw as `sample.upsampling` does. A project's base is followed by what
    `finetune.cascade` names, as its fine-tuned model is.

    Args:
        root: of the project.
        model: a folder, or a published pipeline; None is `model_of`.
        retriever: finds neighbors; None leaves them to the caller.
        scheduler: by class name; None is the project's, or the one that was saved with the weights.
        precision: as `RetrievalPipeline`.

    Raises:
        ModelError: there are no such weights.
    """
    from rag_diffusion.device import choose_device
    from rag_diffusion.sampling.cascade_folder import project_stages
    from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings
    from rag_diffusion.sampling.pipeline import RetrievalPipeline
    from rag_diffusion.sampling.style_palettes import StylePalettes
    from rag_diffusion.store.corpus import Corpus

    config = config_of(root)
    scheduler = scheduler or (None if config is None else config.sample.scheduler)
    device = choose_device("auto" if config is None else config.device)
    model = model or model_of(root)
    pipeline = RetrievalPipeline.from_pretrained(
        model, retriever, scheduler=scheduler, precision=precision, device=device
    )
    assert isinstance(pipeline, RetrievalPipeline)
    stages = pipeline.stages
    if not stages and Path(model).resolve() == (root / BASE).resolve():
        stages = tuple(project_stages(root, "auto" if config is None else config.finetune.cascade, pipeline.generator))
    if config is not None:
        settings = StageSettings.from_config(config.sample.upsampling)
        stages = tuple(CascadeStage(model=stage.model, settings=settings) for stage in stages)
    pipeline = pipeline.followed_by(stages)
    if (root / FRAMES).is_dir():
        try:
            pipeline.load_frames(root / FRAMES)
        except ModelError as error:
            _LOG.info("%s is left out, clips are drawn by the generator as it is: %s", FRAMES, error)
    if config is not None:
        pipeline.thresholding, pipeline.begin_strength = config.sample.thresholding, config.sample.begin_strength
        if retriever is None and (root / CORPUS).is_dir():
            pipeline.palettes = StylePalettes(pairs=Corpus.open(root / CORPUS))
        make_safe(pipeline, config)
    return pipeline
