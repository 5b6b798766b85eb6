"""A set of icons lacks a drawing that others have: is it drawn as the thing, and in the set's manner?

    python benchmarks/unseen_style.py [--root .] [--base data/base] [--prompts 84] [--out unseen-style.json]

The set is fxemoji of Iconify, which no default weights were trained on, taken as one's own folder of SVG files
(`corpus.iconify.own`); the knowledge base has the seven emoji sets, twelve other coloured sets and the folder. Asked
for are drawings of the set whose entities are held out from everything that was trained, each hidden from its own
retrieval. Content neighbors come from everywhere; style neighbors, where the generator tells roles apart, from the set
alone: other things in its manner. "Colours" draws in the palette of the drawings of the set that were not asked for,
"begun with the first" begins with the best neighbor, noised, in place of noise.

entity    the ruler's entity scorer, prototypes from the emoji sets that were not shown
manner    nearest of twenty sets: a linear discriminant on the statistics of the first five resolutions of the ruler's
          frozen trunk, fitted to half of the drawings that were not asked for, 300 a set at most; its accuracy on the
          other half stands beside it
joint     both

Everything is made in data/.scratch/unseen-style, once.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rag_diffusion import KnowledgeBase, Query, RetrievalPipeline, layout
from rag_diffusion.arrays import Doubles, Floats, Ints, Pixels
from rag_diffusion.colours import is_shaded, snap, style_palette
from rag_diffusion.config import load_config
from rag_diffusion.corpus.icon_sets import read_drawings
from rag_diffusion.corpus.wide_source import Tally, WideSource
from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.ruler.entity import Prototypes
from rag_diffusion.metrics.ruler.linear import fit_lda
from rag_diffusion.metrics.ruler.store import entity_features, load_ruler
from rag_diffusion.metrics.ruler.trunk import MIDDLE, Trunk
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.readers.caption_text import with_article
from rag_diffusion.readers.packages import fetch_package
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.sampling.style_palettes import NUM_COLORS, as_texts
from rag_diffusion.stages import align, embed, index, ingest
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker

OWN, WORDS = "firefox", "Firefox OS"
SOURCE = "fxemoji"
OTHERS = (
    "streamline-color", "icon-park", "glyphs-poly", "streamline-emojis", "streamline-plump-color",
    "streamline-flex-color", "streamline-sharp-color", "streamline-kameleon-color", "streamline-cyber-color",
    "marketeq", "flat-color-icons", "streamline-ultimate-color",
)  # fmt: skip
LEAST, MOST = 25, 300  # drawings of a set that the scorer of manners is fitted to
LEAST_SETS = 6  # of the emoji sets, that have a drawing of what is asked for
AT_ONCE = 12
BEGUN, STRENGTH = "begun with the first", 0.8


def main() -> None:
    """Draw, judge, print, write."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--root", type=Path, default=Path())
    arguments.add_argument("--base", type=Path, default=Path("data/base"))
    arguments.add_argument("--prompts", type=int, default=84)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--out", type=Path, default=Path("unseen-style.json"))
    options = arguments.parse_args()
    root = options.root.resolve()
    project = prepared(root)
    corpus = Corpus.open(project / layout.CORPUS)
    targets = asked(corpus, options.prompts)
    drawn, shown = variants(project, corpus, targets, root / options.base, options.steps)
    result = judged(corpus, targets, drawn, shown, root)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    with options.out.with_suffix(".npz").open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **drawn)
    for name, row in result["variants"].items():
        print(f"{name:16} " + "   ".join(f"{metric} {told(row[metric])}" for metric in row))
    for name, row in result["differences"].items():
        print(f"{name:36} " + "   ".join(f"{metric} {told(row[metric])}" for metric in row))
    print(
        f"{result['prompts']} prompts; manner of real drawings left out of the fit: {result['manner_of_real']:.3f} of "
        f"all {result['sets']} sets, {result['manner_of_real_own']:.3f} of {OWN}"
    )


