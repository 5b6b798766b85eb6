"""Did a change of the code leave what is stored and found as it was?

Writes a project's pairs anew, runs the stages `embed`, `index` and `neighbors` over them, and asks 500 queries, all in
a folder of its own; then compares with what another version of the code gave on the same machine.

    python -m tests.integration.same_hits PROJECT --write before.json      # with the code of before
    python -m tests.integration.same_hits PROJECT --compare before.json    # with the code of now
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rag_diffusion import layout
from rag_diffusion.config import load_config
from rag_diffusion.files import file_hash
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.assemble import pipeline_retriever
from rag_diffusion.retrieval.query import Query
from rag_diffusion.stages import embed, index, neighbors
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.types import Hits

MADE = (layout.CORPUS, layout.VECTORS, layout.INDEX, layout.NEIGHBORS)
PARAPHRASES = "data/paraphrases.yaml"
QUERIES, TOP_K = 500, 10
_OF_ALL = ("hash", "shards", "num_pairs", "image_size", "counts", "num_entities", "num_families")


def measure(project: Path, root: Path) -> dict[str, Any]:
    """Make all that is made of a project's pairs again, and search it.

    Args:
        project: whose stages have run up to `align`.
        root: an empty folder.

    Returns:
        `files`: sha256 of each; `hash`: of the corpus; `hits`: of the pipeline's retriever and of the knowledge base.
    """
    (root / "data").mkdir()
    for path in (project / "params.yaml", *(project / "data").iterdir()):
        if f"data/{path.name}" not in (*MADE, layout.SCRATCH):
            (root / path.relative_to(project)).symlink_to(path.resolve())
    config = load_config(root / "params.yaml")
    corpus = Corpus.open(project / layout.CORPUS)
    facts = {key: value for key, value in corpus.manifest.items() if key not in _OF_ALL}
    pairs = (corpus.pair(name) for name in corpus.table["pair_id"])
    write_corpus(root / layout.CORPUS, pairs, image_size=corpus.image_size, facts=facts)
    for stage in (embed, index, neighbors):
        stage.run(StageContext(config=config, root=root, tracker=NullTracker()))
    asked = queries(root, corpus)
    retriever, base = pipeline_retriever(root, config), KnowledgeBase.open(root)
    found = {
        "pipeline": retriever.search(Query(asked, top_k=TOP_K)).hits,
        "knowledge base": base.search(Query(asked, top_k=TOP_K, sets=["corpus"])).hits,
    }
    return {
        "hash": corpus.hash,
        "files": {f"{name}/{path.name}": file_hash(path) for name in MADE for path in sorted((root / name).iterdir())},
        "hits": {name: [_told(one) for one in hits] for name, hits in found.items()},
    }


def queries(root: Path, corpus: Corpus) -> list[str]:
    """As many paraphrases as there are, half of all at most, and captions, evenly spread."""
    path = root / PARAPHRASES
    entries = yaml.safe_load(path.read_text(encoding="utf-8")).values() if path.is_file() else ()
    paraphrases = [text for entry in entries for text in entry["texts"]][: QUERIES // 2]
    captions = corpus.table["caption"].tolist()
    rest = QUERIES - len(paraphrases)
    return paraphrases + [captions[number * len(captions) // rest] for number in range(rest)]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was, in words."""
    told = [] if before["hash"] == now["hash"] else [f"corpus: hash {before['hash']}, now {now['hash']}"]
    for name in sorted({*before["files"], *now["files"]}):
        was, has = (one["files"].get(name, "no file") for one in (before, now))
        told += [] if was == has else [f"{name}: {was[:12]}, now {has[:12]}"]
    for name, was in before["hits"].items():
        told += _hits(name, was, now["hits"][name])
    return told


def _hits(name: str, before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> list[str]:
    ids = sum(was["pair_ids"] != has["pair_ids"] for was, has in zip(before, now, strict=True))
    worst = max(
        abs(low - high)
        for was, has in zip(before, now, strict=True)
        for low, high in zip(was["scores"], has["scores"], strict=True)
    )
    same = list(before) == list(now)
    return [] if same else [f"{name}: other pairs for {ids} of {len(before)} queries, scores by at most {worst:.6f}"]


def _told(hits: Hits) -> dict[str, Any]:
    return {"pair_ids": list(hits.pair_ids), "scores": list(hits.scores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--compare", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = json.loads(json.dumps(measure(asked.project, Path(folder))))
    if asked.write:
        asked.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{found['hash']}: {len(found['files'])} files, {sum(map(len, found['hits'].values()))} answers")
    if asked.compare:
        told = differences(json.loads(asked.compare.read_text(encoding="utf-8")), found)
        print("\n".join(told) or "all as it was")
        raise SystemExit(bool(told))


if __name__ == "__main__":
    main()
