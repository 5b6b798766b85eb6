"""A knowledge base of several data sets: each added, replaced and removed by itself, all searched together.

The pipeline's own corpus is the data set `corpus`; everything else lies in data/kb, see `places`. Readers take no lock:
they see the state before or after a write. Writers of one data set wait for each other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from rag_diffusion.config import Config, load_config
from rag_diffusion.errors import ConfigError, DataError, LineageError, RagDiffusionError
from rag_diffusion.knowledge import project
from rag_diffusion.knowledge.data_set import DataSet, check_files
from rag_diffusion.knowledge.filters import Filter
from rag_diffusion.knowledge.manifest import PIPELINE, REMOTE, Manifest, rebuild_hint
from rag_diffusion.knowledge.places import CORPUS_NAME
from rag_diffusion.knowledge.stacked import StackedIndex, StackedPairs, StackedVectors, in_order_of_ids
from rag_diffusion.knowledge.writer import Writer
from rag_diffusion.layout import ENCODER
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.lexical import Lexical, LexicalIndex, NoWords
from rag_diffusion.retrieval.retriever import Method, Retriever
from rag_diffusion.retrieval.stream import PairEncoder, StreamEncoder
from rag_diffusion.retrieval.weighting import LexicalName
from rag_diffusion.types import Hits

WAIT = 60.0  # seconds for another writer of the same data set
_KEPT = 4  # retrievers over different choices of data sets
_TRIES = 5  # to open a data set that is being replaced

State = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A data set, and what is the matter with it: empty where it can be searched."""

    manifest: Manifest
    trouble: str = ""