def prepared(root: Path) -> Path:
    """A project with the folder, its corpus and index."""
    project = root / layout.SCRATCH / "unseen-style"
    done = project / "prepared"
    if done.exists():
        return project
    folder = project / "data/sources/own"
    folder.mkdir(parents=True, exist_ok=True)
    params: dict[str, Any] = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    source = WideSource.read(root / params["corpus"]["iconify"]["wide_sources"])
    archive = fetch_package(source.package, root / layout.SCRATCH / "packages")
    drawings, cards = read_drawings(source, archive, (SOURCE,), Tally())
    for drawing in drawings:
        (folder / f"{drawing.name}.svg").write_text(drawing.svg, encoding="utf-8")
    own = {"path": "data/sources/own", "style": OWN, "words": WORDS}
    own |= {"licence": cards[SOURCE].licence, "attribution": cards[SOURCE].attribution}
    params["corpus"]["iconify"] |= {"sets": list(OTHERS), "own": own}
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for kept in ("data/sources/iconify.yaml", "data/sources/wide.yaml"):
        shutil.copy(root / kept, project / kept)
    (project / layout.SCRATCH).mkdir(parents=True, exist_ok=True)
    packages = project / layout.SCRATCH / "packages"
    if not packages.exists():
        packages.symlink_to(root / layout.SCRATCH / "packages", target_is_directory=True)
    for stage in (ingest, align, embed, index):
        stage.run(StageContext(config=load_config(project / "params.yaml"), root=project, tracker=NullTracker()))
    done.touch()
    return project


def asked(corpus: Corpus, count: int) -> Ints:
    """(N,) rows of the set's drawings of held-out entities that six of the emoji sets have, evenly thinned."""
    table = corpus.table
    emoji = table[table["style"].isin(corpus.manifest["aligned_styles"])]
    sets = emoji.groupby("entity")["style"].nunique()
    entities = sets.index[sets >= LEAST_SETS]
    mine = (table["style"] == OWN) & (table["split"] != "train") & table["entity"].isin(entities)
    rows = table[mine].drop_duplicates("entity").index.to_numpy()
    chosen: Ints = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
    return chosen


