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
from rag_diffusion.knowledge.places import Places
from rag_diffusion.layout import CORPUS, ENCODER
from rag_diffusion.readers.records import Rejection
from rag_diffusion.retrieval.encoder_folder import EncoderFolder
from rag_diffusion.store import pipeline_corpus
from rag_diffusion.store.manifest import CORPUS_NAME, PIPELINE, REJECTED, REMOTE, Manifest, rebuild_hint
from rag_diffusion.store.whole import check_files

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
        self.places = Places(root)

    @classmethod
    def light(cls, root: Path | str) -> Catalogue:
        """The catalogue of a project alone, which loads nothing that embeds or searches.

        Raises:
            ConfigError: there is no params.yaml, or it is wrong.
        """
        root = Path(root)
        if not (root / "params.yaml").exists():
            raise ConfigError(
                f"{root / 'params.yaml'}: expected a parameter file, found none; run from the project's root"
            )
        size = load_config(root / "params.yaml").corpus.image_size
        found = Catalogue(root, EncoderFolder(root / ENCODER), size)
        found.places.finish()
        return found

    def expect(self, name: str) -> None:
        """Refuse a name that no data set has, nor a build that was stopped.

        Raises:
            ConfigError: it has none.
        """
        if name not in self.names() and not self.places.building(name).exists():
            known = ", ".join(self.names()) or "no data set"
            raise ConfigError(f"kb: expected one of {known}, got {name!r}; see `rag-diffusion kb list`")

    def names(self) -> Sequence[str]:
        """Data sets that there are, the pipeline's corpus first."""
        return [CORPUS_NAME] * (pipeline_corpus.corpus_manifest(self.root) is not None) + self.places.names()

    def searchable(self) -> Sequence[str]:
        """Data sets that lie on this machine, the pipeline's corpus once it is indexed.

        One with trouble is among them, so that it is not passed over.
        """
        names = [name for name in self.places.names() if not self._is_remote(name)]
        return [CORPUS_NAME] * pipeline_corpus.indexed(self.root) + names

    def remotes(self) -> Sequence[Manifest]:
        """Data sets that other machines serve."""
        found = []
        for name in self.places.names():
            with suppress(DataError):  # damaged is told by `list`; a search says it as well, for it is no remote then
                manifest = Manifest.read(self.places.manifest(name))
                found += [manifest] * manifest.remote
        return found

    def version(self) -> State:
        """Another one whenever a data set came, went or changed; nothing is read but the state of files."""
        found: list[tuple[str, tuple[int, ...]]] = []
        for name in self.places.names():
            with suppress(ConfigError):  # removed just now
                found.append((name, self.state(name)))
        if pipeline_corpus.indexed(self.root):
            found.append((CORPUS_NAME, pipeline_corpus.state(self.root)))
        return tuple(found)

    def info(self, name: str) -> Manifest:
        """What a data set says of itself.

        Raises:
            DataError: there is none of that name, or its manifest is damaged.
        """
        if name == CORPUS_NAME:
            found = pipeline_corpus.corpus_manifest(self.root)
            if found is None:
                raise DataError("kb: expected the pipeline's corpus, found none in data/corpus; run `dvc repro index`")
            return found
        return Manifest.read(self.places.manifest(name))

    def list(self) -> Sequence[Listed]:
        """All data sets, each with what is the matter with it."""
        found = []
        for name in self.names():
            try:
                manifest = self.info(name)
            except RagDiffusionError as error:
                found.append(Listed(manifest=Manifest(name=name, form="damaged"), trouble=str(error)))
                continue
            found.append(Listed(manifest=manifest, trouble=self._trouble(manifest)))
        unfinished = {path.name for path in self.places.building("").glob("*") if path.is_dir()}
        for name in sorted(unfinished - {one.manifest.name for one in found}):
            trouble = "a build was stopped; run the same `rag-diffusion kb add` again to go on"
            found.append(Listed(manifest=Manifest(name=name, form="unfinished"), trouble=trouble))
        return found

    def rejections(self, name: str) -> Iterator[Rejection]:
        """Everything that was not taken into a data set, in the order in which it came.

        Raises:
            DataError: there is no such data set, or its list is damaged.
        """
        try:
            if name == CORPUS_NAME:
                content = json.loads((self.root / CORPUS / "manifest.json").read_text(encoding="utf-8"))
                yield from (Rejection(what=str(one["what"]), reason=str(one["reason"])) for one in content["rejected"])
                return
            manifest = Manifest.read(self.places.manifest(name))
            if not manifest.remote:
                with (self.places.generation(name, manifest.generation) / REJECTED).open(encoding="utf-8") as lines:
                    yield from (Rejection(**json.loads(line)) for line in lines)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"kb: expected the rejections of {name!r}, got {error!r}; add the data set again") from None

    def check(self, name: str) -> None:
        """Compare every byte of a data set with its manifest.

        Raises:
            DataError: a file is missing, cut or changed.
        """
        manifest = self.info(name)
        if manifest.form not in (PIPELINE, REMOTE):
            check_files(self.places.generation(name, manifest.generation), manifest, whole=True)

    def check_present(self, manifest: Manifest) -> None:
        """Refuse vectors of another encoder than the present one, and images of another size.

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
        """Changes with the data set.

        Raises:
            ConfigError: there is none of that name.
        """
        if name == CORPUS_NAME:
            return pipeline_corpus.state(self.root)
        path = self.places.manifest(name)
        try:
            found = path.stat()
        except FileNotFoundError:
            raise ConfigError(f"kb: expected one of {', '.join(self.names()) or 'no data set'}, got {name!r}") from None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _is_remote(self, name: str) -> bool:
        try:
            return Manifest.read(self.places.manifest(name)).remote
        except DataError:
            return not self.places.manifest(name).exists()  # removed just now

    def _trouble(self, manifest: Manifest) -> str:
        if manifest.remote:
            return ""
        if manifest.form == PIPELINE and not pipeline_corpus.indexed(self.root):
            return f"not indexed; {rebuild_hint(CORPUS_NAME)}"
        try:
            self.check_present(manifest)
            if manifest.form != PIPELINE:
                check_files(self.places.generation(manifest.name, manifest.generation), manifest)
        except RagDiffusionError as error:
            return str(error)
        return ""