class KnowledgeBase(Writer):
    """The data sets of a project.

    Args:
        root: the directory that holds params.yaml.
        config: of params.yaml.
        encoder: makes vectors of pairs and queries.
        wait: seconds to wait for another writer of the same data set.
    """

    def __init__(self, root: Path, config: Config, encoder: PairEncoder, *, wait: float = WAIT) -> None:
        super().__init__(root, config, encoder, wait=wait)
        self._lock = RLock()
        self._opened: dict[str, tuple[tuple[int, ...], DataSet]] = {}
        self._retrievers: dict[tuple[str, ...], tuple[State, Retriever]] = {}
        self.places.finish()

    @classmethod
    def open(cls, root: Path | str, *, wait: float = WAIT) -> KnowledgeBase:
        """The knowledge base of a project; the encoder itself is loaded at the first pair or query.

        Raises:
            ConfigError: params.yaml is missing or wrong.
        """
        root = Path(root)
        return cls(root, load_config(root / "params.yaml"), StreamEncoder(root / ENCODER), wait=wait)

    def names(self) -> Sequence[str]:
        """Data sets that there are, the pipeline's corpus first."""
        return [CORPUS_NAME] * (project.corpus_manifest(self.root) is not None) + self.places.names()

    def searchable(self) -> Sequence[str]:
        """Data sets that lie on this machine, the pipeline's corpus once it is indexed."""
        return self._local()

    def version(self) -> State:
        """Another one whenever a data set came, went or changed; nothing is read but the state of files."""
        found: list[tuple[str, tuple[int, ...]]] = []
        for name in self.places.names():
            with suppress(ConfigError):  # removed just now
                found.append((name, self._state(name)))
        if project.indexed(self.root):
            found.append((CORPUS_NAME, project.state(self.root)))
        return tuple(found)

    def info(self, name: str) -> Manifest:
        """What a data set says of itself.

        Raises:
            DataError: there is none of that name, or its manifest is damaged.
        """
        if name == CORPUS_NAME:
            found = project.corpus_manifest(self.root)
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

    def check(self, name: str) -> None:
        """Compare every byte of a data set with its manifest.

        Raises:
            DataError: a file is missing, cut or changed.
        """
        manifest = self.info(name)
        if manifest.form not in (PIPELINE, REMOTE):
            check_files(self.places.generation(name, manifest.generation), manifest, whole=True)

    def retriever(self, sets: Collection[str] | None = None) -> Retriever:
        """A retriever over data sets together, of their present state; kept until one of them changes.

        Args:
            sets: names; None is all that lie on this machine, and the pipeline's corpus once it is indexed.

        Raises:
            DataError: there is no pair to find, or a file is damaged.
            LineageError: vectors were made by another encoder.
        """
        names = tuple(sorted(self._local() if sets is None else set(sets)))
        if not names:
            raise DataError(
                "kb: expected at least one data set to search, found none; run `rag-diffusion kb add NAME PATH`, or "
                "`dvc repro index`"
            )
        with self._lock:
            state = tuple((name, self._state(name)) for name in names)
            if names not in self._retrievers or self._retrievers[names][0] != state:
                self._retrievers.pop(names, None)
                self._retrievers[names] = (state, self._assembled([self._open(name) for name in names]))
                self._opened = {name: one for name, one in self._opened.items() if name in self._local()}
                while len(self._retrievers) > _KEPT:
                    self._retrievers.pop(next(iter(self._retrievers)))
            return self._retrievers[names][1]

    def search(
        self,
        queries: Sequence[str],
        *,
        top_k: int,
        where: Filter | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        sets: Collection[str] | None = None,
        **options: Any,
    ) -> Sequence[Hits]:
        """Best pairs of every query.

        Args:
            queries: texts.
            top_k: hits asked for.
            where: which pairs may come.
            exclude: per query, pair ids that must not come.
            sets: data sets to search; the words and scores are then those of these alone, unlike with `where`.
            options: more of `Retriever.search`.
        """
        retriever = self.retriever(sets)
        pairs = retriever.corpus
        assert isinstance(pairs, StackedPairs)
        return retriever.search(queries, top_k=top_k, within=pairs.mask(where), exclude=exclude, **options)

    def _local(self) -> Sequence[str]:
        """Data sets that can be searched here; one with trouble is among them, so that it is not passed over."""
        names = [name for name in self.places.names() if not self._is_remote(name)]
        return [CORPUS_NAME] * project.indexed(self.root) + names

    def _is_remote(self, name: str) -> bool:
        try:
            return Manifest.read(self.places.manifest(name)).remote
        except DataError:
            return not self.places.manifest(name).exists()  # removed just now

    def _trouble(self, manifest: Manifest) -> str:
        if manifest.remote:
            return ""
        if manifest.form == PIPELINE and not project.indexed(self.root):
            return f"not indexed; {project.REMEDY}"
        try:
            self._check_encoder(manifest)
            if manifest.form != PIPELINE:
                check_files(self.places.generation(manifest.name, manifest.generation), manifest)
        except RagDiffusionError as error:
            return str(error)
        return ""

    def _check_encoder(self, manifest: Manifest) -> None:
        if manifest.encoder_hash != self.encoder.hash:
            remedy = project.REMEDY if manifest.form == PIPELINE else rebuild_hint(manifest.name)
            raise LineageError(
                f"kb: expected vectors of encoder {self.encoder.hash[:12]}…, but those of {manifest.name!r} were made "
                f"by encoder {manifest.encoder_hash[:12]}…; {remedy}"
            )

    def _state(self, name: str) -> tuple[int, ...]:
        """Changes with the data set."""
        if name == CORPUS_NAME:
            return project.state(self.root)
        path = self.places.manifest(name)
        try:
            found = path.stat()
        except FileNotFoundError:
            raise ConfigError(f"kb: expected one of {', '.join(self.names()) or 'no data set'}, got {name!r}") from None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _open(self, name: str) -> DataSet:
        """A data set in its present state; opened again only if that is another one."""
        for attempt in range(_TRIES):
            state = self._state(name)
            if self._opened.get(name, ((), None))[0] == state:
                return self._opened[name][1]
            try:
                manifest = self.info(name)
                self._check_encoder(manifest)
                found = project.open_corpus(self.root, manifest) if name == CORPUS_NAME else self._data_set(manifest)
            except RagDiffusionError:
                if self._state(name) == state or attempt + 1 == _TRIES:
                    raise
                continue  # replaced while it was opened
            self._opened[name] = (state, found)
            return found
        raise AssertionError

    def _data_set(self, manifest: Manifest) -> DataSet:
        return DataSet.open(self.places.generation(manifest.name, manifest.generation), manifest)

    def _assembled(self, parts: Sequence[DataSet]) -> Retriever:
        """One retriever over data sets; words are indexed sparsely, with rank_bm25's scores, whatever is chosen."""
        parts = in_order_of_ids(parts)
        counts = TermCounts.merged([part.counts for part in parts])
        method = Method.of(self.config.retrieval)
        names: tuple[LexicalName, ...] = ("bm25", "tf_idf") if method.weights["tf_idf"] else ("bm25",)
        lexical: dict[str, Lexical] = {
            name: LexicalIndex(counts, name) if len(counts.terms) else NoWords(len(counts.lengths)) for name in names
        }
        return Retriever(
            StackedPairs(parts, self.config.corpus.image_size),
            StackedVectors.of(parts),
            lexical,
            {name: StackedIndex([part.indexes[name] for part in parts]) for name in ("text_to_text", "text_to_image")},
            weights=method,
            embed=self.encoder.texts,
            embed_images=self.encoder.images,
        )


def open_retriever(root: Path | str) -> Retriever:
    """A retriever over every data set of a project that lies on this machine.

    Raises:
        ConfigError: params.yaml is missing or wrong.
        DataError, LineageError: a data set is missing or damaged, or was made with another encoder.
    """
    base = KnowledgeBase.open(root)
    return base.retriever() if set(base.searchable()) - {CORPUS_NAME} else Retriever.open(root)
