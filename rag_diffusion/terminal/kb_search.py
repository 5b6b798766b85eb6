"""`rag-diffusion kb search`: hits of a text as a table, and as one HTML file with thumbnails."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rag_diffusion.errors import ConfigError
from rag_diffusion.files import atomic_write
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.retrieval.explain import Explained, Explanation, explain
from rag_diffusion.retrieval.query import Query
from rag_diffusion.store.filters import Filter
from rag_diffusion.terminal.printable import printable

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{query}</title><style>
body {{ font: 14px sans-serif; margin: 2em; }} table {{ border-collapse: collapse; }}
td, th {{ padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: middle; }}
img {{ width: 64px; height: 64px; image-rendering: pixelated; }} .number {{ text-align: right; }}
small {{ color: #666; }}
</style></head><body>
<h1><bdi>{query}</bdi></h1>
<p>Words with their idf: {words}. Not in any caption: {unknown}. The score is the {fusion} of the parts.</p>
{trouble}<table><tr><th></th><th>image</th><th>pair and caption</th><th>score</th>{names}<th>shared words</th></tr>
{rows}
</table></body></html>
"""
_FUSIONS = {"sum": "sum", "product": "product", "reciprocal_rank": "sum (by reciprocal ranks)"}


def search_text(
    root: Path,
    query: str,
    *,
    top_k: int,
    page: Path | None,
    where: Filter | None = None,
    exclude: Sequence[str] = (),
) -> str:
    """The hits of a text as text; with a page also why each of them is one.

    Args:
        root: project root, with data sets or the stages run up to `index`.
        query: what to look for.
        top_k: hits asked for.
        page: HTML file to write; None writes none.
        where: which pairs may come.
        exclude: pair ids that must not.

    Returns:
        Lines for a terminal.

    Raises:
        ConfigError: the query is empty, `top_k` is below one, or the page's folder is missing.
        DataError, LineageError: as `KnowledgeBase.search`.
    """
    if not query.strip():
        raise ConfigError("kb search: expected a text to look for, got an empty one; name what the image shows")
    if top_k < 1:
        raise ConfigError(f"kb search --top-k: expected at least 1, got {top_k}")
    if page is not None and not page.resolve().parent.is_dir():
        raise ConfigError(f"kb search --explain: expected a file in a folder that exists, got {page}; make the folder")
    request = Query([query], top_k=top_k, where=where or Filter(), exclude=[exclude] if exclude else None)
    results = KnowledgeBase.open(root).search(request)
    (retriever,), (hits,) = results.retrievers, results.hits
    trouble = [f"trouble   {printable(text)}" for text in results.trouble]
    if retriever is None:
        return "\n".join(["no hits: there is not one pair", *trouble])
    explanation = explain(retriever, query, hits)
    weak = [explanation.weak] if explanation.weak else []
    trouble += [f"weak      {printable(text)}" for text in weak]
    if page is None:
        return "\n".join([as_text(explanation), *trouble])
    pictures = {hit.pair_id: retriever.corpus.pair(hit.pair_id).image for hit in explanation.hits}
    atomic_write(page, as_html(explanation, pictures, [*results.trouble, *weak]).encode())
    return "\n".join([as_text(explanation), "", *_reasons(explanation), *trouble, f"page      {page.resolve()}"])


def as_text(explanation: Explanation) -> str:
    """One line a hit of `explanation`: score, pair id, caption, and the similarities themselves."""
    if not explanation.hits:
        return "no hits: nothing passes the filters, the exclusions and retrieval.thresholds"
    width = max(len(hit.pair_id) for hit in explanation.hits)
    return "\n".join(
        f"{hit.score:.4f}  {hit.pair_id:<{width}}  {printable(hit.caption)}"
        + (f"  ({_similarities(hit)})" if hit.raw else "")
        for hit in explanation.hits
    )


def _similarities(hit: Explained) -> str:
    probability = [] if hit.probability is None else [f"shows it with probability {hit.probability:.2f}"]
    return ", ".join([*(f"{name} {value:.2f}" for name, value in hit.raw.items()), *probability])


def as_html(explanation: Explanation, pictures: Mapping[str, bytes], trouble: Sequence[str] = ()) -> str:
    """A page that needs no other file; every text is escaped.

    Args:
        explanation: of the hits.
        pictures: PNG bytes by pair id.
        trouble: at remotes, in words.
    """
    names = list(explanation.hits[0].parts) if explanation.hits else []
    return _PAGE.format(
        query=_html(explanation.query),
        words=_html(_listed(explanation.words)),
        unknown=_html(", ".join(explanation.unknown) or "none"),
        fusion=_FUSIONS[explanation.fusion],
        trouble="".join(f"<p><b>{_html(text)}</b></p>\n" for text in trouble),
        names="".join(f'<th class="number">{escape(name)}</th>' for name in names),
        rows="\n".join(_row(rank, hit, pictures[hit.pair_id]) for rank, hit in enumerate(explanation.hits, start=1)),
    )


def _reasons(explanation: Explanation) -> list[str]:
    unknown = printable(", ".join(explanation.unknown)) or "none"
    lines = [f"words     {_listed(explanation.words)}; in no caption: {unknown}"]
    for hit in explanation.hits:
        parts = ", ".join(f"{name} {value:.4f}" for name, value in hit.parts.items())
        lines.append(f"{hit.pair_id}: {parts}; shares {_listed(hit.words)}")
    return lines


def _row(rank: int, hit: Explained, picture: bytes) -> str:
    cells = "".join(f'<td class="number">{value:.4f}</td>' for value in hit.parts.values())
    source = base64.b64encode(picture).decode()
    score = f"{hit.score:.4f}<br><small>{_html(_similarities(hit))}</small>"
    return (
        f'<tr><td>{rank}</td><td><img alt="" src="data:image/png;base64,{source}"></td>'
        f"<td><b>{_html(hit.pair_id)}</b><br><bdi>{_html(hit.caption)}</bdi><br>"
        f"<small>{_html(hit.licence)}, {_html(hit.attribution)}</small></td>"
        f'<td class="number">{score}</td>{cells}<td>{_html(_listed(hit.words))}</td></tr>'
    )


def _html(text: str) -> str:
    return escape(printable(text))


def _listed(words: Mapping[str, float]) -> str:
    return printable(", ".join(f"{word} {idf:.2f}" for word, idf in words.items())) or "none"