def variants(
    project: Path, corpus: Corpus, targets: Ints, base: Path, steps: int
) -> tuple[dict[str, Pixels], list[list[str]]]:
    """Images (N, H, W, 3) by name, and the content neighbors that were shown of each target, best first."""
    texts = [f"{with_article(title)} in the style of {WORDS}" for title in corpus.cells("title", targets)]
    hidden = [[name] for name in corpus.ids(targets)]
    query = Query(texts, top_k=3, exclude=hidden, without_duplicates=True, style_top_k=3, style=OWN)
    results = KnowledgeBase.open(project).search(query)
    content = [list(hits.pair_ids) for hits in results.hits]
    manner = [list(hits.pair_ids) for hits in results.style]
    generator = load_generator(base)
    pipeline = RetrievalPipeline(generator, precision="auto")
    pipeline.set_progress_bar_config(disable=True)
    plain = [neighbors_from(corpus, names) for names in content]
    styled = [[*near, *neighbors_from(corpus, names, role="style")] for near, names in zip(plain, manner, strict=True)]
    mine = np.flatnonzero((corpus.column("style") == OWN) & ~np.isin(np.arange(len(corpus)), targets))
    colours = as_texts(style_palette(corpus.pixels(mine), NUM_COLORS, seed=0))
    print(f"{OWN} is {'shaded' if is_shaded(corpus.pixels(mine)) else 'flat'}; its palette: {' '.join(colours)}")
    shown: dict[str, list[list[Neighbor]]] = {"none": [[] for _ in texts], "content": plain}
    if generator.unet.config.neighbor_roles:  # else it would take style neighbors for what is to be drawn
        shown["content and style"] = styled
    shown |= {f"{name}, colours": neighbors for name, neighbors in shown.items()}
    first = np.full_like(corpus.pixels(targets), 255)  # of what has no neighbor nothing is copied
    found = [number for number, names in enumerate(content) if names]
    first[found] = corpus.pixels(corpus.rows([content[number][0] for number in found]))
    shown[f"{BEGUN}, colours"] = plain
    seeds = [20_000 + row for row in targets.tolist()]
    drawn = {}
    for name, neighbors in shown.items():
        parts = []
        for start in range(0, len(texts), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            options: dict[str, Any] = {"colours": colours} if name.endswith("colours") else {}
            if name.startswith(BEGUN):
                options |= {"image": list(first[part]), "strength": STRENGTH}
            noise = seeded(seeds[part])
            out = pipeline(texts[part], neighbors[part], num_inference_steps=steps, generator=noise, **options)
            parts.append(as_arrays(out.images))
            print(f"{name}: {min(part.stop, len(texts))} of {len(texts)}", flush=True)
        drawn[name] = np.concatenate(parts)
    palette = style_palette(corpus.pixels(mine), load_config(project / "params.yaml").baselines.snap_colors, seed=0)
    drawn["copied"] = first
    drawn["copied + palette"] = np.stack([snap(image, palette) for image in first])
    drawn["real"] = corpus.pixels(targets)
    return drawn, content


def judged(
    corpus: Corpus, targets: Ints, drawn: dict[str, Pixels], shown: Sequence[Sequence[str]], root: Path
) -> dict[str, Any]:
    """Every variant's accuracies with intervals, and how good the scorer of manners is on real drawings."""
    ruler, trunk = load_ruler(root / layout.RULER), Trunk()
    table = corpus.table
    emoji = table["style"].isin(corpus.manifest["aligned_styles"])
    candidates = np.flatnonzero(emoji & table["split"].isin(["validation", "test"]))
    features = ruler.entity(entity_features(trunk.embed(corpus.pixels(candidates), desc="candidates")))
    prototypes = Prototypes(features, corpus.cells("entity", candidates), corpus.cells("style", candidates))
    styles_of = [set(corpus.cells("style", corpus.rows(names))) for names in shown]
    manners, classify, of_real, of_own = manner_scorer(corpus, targets, trunk)
    own = manners.index(OWN)
    wanted = np.array([prototypes.number(entity) for entity in corpus.cells("entity", targets)])
    bootstrap = ClusterBootstrap(corpus.cells("entity", targets), draws=10_000, seed=0)
    right: dict[str, dict[str, Doubles]] = {}
    for name, pixels in drawn.items():
        seen = trunk.embed(pixels, desc=name)
        looks = ruler.entity(entity_features(seen))
        guess = [
            prototypes.similarities(looks[row : row + 1], hidden)[0].argmax() for row, hidden in enumerate(styles_of)
        ]
        entity, manner = np.array(guess) == wanted, classify(seen.layers) == own
        parts = {"joint": entity & manner, "entity": entity, "manner": manner}
        right[name] = {metric: values.astype(np.float64) for metric, values in parts.items()}
    rows = {
        name: {metric: bootstrap.interval(values).as_dict() for metric, values in metrics.items()}
        for name, metrics in right.items()
    }
    best = "content and style, colours" if "content and style" in right else "content, colours"
    against = {
        f"{best} - {other}": {
            metric: bootstrap.difference(right[best][metric], right[other][metric]).as_dict()
            for metric in ("joint", "entity", "manner")
        }
        for other in ("none", "content", "copied + palette", f"{BEGUN}, colours")
        if other != best
    }
    facts = {"prompts": len(targets), "sets": len(manners), "manner_of_real": of_real, "manner_of_real_own": of_own}
    return facts | {"variants": rows, "differences": against}


def manner_scorer(
    corpus: Corpus, targets: Ints, trunk: Trunk
) -> tuple[list[str], Callable[[Floats], Ints], float, float]:
    """The sets, what tells them apart, and its accuracy on drawings left out of the fit: of all sets, of one's own."""
    styles = np.array([set_of(style) for style in corpus.column("style")])
    rng = np.random.default_rng(0)
    fitted, left = [], []
    for style in sorted(set(styles)):
        rows = np.setdiff1d(np.flatnonzero(styles == style), targets)
        if len(rows) >= 2 * LEAST:
            rows = rng.permutation(rows)[: 2 * MOST]
            fitted.append(rows[::2])
            left.append(rows[1::2])
    manners = [str(styles[rows[0]]) for rows in fitted]
    known, others = (trunk.embed(corpus.pixels(np.concatenate(rows)), desc="manners") for rows in (fitted, left))
    labels = [np.repeat(np.arange(len(rows)), [len(part) for part in rows]) for rows in (fitted, left)]
    lda = fit_lda(known.layers[:, :MIDDLE], labels[0], shrinkage=0.01)

    def classify(layers: Floats) -> Ints:
        numbers: Ints = lda(layers[:, :MIDDLE]).argmax(axis=1)
        return numbers

    hits = classify(others.layers) == labels[1]
    by_set = [float(hits[labels[1] == number].mean()) for number in range(len(manners))]
    return manners, classify, float(np.mean(by_set)), by_set[manners.index(OWN)]


def set_of(style: str) -> str:
    """The set of a `style`, which may be one of several manners that a set has."""
    return next((name for name in OTHERS if style.startswith(name)), style)


def told(value: dict[str, float]) -> str:
    """A share with its interval."""
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


if __name__ == "__main__":
    main()
