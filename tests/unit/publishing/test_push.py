"""The knowledge base and the model as repositories: read again by `datasets` and from a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.publishing.cards import licence_metadata, size_category
from rag_diffusion.publishing.dataset import write_dataset
from rag_diffusion.publishing.model import write_model
from rag_diffusion.publishing.upload import check_name
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.terminal.app import app
from tests.tiny import tiny_pairs
from tests.unit.publishing.hub import Hub, local_hub


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Some thirty pairs of three splits, under two licences."""
    path = tmp_path_factory.mktemp("pairs") / "data" / "corpus"
    some = [
        replace(pair, licence="CC-BY-4.0" if pair.style == "noto" else "CC0-1.0", attribution="Ada, 「絵」")
        for pair in tiny_pairs()[::13]
    ]
    write_corpus(path, some, image_size=64, facts={"rejected": [], "kind": "iconify"})
    return Corpus.open(path)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with local_hub() as running:
        yield running


def asked(hub: Hub, folder: Path, *words: str) -> dict[str, object]:
    """What `there` prints, with a hub of its own and nothing of the user's."""
    home = folder / "home"
    ours = ("HF_", "HUGGING")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.publishing.there", *words],
        env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def head_of(card: Path) -> dict[str, object]:
    head: dict[str, object] = yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])
    return head


def test_datasets_reads_the_folder_with_its_splits(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    counts = write_dataset(tmp_path / "set", pairs, "me/shapes")
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in loaded.items()} == counts
    assert set(counts) == {"train", "validation", "test"}
    row = loaded["test"][0]
    pair = pairs.pair(row["pair_id"])
    for name in ("caption", "licence", "attribution", "entity", "style", "source"):
        assert row[name] == getattr(pair, name)
    np.testing.assert_array_equal(np.asarray(row["image"]), pairs.pixels(pairs.rows([pair.pair_id]))[0])


def test_the_card_counts_licences(pairs: Corpus, tmp_path: Path) -> None:
    write_dataset(tmp_path, pairs, "me/shapes")
    card = tmp_path / "README.md"
    licences = pairs.column("licence").tolist()
    assert f"| CC0-1.0 | {licences.count('CC0-1.0')} | nothing |" in card.read_text(encoding="utf-8")
    assert f"| CC-BY-4.0 | {licences.count('CC-BY-4.0')} | name the author |" in card.read_text(encoding="utf-8")
    head = head_of(card)
    assert (head["license"], head["license_name"], head["size_categories"]) == ("other", "several", ["n<1K"])
    assert licence_metadata({"MIT": 3}) == {"license": "mit"}
    assert [size_category(count) for count in (999, 1000, 10**9)] == ["n<1K", "1K<n<10K", "10M<n<100M"]


@pytest.mark.slow
def test_what_was_pushed_is_read_by_its_name(pairs: Corpus, tmp_path: Path, hub: Hub) -> None:
    write_dataset(tmp_path / "set", pairs, "me/shapes")
    told = asked(hub, tmp_path, "dataset", str(tmp_path / "set"), "me/shapes")
    assert hub.private == {"datasets/me/shapes": True}
    assert "Bearer hf_secret" in hub.tokens
    assert sorted(hub.files["datasets/me/shapes"]) == [
        "README.md", *(f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")),
    ]  # fmt: skip
    assert hub.files["datasets/me/shapes"]["README.md"] == (tmp_path / "set" / "README.md").read_bytes()
    captions = pairs.column("caption").tolist()
    found = told["found"]
    assert isinstance(found, list)
    assert sorted(row[1] for row in found) == sorted(captions)
    assert {row[3] for row in found} == {"train", "validation", "test"}
    assert {row[2] for row in found} == {"CC0-1.0", "CC-BY-4.0"}
    assert told["licence"] == "other"


@pytest.mark.slow
def test_a_model_is_pushed_as_it_lies_there(tmp_path: Path, hub: Hub) -> None:
    model = made_model(tmp_path / "model")
    write_model(tmp_path / "made", model, "me/fox")
    told = asked(hub, tmp_path, "model", str(tmp_path / "made"), "me/fox")
    assert told["found"] == [["README.md"], ["card.json"], ["unet/config.json"], ["unet/weights.safetensors"]]
    assert hub.files["models/me/fox"]["unet/weights.safetensors"] == bytes(range(256))
    refused = asked(hub, tmp_path, "model", str(tmp_path / "made"), "nobody/fox")
    assert "expected the hub to take nobody/fox, got:" in str(refused["error"])
    assert "by --out FOLDER" in str(refused["error"])


def made_model(folder: Path) -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(bytes(range(256)))
    licences = {"CC-BY-SA-4.0": 10, "MIT": 5}
    (folder / "card.json").write_text(json.dumps({"train_licences": licences, "train_pairs": 15, "steps": 7}))
    return folder


def test_the_card_of_a_model_tells_what_it_was_trained_on(tmp_path: Path) -> None:
    made = CliRunner().invoke(
        app, ["push", "me/fox", "--model", str(made_model(tmp_path / "model")), "--out", str(tmp_path / "out")]
    )
    assert made.exit_code == 0, made.output
    assert "nothing was uploaded" in made.output
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| CC-BY-SA-4.0 | 10 | name the author, share under the same licence |" in text
    assert "- steps: 7" in text
    assert 'snapshot_download("me/fox")' in text
    head = head_of(tmp_path / "out" / "README.md")
    assert (head["library_name"], head["pipeline_tag"]) == ("diffusers", "text-to-image")
    again = CliRunner().invoke(
        app, ["push", "me/fox", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    )
    assert again.exit_code == 1
    assert "expected an empty folder" in again.output
    with pytest.raises(ModelError, match="expected a generator's folder"):
        write_model(tmp_path / "none", tmp_path / "home", "me/fox")


@pytest.mark.parametrize("name", ["fox", "a/b/c", "me/..", ""])
def test_a_name_that_no_repository_has_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected OWNER/NAME"):
        check_name(name)
