from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.corpus.prompts import make_prompts
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.files import tree_hash
from rag_diffusion.retrieval.drawings import Drawings
from rag_diffusion.retrieval.leaks import check_exclusions
from rag_diffusion.retrieval.neighbor_table import PROMPTS_FILE, NeighborTable, write_neighbors
from rag_diffusion.retrieval.neighbors import pair_neighbors, prompt_neighbors
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.style import search_style
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt


def prompt(entity: str, style: str, text: str = "", number: int = 0) -> Prompt:
    return Prompt(
        prompt_id=f"test-{number:04d}",
        split="test",
        entity=entity,
        family=entity,
        title=entity.replace("-", " "),
        style=style,
        kind="caption",
        text=text or f"{entity.replace('-', ' ')}, {style} style",
        default=True,
        seed=number,
    )


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    pairs = [("red-square", "noto"), ("blue-ring", "openmoji"), ("black-moon", "twemoji")]
    return [prompt(*pair, number=number) for number, pair in enumerate(pairs)]


@pytest.fixture(scope="module")
def saved(retriever: Retriever, prompts: list[Prompt], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neighbors")
    write(retriever, prompts, folder)
    return folder


def write(retriever: Retriever, prompts: list[Prompt], folder: Path) -> None:
    split = retriever.corpus.table["split"].to_numpy()
    train, validation = split == "train", split == "validation"
    write_neighbors(
        folder,
        corpus_hash=retriever.corpus.hash,
        training=pair_neighbors(retriever, retriever.corpus, np.flatnonzero(train), train, top_k=8),
        validation=pair_neighbors(retriever, retriever.corpus, np.flatnonzero(validation), train | validation, top_k=8),
        prompts=prompt_neighbors(retriever, retriever.corpus, prompts, num_neighbors=3, num_style=2, seed=0),
    )


@pytest.fixture(scope="module")
def table(saved: Path, retriever: Retriever) -> NeighborTable:
    return NeighborTable.open(saved, retriever.corpus)


def test_training_neighbors_are_other_train_pairs_of_the_same_entity(table: NeighborTable, corpus: Corpus) -> None:
    column = corpus.table.set_index("pair_id")
    train = column.index[column["split"] == "train"]
    assert sorted(table.training) == sorted(train)
    same = []
    for pair_id, neighbors in table.training.items():
        assert len(set(neighbors)) == 8
        assert pair_id not in neighbors
        assert set(column.loc[neighbors, "split"]) == {"train"}
        assert column.loc[pair_id, "duplicate_group"] not in set(column.loc[neighbors, "duplicate_group"])
        same.append(np.mean(column.loc[neighbors[:3], "entity"] == column.loc[pair_id, "entity"]))
    assert np.mean(same) > 0.9


def test_validation_neighbors_come_from_train_and_validation(table: NeighborTable, corpus: Corpus) -> None:
    split = corpus.table.set_index("pair_id")["split"]
    assert set(split.loc[list(table.validation)]) == {"validation"}
    shown = {split.loc[one] for neighbors in table.validation.values() for one in neighbors}
    assert shown == {"train", "validation"}


def test_duplicates_of_the_target_are_excluded_too(table: NeighborTable) -> None:
    entry = table.prompts["test-0000"]  # noto and noto-v1 draw the red square alike
    assert entry.exclude == ("tiny/noto-v1/red-square", "tiny/noto/red-square")
    assert table.prompts["test-0001"].exclude == ("tiny/openmoji/blue-ring",)
    shown = {*entry.retrieved, *entry.oracle, *entry.random}
    assert not shown & set(entry.exclude)


def test_style_neighbors_show_another_family_in_the_prompt_s_style(
    table: NeighborTable, prompts: list[Prompt], corpus: Corpus
) -> None:
    column = corpus.table.set_index("pair_id")
    for one in prompts:
        entry = table.prompts[one.prompt_id]
        assert len(set(entry.style)) == 2
        assert set(column.loc[list(entry.style), "style"]) == {one.style}
        assert one.family not in set(column.loc[list(entry.style), "family"])
        assert not set(entry.style) & set(entry.exclude)


@pytest.mark.parametrize("leak", ["tiny/noto/red-square", "tiny/twemoji/red-square", "tiny/openmoji/blue-square"])
def test_a_style_neighbor_that_shows_the_target_or_another_style_is_a_leak(
    table: NeighborTable, prompts: list[Prompt], corpus: Corpus, leak: str
) -> None:
    """The target itself, its entity in another style, another entity in another style."""
    entry = replace(table.prompts["test-0000"], style=(leak,))
    leaky = replace(table, prompts=table.prompts | {"test-0000": entry})
    with pytest.raises(LineageError, match=r"test-0000 .*style"):
        check_exclusions(leaky, corpus, prompts)


def test_a_retriever_finds_other_things_in_a_style(retriever: Retriever, corpus: Corpus) -> None:
    column = corpus.table.set_index("pair_id")
    content = retriever.search(Query(["red square"], top_k=3)).hits[0]
    found = search_style(retriever, "red square", "openmoji", top_k=4, unlike=content.pair_ids)
    assert set(column.loc[list(found.pair_ids), "style"]) == {"openmoji"}
    assert not set(column.loc[list(found.pair_ids), "entity"]) & set(column.loc[list(content.pair_ids), "entity"])
    fewer = search_style(retriever, "red square", "openmoji", top_k=4, exclude=found.pair_ids[:1])
    assert found.pair_ids[0] not in fewer.pair_ids
    with pytest.raises(ValueError, match=r"style: expected one of the knowledge base, as .*, got 'baroque'"):
        search_style(retriever, "red square", "baroque", top_k=1)


def test_a_text_names_its_style_by_the_longest_words(retriever: Retriever) -> None:
    assert retriever.corpus.style_named_in("a red square in Noto-v1 style") == "noto-v1"
    assert retriever.corpus.style_named_in("a red square, Noto style") == "noto"
    assert retriever.corpus.style_named_in("a red square") is None


def test_oracle_shows_the_entity_and_random_another_family_in_another_style(
    table: NeighborTable, prompts: list[Prompt], corpus: Corpus
) -> None:
    column = corpus.table.set_index("pair_id")
    for one in prompts:
        entry = table.prompts[one.prompt_id]
        assert len(entry.retrieved) == len(entry.oracle) == len(set(entry.random)) == 3
        assert set(column.loc[list(entry.oracle), "entity"]) == {one.entity}
        assert one.family not in set(column.loc[list(entry.random), "family"])
        assert one.style not in set(column.loc[list(entry.random), "style"])


def test_oracle_keeps_the_retrievers_order(retriever: Retriever, prompts: list[Prompt]) -> None:
    entry = prompt_neighbors(retriever, retriever.corpus, prompts[:1], num_neighbors=5, seed=0)["test-0000"]
    ranking = retriever.search(Query([prompts[0].text], top_k=420, exclude=[entry.exclude])).hits[0]
    expected = [one for one in ranking.pair_ids if one.endswith("/red-square")][:5]
    assert list(entry.oracle) == expected
    assert entry.retrieved == ranking.pair_ids[:5]


def test_seed_decides_the_random_neighbors(retriever: Retriever, prompts: list[Prompt]) -> None:
    draws = [
        prompt_neighbors(retriever, retriever.corpus, prompts, num_neighbors=3, seed=seed)["test-0001"].random
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_same_input_same_bytes(saved: Path, retriever: Retriever, prompts: list[Prompt], folder: Path) -> None:
    write(retriever, prompts, folder)
    assert tree_hash(folder) == tree_hash(saved)


def test_prompt_of_a_users_own_pair_excludes_that_pair_alone(corpus: Corpus) -> None:
    own = replace(prompt("red-square", "twemoji"), prompt_id="tiny/twemoji/red-square")
    drawings = Drawings(corpus)
    assert drawings.of_prompt(own).tolist() == [corpus.row("tiny/twemoji/red-square")]
    alike = replace(own, prompt_id="tiny/noto/red-square")
    assert drawings.of_prompt(alike).tolist() == sorted(
        corpus.rows(["tiny/noto/red-square", "tiny/noto-v1/red-square"]).tolist()
    )


def test_clean_table_passes_the_leak_check(table: NeighborTable, corpus: Corpus, prompts: list[Prompt]) -> None:
    check_exclusions(table, corpus, prompts)
    check_exclusions(table, corpus, [])


@pytest.mark.parametrize("name", ["retrieved", "oracle", "random"])
@pytest.mark.parametrize("planted", ["tiny/noto/red-square", "tiny/noto-v1/red-square"])
def test_planted_target_or_duplicate_is_a_leak(
    table: NeighborTable, corpus: Corpus, prompts: list[Prompt], name: str, planted: str
) -> None:
    entry = table.prompts["test-0000"]
    leaking = replace(entry, **{name: (*getattr(entry, name)[:2], planted)})
    bad = replace(table, prompts=table.prompts | {"test-0000": leaking})
    with pytest.raises(LineageError, match=rf"test-0000 .*{name}.*{planted}.*a leak"):
        check_exclusions(bad, corpus, prompts)


def test_planted_self_duplicate_or_test_pair_in_training_is_a_leak(
    table: NeighborTable, corpus: Corpus, prompts: list[Prompt]
) -> None:
    # green and orange squares are train entities; noto and noto-v1 draw them alike
    train = corpus.table.loc[corpus.table["split"] == "train", "pair_id"].tolist()
    pair_id = next(name for name in train if name.startswith("tiny/noto/") and "square" in name)
    test_pair = corpus.table.loc[corpus.table["split"] == "test", "pair_id"].iloc[0]
    for planted in (pair_id, pair_id.replace("noto/", "noto-v1/"), test_pair):
        bad = replace(table, training=table.training | {pair_id: [planted]})
        with pytest.raises(LineageError, match=rf"pair {pair_id}: .*{planted}.*a leak"):
            check_exclusions(bad, corpus, prompts)


def test_short_exclusion_list_or_missing_prompt_is_refused(
    table: NeighborTable, corpus: Corpus, prompts: list[Prompt]
) -> None:
    entry = table.prompts["test-0000"]
    short = replace(table, prompts=table.prompts | {"test-0000": replace(entry, exclude=())})
    with pytest.raises(LineageError, match=r"lacks.*tiny/noto"):
        check_exclusions(short, corpus, prompts)
    with pytest.raises(LineageError, match=r"expected an entry of prompt test-0009"):
        check_exclusions(table, corpus, [prompt("red-square", "noto", number=9)])


def test_random_neighbor_of_the_same_style_is_refused(
    table: NeighborTable, corpus: Corpus, prompts: list[Prompt]
) -> None:
    entry = replace(table.prompts["test-0000"], random=("tiny/noto/blue-ring",))
    bad = replace(table, prompts=table.prompts | {"test-0000": entry})
    with pytest.raises(LineageError, match=r"other families in other styles"):
        check_exclusions(bad, corpus, prompts)


def test_table_of_another_corpus_or_damaged_is_refused(
    saved: Path, corpus: Corpus, tiny_corpus: Corpus, folder: Path
) -> None:
    with pytest.raises(LineageError, match=f"{tiny_corpus.hash}.*{corpus.hash}.*`neighbors`"):
        NeighborTable.open(saved, tiny_corpus)
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / PROMPTS_FILE).write_text("{")
    with pytest.raises(DataError, match=r"run the stage `neighbors` again"):
        NeighborTable.open(folder, corpus)


def test_real_prompts_of_the_tiny_corpus_are_all_served(retriever: Retriever, tiny_corpus: Corpus) -> None:
    made = make_prompts(tiny_corpus, "test")
    found = prompt_neighbors(retriever, retriever.corpus, made, num_neighbors=3, seed=0)
    assert set(found) == {one.prompt_id for one in made}
    assert len(found) == 36
