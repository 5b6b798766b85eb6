"""The stage `ingest` by workers of a cluster: the corpus of one process, of anybody's files and of drawings."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from rag_diffusion import layout
from rag_diffusion.config import Config, RayConfig
from rag_diffusion.corpus import iconify, wide
from rag_diffusion.engine.cluster import engine_of
from rag_diffusion.files import tree_hash
from rag_diffusion.stages import ingest
from tests.unit.corpus.planted import EMOJI, SOURCES, STAR, TACO, write_sets
from tests.unit.engine.projects import context
from tests.unit.stages.own_files import write_source


def test_a_cluster_makes_the_corpus_of_one_process(
    tmp_path: Path, default_config: Config, ray_config: RayConfig
) -> None:
    write_source(tmp_path / "mine")
    own = default_config.corpus.folder.model_copy(update={"path": "mine", "licence": "CC0-1.0", "attribution": "me"})
    corpus = default_config.corpus.model_copy(update={"source": "folder", "image_size": 32, "folder": own})
    alone, together = (
        ingested(tmp_path, default_config.model_copy(update={"corpus": corpus, "engine": engine, "ray": ray_config}))
        for engine in ("local", "ray")
    )
    assert together == alone


def ingested(root: Path, config: Config) -> str:
    """Hash of the corpus."""
    shutil.rmtree(root / layout.CORPUS, ignore_errors=True)
    ingest.run(context(root, config))
    return tree_hash(root / layout.CORPUS)


def test_a_cluster_renders_the_drawings_of_one_process(tmp_path: Path, ray_config: RayConfig) -> None:
    drawings = write_sets(tmp_path)
    bodies = {"taco": TACO.format("#f0a020"), "house": "<path", "star": STAR}
    noto = replace(SOURCES.sets["noto"], icons={name: {"body": body} for name, body in bodies.items()})
    sources, engine = replace(SOURCES, sets={"noto": noto}), engine_of(ray_config)

    alone, together = (iconify.load_pairs(drawings, sources, 64, by) for by in (None, engine))
    assert together == alone
    assert [pair.title for pair in alone[0]] == ["star", "taco"]
    assert alone[1]["rejected"][0]["what"] == "noto/house"

    where = {"root": tmp_path, "size": 64, "cache": tmp_path / "cache"}
    alone, together = (
        wide.extend(EMOJI, sources=SOURCES, config=drawings, engine=by, **where)  # type: ignore[arg-type]
        for by in (None, engine)
    )
    assert together == alone
    assert len(alone[0]) > 20
