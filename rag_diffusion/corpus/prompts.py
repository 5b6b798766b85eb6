"""The fixed prompts: unseen entity x style, half of them in sentences that are no caption."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rag_diffusion import layout
from rag_diffusion.corpus.captions import (
    CAPTION_TEMPLATES,
    SENTENCE_TEMPLATES,
    describe,
    stable_hash,
)
from rag_diffusion.corpus.split import MIN_STYLES
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt

STYLES_PER_ENTITY = 3
FOLDER_PROMPTS = 120  # of a user's own corpus the default run draws so many


def make_prompts(corpus: Corpus, split: str) -> list[Prompt]:
    """Prompts of every entity of a `split` that stands in six or more styles of `corpus`, in three balanced styles.

    Deterministic in the corpus; of a wide one its aligned sets alone count, so that it has the prompts of the emoji
    corpus. One prompt of each entity is a default one; over all of them captions and sentences, and the styles, are
    balanced.
    """
    words: dict[str, str] = corpus.manifest["style_words"]
    aligned = corpus.table["style"].isin(corpus.manifest.get("aligned_styles", list(words)))
    table = corpus.table[(corpus.table["split"] == split) & aligned]
    used: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    prompts: list[Prompt] = []
    entities = {str(entity): rows for entity, rows in table.groupby("entity") if rows["style"].nunique() >= MIN_STYLES}
    for number, entity in enumerate(sorted(entities, key=lambda name: stable_hash(f"prompt:{name}"))):
        rows = entities[entity]
        free = sorted(rows["style"].unique())
        for turn in range(STYLES_PER_ENTITY):
            default = turn == 0
            style = min(free, key=lambda name: (used[default][name], stable_hash(f"{entity}:{name}")))
            free.remove(style)
            used[default][style] += 1
            row = rows[rows["style"] == style].iloc[0]
            kind = "sentence" if (number + turn) % 2 else "caption"
            templates = SENTENCE_TEMPLATES if kind == "sentence" else CAPTION_TEMPLATES
            prompt_id = f"{split}-{len(prompts):04d}"
            template = templates[stable_hash(f"{prompt_id}:template") % len(templates)]
            group = str(row["pair_id"])
            text = describe(
                template,
                title=row["title"],
                style=words[style],
                kind=corpus.manifest["kinds"][entity],
            )
            prompts.append(
                Prompt(
                    prompt_id=prompt_id,
                    split=split,
                    entity=entity,
                    family=row["family"],
                    title=row["title"],
                    style=style,
                    kind=kind,
                    text=text,
                    default=default,
                    seed=stable_hash(f"{group}:seed") % 2**31,
                )
            )
    return prompts


def folder_prompts(corpus: Corpus, split: str) -> list[Prompt]:
    """Of a user's own `corpus`: the captions of a `split`, the pair itself being held out."""
    rows = corpus.table[corpus.table["split"] == split].head(FOLDER_PROMPTS)
    return [_folder_prompt({str(key): str(value) for key, value in row.items()}) for row in rows.to_dict("records")]


def _folder_prompt(row: dict[str, str]) -> Prompt:
    return Prompt(
        prompt_id=row["pair_id"],
        **{key: row[key] for key in ("split", "entity", "family", "title", "style")},
        kind="caption",
        text=row["caption"],
        default=True,
        seed=stable_hash(f"{row['pair_id']}:seed") % 2**31,
    )


def write_prompts(root: Path, corpus: Corpus) -> None:
    """Write data/prompts/validation.jsonl and test.jsonl below `root`, of `corpus`."""
    folder = root / layout.PROMPTS
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("validation", "test"):
        lines = [json.dumps(asdict(prompt), ensure_ascii=False) for prompt in make_prompts(corpus, split)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_prompts(path: Path | str) -> list[Prompt]:
    """Read the prompt file at `path`.

    Raises:
        DataError: the file is missing or a line is no prompt.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: expected a prompt file, found none; restore it with git") from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            prompts.append(Prompt(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}:{number}: expected a prompt as JSON, got {line[:80]!r} ({error})") from None
    return prompts


def load_prompts(root: Path, which: str, corpus: Corpus) -> list[Prompt]:
    """Prompts of a run.

    Args:
        root: project root.
        which: `default` (a fixed third of the test prompts), `all` (test) or `validation`.
        corpus: a user's own corpus brings its own prompts.

    Returns:
        At least one prompt.

    Raises:
        ConfigError: no prompt is left.
    """
    split = "validation" if which == "validation" else "test"
    if corpus.manifest["kind"] == "iconify":
        prompts = read_prompts(root / layout.PROMPTS / f"{split}.jsonl")
    else:
        prompts = folder_prompts(corpus, split)
    chosen = [prompt for prompt in prompts if prompt.default or which != "default"]
    if not chosen:
        raise ConfigError(f"sample.prompts: expected prompts for {which!r}, got none; the corpus has no {split} pairs")
    return chosen
