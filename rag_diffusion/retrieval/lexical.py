"""BM25 over captions, with rank_bm25's own scores as one sparse matrix product.

rank_bm25 scans every document in Python for every query. Its score is linear in the query's term
counts, so the table weight[document, term] = idf(term) * tf * (k1 + 1) / (tf + k1 * (1 - b + b *
length / mean length)) gives the same numbers for thousands of queries at once; idf, lengths and
counts are taken from rank_bm25 itself.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from rag_diffusion.errors import DataError

TERMS_FILE = "bm25.json"
TABLE_FILE = "bm25.safetensors"
WORD = re.compile(r"[^\W_]+")
ARTICLES = ("a", "an", "is", "it", "its", "that", "the", "their", "them", "this")
PREPOSITIONS = (
    "and",
    "as",
    "at",
    "by",
    "for",
    "from",
    "in",
    "into",
    "of",
    "on",
    "or",
    "to",
    "with",
)
STOP_WORDS = frozenset({*ARTICLES, *PREPOSITIONS})


def tokenize(text: str) -> list[str]:
    """Words of a text: lower case, without accents, without function words, plural -s removed.

    A text of function words alone keeps them, so that no document is empty without need.
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    words = WORD.findall("".join(char for char in plain if not unicodedata.combining(char)))
    return [_singular(word) for word in words if word not in STOP_WORDS] or words


def _singular(word: str) -> str:
    """Harman's S stemmer (1991): three rules, the first that matches."""
    if word.endswith("ies") and not word.endswith(("eies", "aies")) and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")) and len(word) > 3:
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and len(word) > 3:
        return word[:-1]
    return word


class LexicalIndex:
    """BM25 scores of all documents for many queries.

    Args:
        terms: the vocabulary, sorted.
        table: (documents, terms) sparse weights.
    """

    def __init__(self, terms: Sequence[str], table: sparse.csr_array) -> None:
        self._columns = {term: column for column, term in enumerate(terms)}
        self._table = table

    def __len__(self) -> int:
        return int(self._table.shape[0])

    @classmethod
    def build(cls, texts: Sequence[str]) -> LexicalIndex:
        """Index texts with rank_bm25's BM25Okapi at its default parameters.

        Raises:
            DataError: there are no words at all.
        """
        documents = [tokenize(text) for text in texts]
        terms = sorted({term for document in documents for term in document})
        if not terms:
            raise DataError(f"BM25: expected captions with words, got {len(texts)} without any; check the captions")
        model = BM25Okapi(documents)
        columns = {term: column for column, term in enumerate(terms)}
        rows, places, counts = [], [], []
        for row, frequencies in enumerate(model.doc_freqs):
            for term in sorted(frequencies):
                rows.append(row)
                places.append(columns[term])
                counts.append(frequencies[term])
        tf = np.asarray(counts, dtype=np.float64)
        idf = np.asarray([model.idf[term] for term in terms])[places]
        length = np.asarray(model.doc_len, dtype=np.float64)[rows] / model.avgdl
        weights = idf * (tf * (model.k1 + 1) / (tf + model.k1 * (1 - model.b + model.b * length)))
        table = sparse.csr_array((weights, (rows, places)), shape=(len(documents), len(terms)))
        return cls(terms, table)

    def scores(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """BM25 as rank_bm25's `get_scores` gives it, of all documents: (queries, documents)."""
        places = [
            (row, self._columns[term])
            for row, query in enumerate(queries)
            for term in tokenize(query)
            if term in self._columns
        ]
        rows, columns = zip(*places, strict=True) if places else ((), ())
        shape = (len(queries), len(self._columns))
        counts = sparse.csr_array((np.ones(len(places)), (rows, columns)), shape=shape)  # equal places add up
        return np.asarray((counts @ self._table.T).toarray(), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write vocabulary and table into an existing folder."""
        self._table.sort_indices()
        arrays = {
            "weights": self._table.data,
            "columns": self._table.indices.astype(np.int64),
            "starts": self._table.indptr.astype(np.int64),
        }
        save_file(arrays, folder / TABLE_FILE)
        terms = json.dumps({"terms": list(self._columns)}, ensure_ascii=False)
        (folder / TERMS_FILE).write_text(terms + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LexicalIndex:
        """Read what `save` wrote.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            terms = json.loads((folder / TERMS_FILE).read_text(encoding="utf-8"))["terms"]
            arrays = load_file(folder / TABLE_FILE)
            shape = (len(arrays["starts"]) - 1, len(terms))
            table = sparse.csr_array((arrays["weights"], arrays["columns"], arrays["starts"]), shape=shape)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise DataError(
                f"{folder}: expected a BM25 table ({TERMS_FILE}, {TABLE_FILE}), got {error}; run "
                f"the stage `index` again"
            ) from None
        return cls(terms, table)
