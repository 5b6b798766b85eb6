"""The tab Knowledge base: search, and what visitors add."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from rag_diffusion.page import cards
from rag_diffusion.page.errors import in_words
from rag_diffusion.page.handlers import ALL, Handlers
from rag_diffusion.page.session import Session
from rag_diffusion.page.words import LICENCES


class BaseTab:
    """Search, and what is taken into the knowledge base.

    Attributes:
        state_fields: what `state` fills.
    """

    def __init__(
        self, handlers: Handlers, session: gr.State, head: gr.HTML, may_add: Callable[[str | None], bool]
    ) -> None:
        self._handlers = handlers
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                text = gr.Textbox(label="Search", placeholder="a lucky shamrock", lines=1, elem_id="search")
                with gr.Row():
                    top_k = gr.Slider(1, 24, value=6, step=1, label="Hits", min_width=140)
                    self.data_set = gr.Dropdown([ALL], value=ALL, label="Data set", min_width=140)
                with gr.Row():
                    search = gr.Button("Search", variant="primary", min_width=90, elem_id="find")
                    self.take = gr.Button("Draw with the touched ones", min_width=160, elem_id="take")
                trouble = gr.Markdown()
                hits = gr.HTML(handlers.hits(Session()), elem_id="hits", js_on_load=cards.PRESSED)
            with gr.Column(scale=4, min_width=300):
                self.sets = gr.HTML(cards.data_sets([]), elem_id="sets")
                with gr.Accordion("Add pictures of your own", open=True):
                    files = gr.File(label="Pictures or an archive", file_count="multiple", elem_id="new", height=120)
                    folder = gr.File(label="A folder", file_count="directory", elem_id="new-folder", height=120)
                    name = gr.Textbox(label="Name of the data set", value="mine", elem_id="set-name")
                    licence = gr.Dropdown(
                        LICENCES, value=None, label="Licence (required)", allow_custom_value=True, elem_id="licence"
                    )
                    author = gr.Textbox(label="Attribution")
                    add = gr.Button("Add to the knowledge base", elem_id="add")
                    answer = gr.Markdown(elem_id="added")

        self.state_fields = [head, self.sets, self.data_set]

        def searched(visit: Session, query: str, count: float, data_set: str) -> tuple[str, str]:
            words = handlers.search(visit, query, int(count), data_set)
            return words, handlers.hits(visit)

        def picked(visit: Session, event: gr.EventData) -> str:
            handlers.pick(visit, int(event.index))
            return handlers.hits(visit)

        def added(
            paths: list[str] | None, more: list[str] | None, *said: str | None, request: gr.Request
        ) -> tuple[Any, ...]:
            if not may_add(getattr(request, "username", None)):
                raise gr.Error("this server takes nothing from you: your key may only read, or --read-only was given")
            words = handlers.add([*(paths or ()), *(more or ())], *(part or "" for part in said))
            return words, None, None, *self.state()

        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on(
            [text.submit, search.click],
            in_words(searched),
            [session, text, top_k, self.data_set],
            [trouble, hits],
            **quick,
        )
        hits.select(in_words(picked), session, hits, **quick)
        add.click(
            in_words(_with_request(added)), [files, folder, name, licence, author],
            [answer, files, folder, *self.state_fields], concurrency_limit=1, api_visibility="private",
        )  # fmt: skip

    def state(self) -> tuple[Any, ...]:
        """How many pairs there are, the data sets, and which of them can be searched alone."""
        rows = self._handlers.data_sets()
        return (
            as_head(self._handlers.head()),
            cards.data_sets(rows),
            gr.Dropdown([ALL, *(row[0] for row in rows)], value=ALL),
        )


def as_head(words: str) -> str:
    """The head of the page, which says `words`."""
    return f"<h1>rag-diffusion</h1><p class='fine'>{escape(words)}</p>"


def _with_request(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose last positional argument is gradio's request."""

    def called(files: Any, folder: Any, name: Any, licence: Any, author: Any, request: gr.Request) -> Any:
        return handler(files, folder, name, licence, author, request=request)

    return called
