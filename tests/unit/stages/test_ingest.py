"""A corpus of anybody's files keeps them, and is made at another image size when their folder is gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.files import file_hash
from rag_diffusion.knowledge.catalogue import Catalogue
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.encoder_folder import EncoderFolder
from rag_diffusion.stages import ingest
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from tests.unit.stages.own_files import PHOTOS, write_source


def ingested(root: Path, config: Config, size: int, **folder: Any) -> Corpus:
    own = config.corpus.folder.model_copy(update={"path": "mine", "licence": "CC0-1.0", "attribution": "me"} | folder)
    corpus = config.corpus.model_copy(update={"source": "folder", "image_size": size, "folder": own})
    context = StageContext(config=config.model_copy(update={"corpus": corpus}), root=root, tracker=NullTracker())
    ingest.run(context)
    return Corpus.open(root / layout.CORPUS)


def kept(corpus: Corpus) -> dict[str, bytes | None]:
    originals = {name: corpus.original(row) for row, name in enumerate(corpus.column("pair_id"))}
    return {name.removeprefix("folder/"): None if one is None else one.read() for name, one in originals.items()}


def test_a_folder_corpus_keeps_every_file_as_it_came(tmp_path: Path, default_config: Config) -> None:
    files = write_source(tmp_path / "mine")
    corpus = ingested(tmp_path, default_config, 16)
    assert kept(corpus) == files
    manifest = corpus.parts[0].manifest
    assert (manifest.num_originals, manifest.original_bytes) == (PHOTOS + 1, sum(map(len, files.values())))
    for name, entry in manifest.files.items():
        assert entry["sha256"] == file_hash(tmp_path / layout.CORPUS / name)
    assert list((tmp_path / layout.SCRATCH).iterdir()) == []


def test_without_originals_the_pairs_are_the_same(tmp_path: Path, default_config: Config) -> None:
    files = write_source(tmp_path / "mine")
    with_them = ingested(tmp_path, default_config, 16)
    without = ingested(tmp_path, default_config, 16, originals=False)
    assert without.hash == with_them.hash
    assert kept(without) == dict.fromkeys(files)
    shutil.rmtree(tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"corpus\.folder\.path: expected images with captions"):
        ingested(tmp_path, default_config, 32)


@pytest.mark.parametrize("size", [16, 64])
def test_another_image_size_needs_no_source(tmp_path: Path, default_config: Config, size: int) -> None:
    files = write_source(tmp_path / "a/mine")
    shutil.copytree(tmp_path / "a/mine", tmp_path / "b/mine")
    ingested(tmp_path / "a", default_config, 32)
    shutil.rmtree(tmp_path / "a/mine")
    rebuilt, fresh = (ingested(tmp_path / name, default_config, size) for name in "ab")
    assert rebuilt.pixels().shape == (PHOTOS + 1, size, size, 3)
    assert {key: value for key, value in rebuilt.manifest.items() if key != "files"} == {
        key: value for key, value in fresh.manifest.items() if key != "files"
    }
    assert set(rebuilt.column("split")) == {"train", "validation", "test"}
    assert kept(rebuilt) == files
    assert ingested(tmp_path / "a", default_config, 32).pixels().shape[1] == 32


def test_a_damaged_original_is_told(tmp_path: Path, default_config: Config) -> None:
    write_source(tmp_path / "mine")
    ingested(tmp_path, default_config, 16)
    shutil.rmtree(tmp_path / "mine")
    catalogue, path = Catalogue(tmp_path, EncoderFolder(tmp_path), 16), tmp_path / layout.CORPUS / "originals-00000.bin"
    catalogue.check("corpus")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"originals-00000.bin: expected sha256 .*run the stage `ingest` again"):
        catalogue.check("corpus")
    path.write_bytes(b"cut")
    with pytest.raises(DataError, match=r"originals-00000.bin: expected \d+ bytes, got 3 bytes"):
        ingested(tmp_path, default_config, 32)
