"""A sentence encoder made small: float16, and word embeddings of the tokens alone that some texts hold.

The tokenizer stays whole, since a word that it did not know would be cut elsewhere. So the states of those texts are
the encoder's own, up to float16.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rag_diffusion.models.text_encoder import embedded_path

_WORDS = "embeddings.word_embeddings.weight"
_ROWS = "kept_rows"
_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_SMALL, _WHOLE = "pruned.safetensors", "model.safetensors"


def prune(texts: Sequence[str], folder: Path) -> int:
    """Write the embedded encoder, pruned to what `texts` need, into a new `folder`; returns its tokens."""
    from transformers import AutoTokenizer

    source = Path(embedded_path())
    tokenizer = AutoTokenizer.from_pretrained(source)
    used = {int(token) for ids in tokenizer(list(texts))["input_ids"] for token in ids} | set(tokenizer.all_special_ids)
    weights = {name: value.half() for name, value in load_file(source / _WHOLE).items() if value.is_floating_point()}
    rows = torch.tensor(sorted(used))
    folder.mkdir(parents=True)
    whole = weights[_WORDS]
    small = weights | {_WORDS: whole[rows].contiguous(), _ROWS: rows}
    save_file(small, folder / _SMALL, metadata={"vocabulary": str(len(whole))})
    for name in _FILES:
        shutil.copyfile(source / name, folder / name)
    return len(rows)


def restore(folder: Path) -> Path:
    """Write the weights in `folder` as transformers reads them, zeros for words left out; returns the folder."""
    if not (folder / _WHOLE).exists():
        weights = load_file(folder / _SMALL)
        rows, kept = weights.pop(_ROWS), weights[_WORDS]
        size = _vocabulary(folder / _SMALL)
        weights[_WORDS] = torch.zeros(size, kept.shape[1], dtype=kept.dtype).index_copy_(0, rows, kept)
        weights = {name: value.float() for name, value in weights.items()}  # transformers computes in the type it finds
        save_file(weights, folder / _WHOLE, metadata={"format": "pt"})
    return folder


def _vocabulary(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["vocabulary"])
