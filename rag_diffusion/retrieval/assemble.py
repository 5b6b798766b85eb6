"""One retriever over data sets together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Doubles, Floats, Ints
from rag_diffusion.config import Config
from rag_diffusion.errors import DataError
from rag_diffusion.layout import CORPUS, ENCODER, INDEX
from rag_diffusion.retrieval.blocklist import Blocklist
from rag_diffusion.retrieval.calibration import CALIBRATION_FILE, Calibration
from rag_diffusion.retrieval.data_set import DataSet
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.encoder_folder import PairEncoder
from rag_diffusion.retrieval.lexical import Lexical, LexicalIndex, NoWords, RankBm25
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.postings import RowFilter
from rag_diffusion.retrieval.query_vectors import QueryVectors
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.stacked import StackedIndex, StackedVectors
from rag_diffusion.retrieval.weighting import LexicalName
from rag_diffusion.store.pairs import Pairs, in_order_of_ids
from rag_diffusion.store.pipeline_corpus import corpus_manifest


class LexicalCache:
    """Room for the lexical indexes of one retriever out of many: those of another one take their place."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: object = None
        self._held: Mapping[str, Lexical] = {}

    def get(self, owner: object, make: Callable[[], Mapping[str, Lexical]]) -> Mapping[str, Lexical]:
        """The indexes of the retriever `owner`, by similarity; `make` makes them where they are not here."""
        with self._lock:
            if self._owner is not owner:
                self._held = {}  # before the new ones take memory
                self._held, self._owner = make(), owner
            return self._held


class LazyLexical:
    """A lexical index that is made when it is used; see `Lexical`.

    Args:
        name: the similarity.
        total: texts.
        all_of: gives the indexes of its retriever.
    """

    def __init__(self, name: str, total: int, load: Callable[[], Mapping[str, Lexical]]) -> None:
        self._name, self._total, self._load = name, total, load

    def __len__(self) -> int:
        return self._total

    def top(self, query: str, k: int, row_filter: RowFilter | None = None) -> tuple[Ints, Doubles]:
        """See `Lexical.top`.

        Args:
            query: a text.
            k: texts wanted.
            row_filter: which of some texts may come; None lets all come.
        """
        return self._load()[self._name].top(query, k, row_filter)

    def at(self, query: str, rows: NDArray[np.integer]) -> Doubles:
        """See `Lexical.at` for `query` and `rows`."""
        return self._load()[self._name].at(query, rows)

    def explain(self, query: str) -> dict[str, float]:
        """See `Lexical.explain` for `query`."""
        return self._load()[self._name].explain(query)


def assembled(
    parts: Sequence[DataSet],
    config: Config,
    encoder: PairEncoder,
    cache: LexicalCache | None = None,
    calibration: Calibration | None = None,
    embed: Callable[[Sequence[str]], Floats] | None = None,
) -> Retriever:
    """One retriever, as `retrieval` and `safety` in params.yaml say.

    Args:
        parts: at least one data set, with vectors of the encoder.
        config: of params.yaml.
        encoder: makes vectors of queries.
        cache: where its lexical indexes are while it is used; None makes them now, for good.
        calibration: of scores; None calibrates nothing.
        embed: Q texts to (Q, D) unit vectors, what `QueryVectors` keeps of the encoder; None keeps those of this
            retriever alone.

    Raises:
        LineageError: pair ids of two data sets overlap.
    """
    parts = in_order_of_ids(parts)
    method = Method.from_config(config.retrieval)
    names: tuple[LexicalName, ...] = ("bm25", "tf_idf") if "tf_idf" in method.similarities else ("bm25",)
    make = partial(_lexical, parts, names, config.retrieval.lexical)
    lexical = make() if cache is None else _lazy(cache, parts, names, make)
    return Retriever(
        Pairs(parts, config.corpus.image_size),
        StackedVectors.from_parts(parts),
        lexical,
        {name: StackedIndex([part.indexes[name] for part in parts]) for name in ("text_to_text", "text_to_image")},
        weights=method,
        embed=embed or QueryVectors(encoder.texts),
        embed_images=encoder.images,
        calibration=calibration,
        blocklist=Blocklist.from_config(config.safety),
    )


def pipeline_retriever(root: Path, config: Config) -> Retriever:
    """The retriever over the corpus of the project at `root` alone, as `config` says; the encoder is loaded at a query.

    Raises:
        DataError: an artifact is missing or damaged.
        LineageError: an artifact was made from another corpus or with another encoder.
    """
    manifest = corpus_manifest(root)
    if manifest is None:
        raise DataError(f"{root / CORPUS}: expected a corpus, found none; run the stage `ingest`")
    encoder = Encoder(root / ENCODER, device=config.device)
    part = DataSet.of_pipeline(root, manifest)
    manifest.check_encoder(encoder.hash)
    calibration = Calibration.load(root / INDEX / CALIBRATION_FILE, encoder_hash=encoder.hash)
    return assembled([part], config, encoder, calibration=calibration)


def _lexical(parts: Sequence[DataSet], names: Sequence[LexicalName], engine: str) -> dict[str, Lexical]:
    counts = [part.counts for part in parts]
    if not any(len(own.terms) for own in counts):
        return {name: NoWords(sum(map(len, parts))) for name in names}
    indexes: dict[str, Lexical] = {}
    for name in names:
        by_package = name == "bm25" and engine == "rank_bm25"
        indexes[name] = RankBm25(_captions(parts)) if by_package else LexicalIndex(counts, name)
    return indexes


def _captions(parts: Sequence[DataSet]) -> Iterator[str]:
    for part in parts:
        yield from part.columns.table.column("caption").to_pylist()


def _lazy(
    cache: LexicalCache, parts: Sequence[DataSet], names: Sequence[str], make: Callable[[], Mapping[str, Lexical]]
) -> dict[str, Lexical]:
    total, owner = sum(map(len, parts)), object()
    return {name: LazyLexical(name, total, partial(cache.get, owner, make)) for name in names}
