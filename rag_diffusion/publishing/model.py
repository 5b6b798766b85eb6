"""A generator as a model of Hugging Face: its folder as it is, and a card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rag_diffusion.errors import ModelError
from rag_diffusion.publishing.cards import card, licence_metadata, licence_table

_CARD = "card.json"  # of the training
_LEFT_OUT = shutil.ignore_patterns("README.md", ".*", "*.tmp")


def write_model(folder: Path, model: Path, name: str) -> None:
    """Write a repository that `RetrievalPipeline.from_pretrained` reads.

    Args:
        folder: to write into.
        model: folder of a generator.
        name: of the repository, for its card.

    Raises:
        ModelError: there is no generator.
    """
    if not (model / "unet").is_dir() and not (model / "model_index.json").is_file():
        raise ModelError(f"{model}: expected a generator's folder, with `unet` in it, found none; name another folder")
    shutil.copytree(model, folder, dirs_exist_ok=True, ignore=_LEFT_OUT)
    (folder / "README.md").write_text(_card(model, name), encoding="utf-8")


def _card(model: Path, name: str) -> str:
    path = model / _CARD
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    licences: dict[str, int] = facts.get("train_licences", {})
    metadata = (licence_metadata(licences) if licences else {"license": "other"}) | {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["rag-diffusion", "retrieval-augmented-generation", "text-to-image"],
    }
    told = [f"- {words}: {facts[key]}" for key, words in _FACTS.items() if facts.get(key) not in (None, "")]
    asked = licence_table(licences) if licences else "Its card does not tell what it was trained on."
    trained = "\n".join(told) or "Its folder has no card.json."
    return card(
        metadata,
        f"""
# {name.rpartition("/")[2]}

A text-to-image diffusion model that looks at image-text pairs while it draws; it is run with rag-diffusion.

```python
from huggingface_hub import snapshot_download
from rag_diffusion import KnowledgeBase, RetrievalPipeline

pipe = RetrievalPipeline.from_pretrained(snapshot_download("{name}"), retriever=KnowledgeBase.open("."))
pipe("a red apple in the style of Noto").images[0]
```

## Training

{trained}

`card.json` has all of it, the entities among it that training has seen.

## Licences of the pairs that it was trained on

{asked}
""",
    )


_FACTS = {
    "train_pairs": "pairs",
    "steps": "steps",
    "images_seen": "images seen",
    "hours": "hours",
    "hardware": "hardware",
    "parameters": "parameters",
}
