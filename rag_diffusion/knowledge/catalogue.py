"""Which data sets a project has, what each says of itself, and what is the matter with it. Reading takes no lock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag_diffusion.config import load_config
from rag_diffusion.errors import ConfigError, DataError, LineageError, RagDiffusionError
from rag_diffusion.knowledge.folders import DataSetFolders
from rag_diffusion.layout import CORPUS, ENCODER
from rag_diffusion.readers.records import Rejection
from rag_diffusion.retrieval.encoder_folder import EncoderFolder
from rag_diffusion.store import pipeline_corpus
from rag_diffusion.store.integrity import check_files, check_originals
from rag_diffusion.store.manifest import CORPUS_NAME, PIPELINE, REJECTED, REMOTE, Manifest, rebuild_hint
from rag_diffusion.store.segments import segments_of

if TYPE_CHECKING:
    from rag_diffusion.retrieval.encoder_folder import PairEncoder

State = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A data set, and what is the matter with it: empty where it can be searched."""

    manifest: Manifest
    trouble: str = ""


class Catalogue:
    """The data sets of a project.

    Args:
        root: the directory that holds params.yaml.
        encoder: of the present vectors.
        image_size: of the present images, in pixels.
    """

    def __init__(self, root: Path, encoder: PairEncoder | EncoderFolder, image_size: int) -> None:
        self.root, self._identity, self._image_size = root, encoder, image_size
        self.folders = DataSetFolders(root)
        self._read = dict[str, tuple[tuple[int, ...], Manifest]]()  # the state of the file, and what it said

    @classmethod
    def light(cls, root: Path | str) -> Catalogue:
        """The catalogue alone of the project at `root`, which loads nothing that embeds or searches.

        Raises:
            ConfigError: there is no params.yaml, or it is wrong.
        """
        root = Path(root)
        if not (root / "params.yaml").exists():
            raise ConfigError(
                f"{root / 'params.yaml'}: expected a parameter file, found none; run from the project's root"
            )
        size = load_config(root / "params.yaml").corpus.image_size
        catalogue = Catalogue(root, EncoderFolder(root / ENCODER), size)
        catalogue.folders.finish()
        return catalogue

    def expect(self, name: str) -> None:
        """Refuse a `name` that no data set has, nor a build that was stopped.

        Raises:
            ConfigError: it has none.
        """
        if name not in self.names() and not self.folders.building(name).exists():
            known = ", ".join(self.names()) or "no data set"
            raise ConfigError(f"kb: expected one of {known}, got {name!r}; see `rag-diffusion kb list`")

    def names(self) -> Sequence[str]:
        """Data sets that there are, the pipeline's corpus first."""
        return [CORPUS_NAME] * (pipeline_corpus.corpus_manifest(self.root) is not None) + self.folders.names()

    def searchable(self) -> Sequence[str]:
        """Data sets that lie on this machine, the pipeline's corpus once it is indexed.

        One with trouble is among them, so that it is not passed over.
        """
        names = [name for name in self.folders.names() if not self._is_remote(name)]
        return [CORPUS_NAME] * pipeline_corpus.indexed(self.root) + names

    def remotes(self) -> Sequence[Manifest]:
        """Data sets that other machines serve."""
        remotes = []
        for name in self.folders.names():
            with suppress(DataError):  # damaged is told by `list`; a search says it as well, for it is no remote then
                manifest = self._manifest(name)
                remotes += [manifest] * manifest.remote
        return remotes

    def version(self) -> State:
        """Another one whenever a data set came, went or changed; nothing is read but the state of files."""
        states: list[tuple[str, tuple[int, ...]]] = []
        for name in self.folders.names():
            with suppress(ConfigError):  # removed just now
                states.append((name, self.state(name)))
        if pipeline_corpus.indexed(self.root):
            states.append((CORPUS_NAME, pipeline_corpus.state(self.root)))
        return tuple(states)

    def info(self, name: str) -> Manifest:
        """What the data set `name` says of itself.

        Raises:
            DataError: there is none of that name, or its manifest is damaged.
        """
        if name == CORPUS_NAME:
            manifest = pipeline_corpus.corpus_manifest(self.root)
            if manifest is None:
                raise DataError("kb: expected the pipeline's corpus, found none in data/corpus; run `dvc repro index`")
            return manifest
        return self._manifest(name)

    def list(self) -> Sequence[Listed]:
        """All data sets, each with what is the matter with it."""
        listed = []
        for name in self.names():
            try:
                manifest = self.info(name)
            except RagDiffusionError as error:
                listed.append(Listed(manifest=Manifest(name=name, form="damaged"), trouble=str(error)))
                continue
            listed.append(Listed(manifest=manifest, trouble=self._trouble(manifest)))
        unfinished = {path.name for path in self.folders.building("").glob("*") if path.is_dir()}
        for name in sorted(unfinished - {entry.manifest.name for entry in listed}):
            trouble = "a build was stopped; run the same `rag-diffusion kb add` again to go on"
            listed.append(Listed(manifest=Manifest(name=name, form="unfinished"), trouble=trouble))
        return listed

    def rejections(self, name: str) -> Iterator[Rejection]:
        """Everything that was not taken into the data set `name`, in the order in which it came.

        Raises:
            DataError: there is no such data set, or its list is damaged.
        """
        try:
            if name == CORPUS_NAME:
                facts = json.loads((self.root / CORPUS / pipeline_corpus.CORPUS_MANIFEST).read_text(encoding="utf-8"))
                entries = facts["rejected"]
                yield from (Rejection(what=str(entry["what"]), reason=str(entry["reason"])) for entry in entries)
                return
            manifest = self._manifest(name)
            if not manifest.remote:
                folder = self.folders.generation(name, manifest.generation)
                for segment in segments_of(manifest):
                    with (folder / segment.folder / REJECTED).open(encoding="utf-8") as lines:
                        yield from (Rejection(**json.loads(line)) for line in lines)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"kb: expected the rejections of {name!r}, got {error!r}; add the data set again") from None

    def check(self, name: str) -> None:
        """Compare every byte of the data set `name` with its manifest.

        Raises:
            DataError: a file is missing, cut or changed.
        """
        manifest = self.info(name)
        if manifest.form == PIPELINE:
            from rag_diffusion.store.shards import check_shard  # reads Parquet; `kb list` does not

            for shard in manifest.shards:
                check_shard(self.root / CORPUS / shard["name"], shard, remedy="run the stage `ingest` again")
            check_originals(self.root / CORPUS, manifest, whole=True)
        elif manifest.form != REMOTE:
            check_files(self.folders.generation(name, manifest.generation), manifest, whole=True)

    def check_present(self, manifest: Manifest) -> None:
        """Refuse a `manifest` of vectors of another encoder than the present one, or of images of another size.

        The images of the pipeline's corpus are scaled until `dvc repro` makes others.

        Raises:
            LineageError: they are.
        """
        manifest.check_encoder(self._identity.hash)
        if manifest.form != PIPELINE and manifest.image_size != self._image_size:
            raise LineageError(
                f"kb: expected images of {self._image_size} pixels, as corpus.image_size says, but those of "
                f"{manifest.name!r} have {manifest.image_size}; {rebuild_hint(manifest.name)}"
            )

    def state(self, name: str) -> tuple[int, ...]:
        """Inode, time in ns and size of its manifest; changes with the data set `name`.

        Raises:
            ConfigError: there is none of that name.
        """
        if name == CORPUS_NAME:
            return pipeline_corpus.state(self.root)
        try:
            return _state(self.folders.manifest(name))
        except FileNotFoundError:
            raise ConfigError(f"kb: expected one of {', '.join(self.names()) or 'no data set'}, got {name!r}") from None

    def _manifest(self, name: str) -> Manifest:
        """Of the data set `name`; read again where the file has changed: that of a large one has many megabytes.

        Raises:
            DataError: there is none of that name, or it is damaged.
        """
        path = self.folders.manifest(name)
        with suppress(FileNotFoundError):
            state = _state(path)
            if name not in self._read or self._read[name][0] != state:
                self._read[name] = state, Manifest.read(path)
            return self._read[name][1]
        return Manifest.read(path)  # which says that there is none

    def _is_remote(self, name: str) -> bool:
        try:
            return self._manifest(name).remote
        except DataError:
            return not self.folders.manifest(name).exists()  # removed just now

    def _trouble(self, manifest: Manifest) -> str:
        if manifest.remote:
            return ""
        if manifest.form == PIPELINE and not pipeline_corpus.indexed(self.root):
            return f"not indexed; {rebuild_hint(CORPUS_NAME)}"
        try:
            self.check_present(manifest)
            if manifest.form != PIPELINE:
                check_files(self.folders.generation(manifest.name, manifest.generation), manifest)
        except RagDiffusionError as error:
            return str(error)
        return ""


def _state(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
