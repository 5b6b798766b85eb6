"""A data set that can be searched: its pairs, vectors, indexes and word counts, read where they lie.

Shapes: n pairs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rag_diffusion.errors import LineageError
from rag_diffusion.layout import CORPUS, INDEX, VECTORS
from rag_diffusion.retrieval.ann import Nearest
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.index_shards import open_shards, vectors_folder
from rag_diffusion.store.manifest import Manifest, rebuild_hint
from rag_diffusion.store.pair_set import PairSet, check_rows
from rag_diffusion.store.stamps import check_stamp
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors


@dataclass(frozen=True, kw_only=True)
class DataSet(PairSet):
    """An opened data set; nothing of it changes while it is open.

    Attributes:
        vectors: (n, D) of images and captions.
        indexes: nearest neighbors over them, `text_to_text` and `text_to_image`.
        counts: of the words of its captions.
    """

    vectors: Vectors
    indexes: Mapping[str, Nearest]
    counts: TermCounts

    @classmethod
    def open(cls, folder: Path, manifest: Manifest) -> DataSet:
        """Open one generation of a data set.

        Args:
            folder: of the generation.
            manifest: names it.

        Raises:
            DataError: a file is missing, cut or damaged.
        """
        pairs = PairSet.of_generation(folder, manifest)
        return cls._searchable(pairs, folder, folder, str(manifest.recall["factory"]))

    def moved(self, folder: Path, manifest: Manifest) -> DataSet:
        """This one, whose files lie in another `folder` now, under another `manifest`; nothing is read again.

        Raises:
            DataError: a file is missing or cut.
        """
        pairs = PairSet.beside(folder, manifest, self.columns)
        return DataSet(**vars(pairs), vectors=self.vectors, indexes=self.indexes, counts=self.counts)

    @classmethod
    def of_pipeline(cls, root: Path, manifest: Manifest) -> DataSet:
        """Open the pipeline's own corpus where `ingest`, `embed` and `index` left it.

        Args:
            root: the project.
            manifest: of `pipeline_corpus.corpus_manifest`.

        Raises:
            DataError: an artifact is missing or damaged.
            LineageError: an artifact was made from another corpus, or with another encoder than the vectors.
        """
        check_stamp(root / VECTORS, manifest.hash, stage="embed")
        stamp = check_stamp(root / INDEX, manifest.hash, stage="index")
        if stamp.get("encoder_hash") != manifest.encoder_hash:
            raise LineageError(
                f"{root / INDEX}: expected an index of encoder {manifest.encoder_hash}, got one of encoder "
                f"{stamp.get('encoder_hash')}; {rebuild_hint(manifest.name)}"
            )
        pairs = PairSet.of_corpus(root / CORPUS, manifest)
        return cls._searchable(pairs, vectors_folder(root, stamp), root / INDEX, str(stamp.get("factory")))

    @classmethod
    def _searchable(cls, pairs: PairSet, folder: Path, index: Path, factory: str) -> DataSet:
        """Pairs with the vectors of a folder, and the index of another or the same."""
        remedy, rows = rebuild_hint(pairs.name), len(pairs)
        vectors = Vectors.open(folder / VECTORS_FILE, rows, remedy=remedy)
        counts = TermCounts.load(index, remedy=remedy)
        check_rows(index, len(counts.lengths), rows, remedy)
        return cls(**vars(pairs), vectors=vectors, indexes=open_shards(index, vectors, factory, remedy), counts=counts)
