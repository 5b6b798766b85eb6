"""The page as gradio's blocks: fields, where they stand, and which handler each of them calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from rag_diffusion.config import Config
from rag_diffusion.page import cards
from rag_diffusion.page.animate_tab import AnimateTab
from rag_diffusion.page.base_tab import BaseTab, as_head
from rag_diffusion.page.draw_tab import DrawTab, pieces
from rag_diffusion.page.errors import in_words
from rag_diffusion.page.handlers import Handlers
from rag_diffusion.page.session import Session

CSS = Path(__file__).with_name("page.css")
WAITING = 16  # requests of all visitors in the queue
KEPT = 3600.0  # seconds that a visit's drawings are kept after the last one


def theme() -> gr.Theme:
    """Colours, and the fonts of the reader's own system: none is fetched."""
    sans, mono = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    theme = gr.themes.Default(
        primary_hue="orange", secondary_hue="orange", neutral_hue="slate", font=sans, font_mono=mono
    )
    filled = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800"}
    return theme.set(**filled, **{f"{name}_dark": colour for name, colour in filled.items()})


def build(handlers: Handlers, config: Config, *, may_add: Callable[[str | None], bool]) -> gr.Blocks:
    """The page.

    Args:
        handlers: what its buttons do.
        config: of params.yaml, for what the fields say at first.
        may_add: whether a visitor, by name, may add to the knowledge base.
    """
    with gr.Blocks(title="rag-diffusion", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        session = gr.State(Session(), time_to_live=KEPT)
        head = gr.HTML(as_head("Opening the model …"), elem_classes="head")
        with gr.Tabs() as tabs:
            with gr.Tab("Draw", id="draw"):
                drawing = DrawTab(handlers, config, session)
            with gr.Tab("Animate", id="animate"):
                AnimateTab(handlers, config)
            with gr.Tab("Knowledge base", id="base"):
                base = BaseTab(handlers, session, head, may_add)
            with gr.Tab("History", id="history"):
                _add_history(handlers, session, drawing, tabs)
        base.take.click(
            in_words(lambda visit: _taken(handlers, visit)),
            session,
            [drawing.kind, *drawing.view, drawing.control, tabs],
            api_visibility="private",
        )
        page.load(
            in_words(lambda: (_kind(handlers), _sizes(handlers), *base.state())),
            None,
            [drawing.kind, drawing.size, *base.state_fields],
            api_visibility="private",
        )
    page.queue(max_size=WAITING, default_concurrency_limit=4, api_open=False)
    assert isinstance(page, gr.Blocks)
    return page


def _add_history(handlers: Handlers, session: gr.State, drawing: DrawTab, tabs: gr.Tabs) -> None:
    """Drawings of this session; the one that is touched tells where it came from."""
    opened = gr.State(0)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            drawing.past.render()  # type: ignore[no-untyped-call]
        with gr.Column(scale=5, min_width=300):
            picture, words = gr.HTML(elem_id="old"), gr.HTML(elem_id="lineage")
            go_on = gr.Button("Go on from this one", visible=False, elem_id="go-on")

    def touched(visit: Session, event: gr.EventData) -> tuple[Any, ...]:
        entry = visit.entry(int(event.index))
        figure = "" if entry is None else cards.figures([entry], sign=handlers.sign)
        past = cards.history(visit.entries, int(event.index))
        return figure, cards.lineage(entry), past, int(event.index), gr.Button(visible=entry is not None)

    def continued(visit: Session, number: int) -> tuple[Any, ...]:
        entry = visit.entry(number)
        if entry is None:
            return gr.skip(), *[gr.skip()] * 3, gr.skip()
        visit.shown, visit.neighbors, visit.chosen = (number,), entry.neighbors, ""
        return entry.picture.provenance.prompt, *pieces(handlers.view(visit)), gr.Tabs(selected="draw")

    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    drawing.past.select(in_words(touched), session, [picture, words, drawing.past, opened, go_on], **quick)
    go_on.click(in_words(continued), [session, opened], [drawing.prompt, *drawing.view, tabs], **quick)


def _sizes(handlers: Handlers) -> gr.Dropdown:
    sizes = handlers.sizes()
    return gr.Dropdown(sizes, value=sizes[-1][1], interactive=len(sizes) > 1)


def _kind(handlers: Handlers) -> str:
    return "retrieved" if handlers.can_retrieve() else "none"


def _taken(handlers: Handlers, visit: Session) -> tuple[Any, ...]:
    handlers.take_hits(visit)
    return "given", *pieces(handlers.view(visit)), gr.Group(visible=False), gr.Tabs(selected="draw")
