"""What the page does, without a browser: over a tiny generator and a small knowledge base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.layout import BASE
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.page import cards
from rag_diffusion.page.form import as_colours
from rag_diffusion.page.handlers import ALL, Handlers
from rag_diffusion.page.session import KEPT, Session
from rag_diffusion.page.words import as_box, lineage_of
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.studio import Picture, draw
from rag_diffusion.serving.drawing_queue import Preview
from tests.unit.page.opened import PROMPT, form, handlers_of, make_project, own_pictures
from tests.unit.sampling.cascades import small_stage


@pytest.fixture
def bare(tmp_path: Path, project_root: Path, tiny_generator: Generator) -> Iterator[Handlers]:
    """Of a clone before `make demo`: weights, and nothing to retrieve."""
    with handlers_of(make_project(tmp_path, project_root, tiny_generator, with_sets=False)) as found:
        yield found


def drawn(handlers: Handlers, session: Session, **changed: object) -> list[str]:
    return [view.figures for view in handlers.draw(session, form(**changed))]


def test_a_picture_grows_step_by_step_into_the_one_that_the_studio_draws(handlers: Handlers) -> None:
    options = form().options
    events = list(handlers.drawer.stream(PROMPT, 7, ["none", "retrieved"], (), 2, options))

    assert [type(event) for event in events] == [Preview, Preview, Picture] * 2
    previews = [event for event in events if isinstance(event, Preview)]
    assert [(preview.step, preview.num_steps) for preview in previews] == [(1, 2), (2, 2)] * 2
    pipeline = handlers.drawer.pipeline
    alone = next(draw(pipeline, [PROMPT], [7], variants=["retrieved"], num_neighbors=2, options=options))
    assert isinstance(events[-1], Picture)
    assert np.abs(events[-1].pixels.astype(int) - alone.pixels).max() <= 1
    assert np.abs(previews[-1].pixels.astype(int) - alone.pixels).max() <= 1  # DDIM's last step is the estimate
    assert not np.array_equal(previews[2].pixels, previews[3].pixels)


def test_what_nobody_waits_for_is_computed_no_further(handlers: Handlers) -> None:
    calls = []
    hook = handlers.drawer.pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
    growing = handlers.drawer.stream(PROMPT, 7, ["none"], (), 0, form(num_inference_steps=500).options)
    next(growing)
    growing.close()
    list(handlers.drawer.stream(PROMPT, 7, ["none"], (), 0, form(num_inference_steps=1).options))  # comes after it
    hook.remove()

    assert 0 < len(calls) < 50


def test_a_cascade_is_drawn_to_the_size_that_is_chosen(
    tmp_path: Path, project_root: Path, tiny_generator: Generator, text_encoder: TextEncoder
) -> None:
    base = make_project(tmp_path, project_root, tiny_generator, with_sets=False)
    stage = CascadeStage(model=small_stage(text_encoder), settings=StageSettings(num_inference_steps=3))
    RetrievalPipeline(tiny_generator, stages=[stage]).save_pretrained(tmp_path / BASE)
    with handlers_of(base) as handlers:
        assert handlers.sizes() == [("64 × 64", 1), ("128 × 128", 2)]
        session = Session()
        told = drawn(handlers, session, variant="none")
        assert [f"stage 2, step {step} of 2" in told[1 + step] for step in (1, 2)] == [True] * 2, "as params.yaml says"
        drawn(handlers, session, variant="none", stages=1)

        assert [entry.picture.pixels.shape for entry in session.entries] == [(128, 128, 3), (64, 64, 3)]
        assert ["128 × 128" in " ".join(lineage_of(entry)) for entry in session.entries] == [True, False]


def test_a_drawing_stands_with_its_neighbors_their_licences_and_shares(handlers: Handlers) -> None:
    session = Session()
    views = list(handlers.draw(session, form()))

    assert "step 1 of 2" in views[0].figures
    entry = session.last
    assert entry is not None
    sources = entry.picture.provenance.neighbors
    assert len(sources) == len(session.neighbors) == 2
    cells = " ".join(views[-1].neighbors.split())
    for source in sources:
        assert source.caption in cells
        assert f"{source.licence}, {source.attribution}" in cells
        assert f"score {source.score:.2f} · {round(100 * source.attention)} %" in cells
    assert "Save PNG with provenance" in views[-1].figures
    told = " ".join(lineage_of(entry))
    assert "from the noise of seed 7, retrieved neighbors" in told
    assert "2 steps of DDIMScheduler, guidance alternate (text 3, neighbors 6), 64 × 64 pixels" in told
    assert "noto (60 pairs, " in told
    assert "Credit: noto (CC0-1.0); twemoji (CC0-1.0)." in told


def test_a_picture_in_colours_by_hand_has_no_others(handlers: Handlers) -> None:
    session = Session()
    drawn(handlers, session, num_inference_steps=4, colours=as_colours("#dd2e44, #FFFFFF"))
    entry = session.last

    assert entry is not None
    flat = entry.picture.pixels.reshape(-1, 3).astype(int)
    mixed = (flat - [0xDD, 0x2E, 0x44]) @ np.linalg.pinv([[0xFF - 0xDD, 0xFF - 0x2E, 0xFF - 0x44]])
    on_line = [0xDD, 0x2E, 0x44] + mixed * [0xFF - 0xDD, 0xFF - 0x2E, 0xFF - 0x44]
    assert np.abs(flat - on_line).max() <= 3  # these two, and what lies between them at outlines
    assert "In the colours #dd2e44, #ffffff alone." in " ".join(lineage_of(entry))


def test_a_picture_that_begins_with_its_first_neighbor_says_so(handlers: Handlers) -> None:
    session = Session()
    drawn(handlers, session, num_inference_steps=4, begin_strength=0.5)
    entry = session.last

    assert entry is not None
    assert "Begun with its first neighbor, noised 50 % of the way." in lineage_of(entry)
    options = form(num_inference_steps=4, begin_strength=0.5).options
    steps = [
        one for one in handlers.drawer.stream(PROMPT, 7, ["retrieved"], (), 2, options) if isinstance(one, Preview)
    ]
    assert [(preview.step, preview.num_steps) for preview in steps] == [(1, 2), (2, 2)]


def test_what_is_no_colour_is_told_and_no_file_is_read(tmp_path: Path) -> None:
    assert as_colours("") == ()
    for text in ("#dd2e4", "red", str(tmp_path / "logo.png")):
        with pytest.raises(ConfigError, match="colours: expected them as #dd2e44"):
            as_colours(f"#ffffff {text}")


def test_comparing_draws_without_and_with_from_the_same_noise(handlers: Handlers) -> None:
    session = Session()
    drawn(handlers, session, seed=None)
    list(handlers.draw(session, form(seed=None), compare=True))

    first, *both = session.entries
    assert [entry.picture.variant for entry in both] == ["none", "retrieved"]
    assert {entry.picture.provenance.seed for entry in session.entries} == {first.picture.provenance.seed}
    assert np.abs(first.picture.pixels.astype(int) - both[1].picture.pixels).max() <= 1
    assert not np.array_equal(both[0].picture.pixels, both[1].picture.pixels)
    assert session.shown == (2, 3)


def test_a_touched_neighbor_shows_its_heat_map_and_may_weigh_more_on_the_same_noise(handlers: Handlers) -> None:
    session = Session()
    drawn(handlers, session)
    before = session.last
    plain = handlers.view(session).figures
    neighbor = handlers.touch(session, 1)

    assert neighbor is not None
    assert before is not None
    view = handlers.view(session)
    assert f"where it looked at “{neighbor.caption}”" in view.figures
    assert view.figures != plain
    assert view.neighbors.count('aria-pressed="true"') == 1
    handlers.change(session, weight=3.0)
    assert "weight 3" in handlers.view(session).neighbors
    list(handlers.draw_again(session, form(seed=None)))
    after = session.last
    assert after is not None
    assert after.picture.provenance.seed == 7
    weights = {source.pair_id: source.weight for source in after.picture.provenance.neighbors}
    assert weights == {one.name: 3.0 if one.name == neighbor.name else 1.0 for one in before.neighbors}
    assert (after.share(neighbor.name) or 0) > (before.share(neighbor.name) or 0)
    assert after.lineage == f"Drawn again from picture 1, the same noise; “{neighbor.caption}” weight 3"
    assert handlers.touch(session, 9) is None


def test_a_masked_neighbor_acts_in_its_half_and_a_negative_one_is_told(handlers: Handlers) -> None:
    session = Session()
    drawn(handlers, session)
    masked, other = session.neighbors
    handlers.touch(session, 0)
    handlers.change(session, mask=as_box("left"), weight_by_step="early")
    handlers.touch(session, 1)
    handlers.change(session, negative=True)
    view = handlers.view(session)
    assert "acts left" in view.neighbors
    assert "steps early" in view.neighbors
    assert "guided away from" in view.neighbors
    list(handlers.draw_again(session, form()))

    entry = session.last
    assert entry is not None
    heat = entry.heat(masked.name)
    half = heat.shape[-1] // 2
    assert float(heat[:, half:].max()) == 0 < float(heat[:, :half].max())
    assert entry.share(other.name) == 0
    told = f"“{masked.caption}” acts left, steps early, “{other.caption}” guided away from"
    assert entry.lineage == f"Drawn again from picture 1, the same noise; {told}"
    assert "Used otherwise than usual" in " ".join(lineage_of(entry))


@pytest.mark.parametrize("text", ["", "somewhere", "a mask", "/etc/passwd", "0, 0, 1", "0, 0, 1, x"])
def test_a_mask_is_named_or_a_box_and_never_a_file_of_the_server(text: str) -> None:
    with pytest.raises(ConfigError, match="where it may act: expected everywhere, left, right, top, bottom, or left"):
        as_box(text)
    assert as_box("everywhere") is None
    assert as_box(" 0.2, 0.2, .8,0.8 ") == (0.2, 0.2, 0.8, 0.8)


def test_nothing_changed_is_drawn_again_as_it_was(handlers: Handlers) -> None:
    session = Session()
    drawn(handlers, session)
    list(handlers.draw_again(session, form()))

    first, again = session.entries
    assert np.abs(first.picture.pixels.astype(int) - again.picture.pixels).max() <= 1
    assert again.words == "drawn again"


def test_own_pictures_become_neighbors_by_their_names_also_before_there_is_a_knowledge_base(
    bare: Handlers, tmp_path: Path
) -> None:
    session = Session()
    told = bare.drop(session, own_pictures(tmp_path / "own"), "CC0-1.0")

    assert told.startswith("2 neighbors by hand; not taken: a broken heart.png, ")
    taken = [(neighbor.caption, neighbor.licence) for neighbor in session.neighbors]
    assert taken == [("a blue square", "CC0-1.0"), ("a red circle", "CC0-1.0")]
    assert "Nothing can be retrieved here yet" in bare.head()
    drawn(bare, session, variant="given")
    assert session.last is not None
    seen = {source.pair_id for source in session.last.picture.provenance.neighbors}
    assert seen == {"given/a blue square.png", "given/a red circle.png"}
    drawn(bare, session, variant="none")
    assert session.neighbors == ()


@pytest.mark.parametrize(
    ("changed", "compare", "said"),
    [
        ({"prompt": "  "}, False, "expected a text"),
        ({"prompt": "a" * 2001}, False, "at most 2000 characters, got 2001"),
        ({"variant": "given"}, False, "neighbors by hand: expected some, got none"),
        ({"variant": "none"}, True, "compare: expected neighbors to compare with"),
        ({"variant": "retrieved"}, False, "nothing can be retrieved here yet"),
        ({"variant": "none", "seed": -1}, False, "seed: expected a whole number from 0"),
        ({"variant": "none", "mode": "wild"}, False, "guidance mode: expected one of"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_words(
    bare: Handlers, changed: dict[str, object], compare: bool, said: str
) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        list(bare.draw(Session(), form(**changed), compare=compare))


def test_only_pairs_of_a_data_set_become_neighbors(handlers: Handlers) -> None:
    session = Session()
    list(handlers.draw(session, form(where="source=twemoji, source=nowhere")))
    sources = {neighbor.source for neighbor in session.neighbors}
    list(handlers.draw(session, form(where="source=noto")))
    others = {neighbor.source for neighbor in session.neighbors}

    assert sources == {"twemoji"}
    assert others == {"noto"}
    with pytest.raises(ConfigError, match="where: expected class=NAME"):
        list(handlers.draw(session, form(where="colour=red")))


def test_hits_of_a_search_are_touched_and_drawn_with(handlers: Handlers) -> None:
    session = Session()
    handlers.search(session, "a red circle", 3, "noto")
    assert [hit.pair_id.split("/")[0] for hit in session.hits] == ["noto"] * 3
    with pytest.raises(ConfigError, match="expected hits that were touched"):
        handlers.take_hits(session)
    for place in (0, 2, 2):
        handlers.pick(session, place)
    assert handlers.hits(session).count('aria-pressed="true"') == 1
    handlers.take_hits(session)
    assert session.neighbors == session.hits[:1]
    handlers.search(session, "a red circle", 9, ALL)
    assert {hit.pair_id.split("/")[0] for hit in session.hits} == {"noto", "twemoji"}
    with pytest.raises(ConfigError, match="expected a text"):
        handlers.search(session, "", 3, ALL)


def test_own_pictures_join_the_knowledge_base_with_their_licence(handlers: Handlers, tmp_path: Path) -> None:
    files = own_pictures(tmp_path / "own")
    with pytest.raises(ConfigError, match="licence: expected the licence of your pictures"):
        handlers.add(files, "mine", " ", "")
    with pytest.raises(DataError, match="expected pictures, a folder or an archive, got none"):
        handlers.add([], "mine", "CC0-1.0", "")
    told = handlers.add(files, "mine", "CC0-1.0", "me")

    assert told.startswith("2 pairs taken into mine, which has 2 now; not taken: a broken heart.png, ")
    session = Session()
    handlers.search(session, "a blue square", 1, "mine")
    assert [(hit.caption, hit.licence, hit.attribution) for hit in session.hits] == [("a blue square", "CC0-1.0", "me")]
    assert ["mine", "2", "CC0-1.0", "ready"] in handlers.data_sets()
    handlers.base.remove("mine")


def test_a_session_keeps_so_many_drawings_and_texts_of_strangers_are_escaped(handlers: Handlers) -> None:
    session = Session()
    drawn(handlers, session, prompt="<img src=x onerror=alert(1)>", variant="none")
    assert session.last is not None
    for _ in range(KEPT):
        session.add([session.last.picture], ())

    assert (len(session.entries), session.count) == (KEPT, KEPT + 1)
    assert session.entry(1) is None
    view = handlers.view(session)
    for piece in (
        view.figures,
        view.history,
        cards.lineage(session.last),
        cards.data_sets([["<b>", "1", "", "ready"]]),
    ):
        assert "<img src=x" not in piece
        assert "<b></bdi>" not in piece
    assert "&lt;img src=x" in view.history
