"""Style neighbors where there are no labels: by words, by example pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.selection import Selection, Thresholds
from rag_diffusion.retrieval.style import search_style, style_phrase, untrained_styles, without_manner
from rag_diffusion.store.corpus import Corpus, write_corpus
from tests.tiny import tiny_pairs
from tests.unit.retrieval.made import make_retriever


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("a fox in the style of Hokusai", "Hokusai"),
        ("a fox, in the manner of an old master, at night", "old master"),
        ("a fox in pixel art style", "pixel art"),
        ("fox, watercolour style", "watercolour"),
        ("a fox with the look of a woodcut", "woodcut"),
        ("a fox the way Klimt would do it", "Klimt"),
        ("two of them: fox, as Noto paints them", "Noto"),
        ("a stylish fox", None),
        ("", None),
    ],
)
def test_what_a_text_says_of_the_manner(text: str, phrase: str | None) -> None:
    assert style_phrase(text) == phrase


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a fox in the style of My Icons", "a fox"),
        ("a fox, in the style of my icons, at night", "a fox, at night"),
        ("a fox in My Icons style", "a fox"),
        ("a fox, My Icons style", "a fox"),
        ("the letter a in the style of My Icons", "the letter a"),
        ("a fox with the look of My Icons", "a fox"),
        ("a fox the way My Icons would do it", "a fox"),
        ("in the style of My Icons", "in the style of My Icons"),
        ("my icons of a fox in the style of Noto", "my icons of a fox in the style of Noto"),
    ],
)
def test_the_name_of_a_style_is_left_out_of_a_text(text: str, left: str) -> None:
    assert without_manner(text, {"my icons", "mine"}) == left


def test_the_name_of_a_style_that_was_never_trained_on_hides_no_hit(tmp_path: Path) -> None:
    """What `align` never saw, one's own set, is no part of what is asked for; the name of a trained style stays."""
    folder = tmp_path / "data" / "corpus"
    pairs = [replace(pair, split="test") if pair.style == "noto" else pair for pair in tiny_pairs()]
    facts = {"rejected": [], "kind": "folder", "style_words": {"noto": "My Icons", "twemoji": "Twemoji"}, "kinds": {}}
    write_corpus(folder, pairs, image_size=64, facts=facts)
    retriever = make_retriever(Corpus.open(folder))
    assert untrained_styles(retriever.corpus) == {"noto", "my icons"}

    def found(text: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
        (hits,) = retriever.search(Query([text], top_k=5)).hits
        return hits.pair_ids, hits.scores

    assert found("a red square in the style of My Icons") == found("a red square")
    assert found("a red square in the style of Twemoji") != found("a red square")
    text = "a red square in the style of My Icons"
    (with_vectors,) = retriever.search(Query([text], top_k=5, vectors=retriever.embed([text]))).hits
    assert with_vectors.pair_ids == found(text)[0], "vectors of the whole text are not used then"


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """Every pair has the style `default`; captions name the manner."""
    folder: Path = tmp_path_factory.mktemp("unlabelled") / "data" / "corpus"
    facts = {"rejected": [], "kind": "folder", "style_words": {}, "kinds": {}}
    write_corpus(folder, [replace(pair, style="default") for pair in tiny_pairs()], image_size=64, facts=facts)
    return make_retriever(Corpus.open(folder))


def test_without_labels_the_words_of_the_manner_find_other_things(unlabelled: Retriever) -> None:
    results = unlabelled.search(Query(["a red square in openmoji style"], top_k=2, style_top_k=3))
    pairs = unlabelled.corpus
    content, style = results.hits[0].pair_ids, results.style[0].pair_ids
    assert len(style) == 3
    assert all("openmoji" in pairs.pair(name).caption.lower() for name in style)
    assert not {pairs.pair(name).entity for name in style} & {pairs.pair(name).entity for name in content}
    by_name = search_style(unlabelled, "a red square", "openmoji", top_k=3)
    assert all("openmoji" in pairs.pair(name).caption.lower() for name in by_name.pair_ids)
    with pytest.raises(ValueError, match="style: expected a style, or a text that names one"):
        search_style(unlabelled, "a red square", top_k=3)


def test_example_pictures_find_what_looks_like_them(unlabelled: Retriever) -> None:
    pairs = unlabelled.corpus
    rows = np.array([3, 60])
    examples = np.asarray(unlabelled.vectors.image[rows])
    hits = search_style(unlabelled, "a red square", top_k=5, examples=examples, exclude=pairs.ids(rows))
    mean = examples.mean(axis=0)
    alike = unlabelled.vectors.image[np.arange(len(pairs))] @ (mean / np.linalg.norm(mean))
    alike[rows] = -1
    assert hits.pair_ids == tuple(pairs.ids(np.argsort(-alike, kind="stable")[:5]))
    assert list(hits.parts["image_to_image"]) == list(hits.scores)


def test_thresholds_have_no_say_in_style_neighbors(unlabelled: Retriever) -> None:
    strict = unlabelled.weighted(unlabelled.method.weights)
    selection = Selection(kind="threshold", max_neighbors=9, thresholds=Thresholds(score=2.0))
    strict.method = replace(strict.method, selection=selection)
    results = strict.search(Query(["a red square in openmoji style"], top_k=2, style_top_k=3))
    assert results.hits[0].pair_ids == ()
    assert len(results.style[0].pair_ids) == 3
