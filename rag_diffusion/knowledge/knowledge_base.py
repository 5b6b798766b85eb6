"""A knowledge base of several data sets: each added, replaced and removed by itself, all searched together.

The pipeline's own corpus is the data set `corpus`; everything else lies in data/kb, see `folders`. Readers take no
lock: they see the state before or after a write. Writers of one data set wait for each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

from rag_diffusion.config import Config, load_config
from rag_diffusion.errors import ConfigError, DataError, RagDiffusionError
from rag_diffusion.knowledge.catalogue import Catalogue, Listed
from rag_diffusion.knowledge.remote.remote_pairs import ask_remotes
from rag_diffusion.knowledge.writer import DataSetWriter
from rag_diffusion.layout import ENCODER, INDEX, KB_CALIBRATION
from rag_diffusion.readers.records import Item, Reader, Rejection
from rag_diffusion.retrieval.assemble import LexicalCache, assembled
from rag_diffusion.retrieval.calibration import CALIBRATION_FILE, UNCALIBRATED, Calibration, fit_calibration
from rag_diffusion.retrieval.data_set import DataSet
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.encoder_folder import PairEncoder
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.query_vectors import QueryVectors
from rag_diffusion.retrieval.results import Results, search_each
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.spans import span
from rag_diffusion.store.manifest import CORPUS_NAME, Manifest
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.store.segments import segments_of
from rag_diffusion.types import Pair

WAIT = 60.0  # seconds for another writer of the same data set
_KEPT = 4  # retrievers over different choices of data sets
_TRIES = 5  # to open a data set that is being replaced


class KnowledgeBase:
    """The data sets of a project.

    Args:
        root: the directory that holds params.yaml.
        config: of params.yaml.
        encoder: makes vectors of pairs and queries.
        wait: seconds to wait for another writer of the same data set.

    Attributes:
        catalogue: which data sets there are.
        writer: makes, replaces and removes them.

    Examples:
        >>> from rag_diffusion import KnowledgeBase, Query
        >>> from rag_diffusion.readers.forms import open_reader
        >>> base = KnowledgeBase.open(".")
        >>> base.add("circles", open_reader("auto", "photos"), licence="CC0-1.0").num_pairs
        3
        >>> base.search(Query(["a red circle"], top_k=1, sets=["circles"])).hits[0].pair_ids
        ('circles/red.png',)
    """

    def __init__(self, root: Path, config: Config, encoder: PairEncoder, *, wait: float = WAIT) -> None:
        self.root, self.config, self.encoder = root, config, encoder
        self.catalogue = Catalogue(root, encoder, config.corpus.image_size)
        self.writer = DataSetWriter(self.catalogue.folders, config, encoder, wait=wait)
        self._lock, self._embed = RLock(), QueryVectors(encoder.texts)
        self._opened: dict[str, tuple[tuple[int, ...], Mapping[object, DataSet]]] = {}
        self._retrievers: dict[tuple[str, ...], tuple[object, Sequence[DataSet], Retriever]] = {}
        self.catalogue.folders.finish()

    @classmethod
    def open(cls, root: Path | str, *, wait: float = WAIT) -> KnowledgeBase:
        """The knowledge base of the project at `root`; the encoder itself is loaded at the first pair or query.

        Args:
            root: the directory that holds params.yaml.
            wait: seconds to wait for another writer of the same data set.

        Raises:
            ConfigError: params.yaml is missing or wrong.
        """
        root = Path(root)
        config = load_config(root / "params.yaml")
        return cls(root, config, Encoder(root / ENCODER, device=config.device), wait=wait)

    def add(self, name: str, reader: Reader | Iterable[Item | Rejection], **options: Any) -> Manifest:
        """Make the data set `name` of what a `reader` yields; see `DataSetWriter.add`."""
        return self.writer.add(name, reader, **options)

    def insert(
        self, name: str, items: Iterable[Item | Pair | Rejection], **options: Any
    ) -> tuple[Manifest, list[Rejection]]:
        """Put `items` into the data set `name` of uploaded pairs; see `DataSetWriter.insert`."""
        return self.writer.insert(name, items, **options)

    def remove(self, name: str) -> None:
        """Remove the data set `name`; see `DataSetWriter.remove`."""
        self.writer.remove(name)

    def info(self, name: str) -> Manifest:
        """What the data set `name` says of itself; see `Catalogue.info`."""
        return self.catalogue.info(name)

    def calibrate(self, *, splits: Sequence[str] = ("train", "validation"), seed: int = 0) -> Calibration:
        """Fit scores on the pairs of all data sets on this machine and keep that for every later search.

        It takes the place of what the stage `index` has fitted on the corpus. Another encoder makes it void.

        Args:
            splits: of the pairs that queries are made of.
            seed: of which pairs those are.

        Returns:
            The calibration; one without weights, which is not kept, says why nothing could be fitted.

        Raises:
            DataError, LineageError: as `retriever`.
        """
        fitted = replace(fit_calibration(self.retriever(), splits=splits, seed=seed), encoder_hash=self.encoder.hash)
        if fitted.fitted:
            fitted.save(self.root / KB_CALIBRATION)
        return fitted

    @property
    def calibration(self) -> Calibration:
        """What scores are calibrated by: that of `calibrate`, else that of the stage `index`.

        Raises:
            DataError: it is damaged.
        """
        path = self._calibration_path
        if not path.is_file():
            return Calibration(reason=UNCALIBRATED)
        return Calibration.load(path, encoder_hash=self.encoder.hash)

    @property
    def _calibration_path(self) -> Path:
        own = self.root / KB_CALIBRATION
        return own if own.is_file() else self.root / INDEX / CALIBRATION_FILE

    def list(self) -> Sequence[Listed]:
        """All data sets, each with what is the matter with it."""
        return self.catalogue.list()

    def retriever(self, sets: Collection[str] | None = None) -> Retriever:
        """A retriever over data sets together, of their present state; kept until one of them changes.

        Args:
            sets: names; None is all that lie on this machine, and the pipeline's corpus once it is indexed.

        Raises:
            DataError: there is no pair to find, or a file is damaged.
            LineageError: vectors were made by another encoder, or images have another size than `corpus.image_size`.
        """
        return self._assembled(sets)[1]

    def _assembled(self, sets: Collection[str] | None) -> tuple[Sequence[DataSet], Retriever]:
        """Data sets, and the retriever over them."""
        names = tuple(sorted(self.catalogue.searchable() if sets is None else set(sets)))
        if not names:
            raise DataError(
                "kb: expected at least one data set to search, found none; run `rag-diffusion kb add NAME PATH`, or "
                "`dvc repro index`"
            )
        with self._lock:
            try:
                path = self._calibration_path
                calibrated = (path, path.stat().st_mtime_ns if path.is_file() else 0)
                state = (calibrated, *((name, self.catalogue.state(name)) for name in names))
            except ConfigError:
                if sets is None and set(names) - set(self.catalogue.searchable()):  # removed just now
                    return self._assembled(None)
                raise
            if names not in self._retrievers or self._retrievers[names][0] != state:
                self._retrievers.pop(names, None)
                parts = [part for name in names for part in self._open(name)]
                made = assembled(parts, self.config, self.encoder, calibration=self.calibration, embed=self._embed)
                self._retrievers[names] = state, parts, made
                self._opened = {name: one for name, one in self._opened.items() if name in self.catalogue.searchable()}
                while len(self._retrievers) > _KEPT:
                    self._retrievers.pop(next(iter(self._retrievers)))
            return self._retrievers[names][1:]

    @property
    def corpus(self) -> Pairs:
        """The pairs on this machine, of their present state; see `retriever`."""
        return self.retriever().corpus

    def search(self, query: Query) -> Results:
        """Best pairs of every text among all data sets: those on this machine, and what remotes send for each text.

        Remotes are asked by text, all at the same time; one that is slow, dead or lies is told in the results'
        `trouble`, and the search goes on without what it did not send. Where the query names data sets, these alone are
        searched: `catalogue.searchable()` are those on this machine.

        Raises:
            DataError, LineageError: as `retriever`.
            ExcludedPairError: a pair that is excluded is not there.
        """
        sets, sources = query.sets, query.where.sources
        remotes = [remote for remote in self.catalogue.remotes() if sets is None or remote.name in sets]
        local = None if sets is None else sorted(set(sets) - {remote.name for remote in remotes})
        searched = [remote for remote in remotes if not sources or remote.name in sources]
        received, trouble = ask_remotes(
            searched, query, self.catalogue.folders, self.encoder, self.config.corpus.image_size
        )
        with span("put together", "TOOL"):
            names = self.catalogue.searchable() if local is None else local
            parts, here = self._assembled(local) if names or not remotes else ((), None)
            retrievers, cache, calibration = list[Retriever | None](), LexicalCache(), self.calibration
            for row in range(len(query.texts)):
                remote_sets = [part for pairs in received if (part := pairs.data_set(row)) is not None]
                together = [*parts, *remote_sets]
                retrievers.append(
                    assembled(together, self.config, self.encoder, cache, calibration, self._embed)
                    if remote_sets
                    else here
                )
        return search_each(retrievers, replace(query, sets=None), tuple(remote.name for remote in searched), trouble)

    def _open(self, name: str) -> Collection[DataSet]:
        """The segments of a data set in its present state; of another one those are opened that were not there."""
        for attempt in range(_TRIES):
            state = self.catalogue.state(name)
            if self._opened.get(name, ((), None))[0] == state:
                return self._opened[name][1].values()
            try:
                manifest = self.catalogue.info(name)
                self.catalogue.check_present(manifest)
                opened = self._segments(manifest)
            except RagDiffusionError:
                if self.catalogue.state(name) == state or attempt + 1 == _TRIES:
                    raise
                continue  # replaced while it was opened
            self._opened[name] = (state, opened)
            return opened.values()
        raise AssertionError

    def _segments(self, manifest: Manifest) -> Mapping[object, DataSet]:
        """The segments of a data set by what they hold; those that are open already are so under their new names."""
        if manifest.name == CORPUS_NAME:
            return {CORPUS_NAME: DataSet.of_pipeline(self.root, manifest)}
        whole = self.catalogue.folders.generation(manifest.name, manifest.generation)
        known = self._opened[manifest.name][1] if manifest.name in self._opened else {}
        opened: dict[object, DataSet] = {}
        for segment in segments_of(manifest):
            content, folder = segment.content, whole / segment.folder
            present = known.get(content)
            opened[content] = (
                DataSet.open(folder, segment.manifest) if present is None else present.moved(folder, segment.manifest)
            )
        return opened
