"""The page as gradio's blocks: fields, where they stand, and which handler each of them calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from rag_diffusion.config import Config
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.page import cards
from rag_diffusion.page.animate_tab import AnimateTab
from rag_diffusion.page.errors import in_words
from rag_diffusion.page.handlers import ALL, Form, Handlers, View, as_seed, as_variant
from rag_diffusion.page.session import Session
from rag_diffusion.page.words import CURVES, MAPS, MASKS, as_box, curve_of, map_of, mask_of
from rag_diffusion.sampling.guidance import MODES

CSS = Path(__file__).with_name("page.css")
WAITING = 16  # requests of all visitors in the queue
KEPT = 3600.0  # seconds that a visit's drawings are kept after the last one
_KINDS = [("Retrieved", "retrieved"), ("By hand", "given"), ("Random", "random"), ("None", "none")]
_LICENCES = ["CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT", "Apache-2.0", "all rights reserved"]
_TO_PICTURE = """() => { if (window.innerWidth < 900) setTimeout(() =>
  document.querySelector('#picture')?.scrollIntoView({behavior: 'smooth', block: 'start'}), 200); }"""


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
        head = gr.HTML(_head("Opening the model …"), elem_classes="head")
        with gr.Tabs() as tabs:
            with gr.Tab("Draw", id="draw"):
                drawing = _DrawTab(handlers, config, session)
            with gr.Tab("Animate", id="animate"):
                AnimateTab(handlers, config)
            with gr.Tab("Knowledge base", id="base"):
                base = _BaseTab(handlers, session, head, may_add)
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


class _DrawTab:
    """Prompt, picture and neighbors.

    Attributes:
        view: the pieces that a `View` fills.
    """

    def __init__(self, handlers: Handlers, config: Config, session: gr.State) -> None:
        sample = config.sample
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                self.prompt = gr.Textbox(
                    label="Prompt", placeholder="a lucky shamrock in the style of Twemoji", lines=1, autofocus=True,
                    max_length=2000, elem_id="prompt",
                )  # fmt: skip
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", min_width=90, elem_id="draw")
                    compare = gr.Button("Compare", min_width=90, elem_id="compare")
                    stop = gr.Button("Stop", min_width=70, elem_id="stop")
                self.kind = gr.Radio(_KINDS, value="none", label="Neighbors", elem_id="kind")
                number = gr.Slider(1, 8, value=config.retrieval.content, step=1, label="Number of neighbors")
                where = gr.Textbox(
                    label="Only pairs with (empty: any)",
                    placeholder="licence=CC0-1.0, source=my-photos",
                    max_length=500,
                    elem_id="where",
                )
                with gr.Accordion("Pictures of your own as neighbors", open=False):
                    licence = gr.Dropdown(
                        _LICENCES, value=None, label="Licence of these pictures", allow_custom_value=True
                    )
                    files = gr.File(label="Pictures or an archive", file_count="multiple", elem_id="files", height=120)
                    folder = gr.File(label="A folder", file_count="directory", elem_id="folder", height=120)
                    answer = gr.Markdown(elem_classes="fine")
                with gr.Accordion("Guidance, steps and seed", open=False):
                    mode = gr.Dropdown(list(MODES), value=sample.guidance, label="Guidance")
                    text = gr.Slider(1, 15, value=sample.text_guidance_scale, step=0.5, label="Text guidance scale")
                    near = gr.Slider(
                        1, 15, value=sample.neighbor_guidance_scale, step=0.5, label="Neighbor guidance scale"
                    )
                    steps = gr.Slider(
                        1, 100, value=sample.num_inference_steps, step=1, label="Denoising steps", elem_id="steps"
                    )
                    self.size = gr.Dropdown([], value=None, label="Size in pixels", interactive=False)
                    seed = gr.Textbox(label="Seed", placeholder="another one each time", max_lines=1, elem_id="seed")
            with gr.Column(scale=5, min_width=300):
                self.picture = gr.HTML(cards.figures([]), elem_id="picture")
            with gr.Column(scale=4, min_width=300):
                gr.Markdown("### Neighbors")
                self.near = gr.HTML(cards.neighbors([]), elem_id="neighbors", js_on_load=cards.PRESSED)
                with gr.Group(visible=False, elem_id="control") as self.control:
                    weight = gr.Slider(0, 4, value=1, step=0.1, label="Weight of this neighbor", elem_id="weight")
                    mask = gr.Dropdown(
                        list(MASKS), value="everywhere", label="Mask (or left, top, right, bottom: 0.2, 0.2, 0.8, 0.8)",
                        allow_custom_value=True, elem_id="mask",
                    )  # fmt: skip
                    with gr.Row():
                        curve = gr.Dropdown(
                            list(CURVES),
                            value="all steps",
                            label="Weight by step",
                            allow_custom_value=True,
                            elem_id="curve",
                            min_width=120,
                        )
                        maps = gr.Dropdown(
                            list(MAPS),
                            value="both",
                            label="Weight by map",
                            allow_custom_value=True,
                            elem_id="maps",
                            min_width=120,
                        )
                    negative = gr.Checkbox(label="Negative: guide away from it", elem_id="negative")
                    caption = gr.Textbox(label="Caption of this neighbor")
                    again = gr.Button("Draw again, the same noise", variant="primary", elem_id="again")
        self.past = gr.HTML(render=False, elem_id="past", js_on_load=cards.PRESSED)
        self.view = [self.picture, self.near, self.past]
        self.fields = [self.prompt, self.kind, number, mode, text, near, steps, seed, self.size, where]
        shared: dict[str, Any] = {
            "concurrency_id": "draw", "concurrency_limit": 1, "show_progress": "hidden", "api_visibility": "private",
        }  # fmt: skip

        def drawn(visit: Session, *fields: Any) -> Iterator[tuple[Any, ...]]:
            for view in handlers.draw(visit, _form(fields)):
                yield *_pieces(view), gr.Group(visible=False)

        def compared(visit: Session, *fields: Any) -> Iterator[tuple[Any, ...]]:
            for view in handlers.draw(visit, _form(fields), compare=True):
                yield *_pieces(view), gr.Group(visible=False)

        def redrawn(visit: Session, *fields: Any) -> Iterator[tuple[Any, ...]]:
            for view in handlers.draw_again(visit, _form(fields)):
                yield *_pieces(view), gr.Group(visible=False)

        def touched(visit: Session, event: gr.EventData) -> tuple[Any, ...]:
            neighbor = handlers.touch(visit, int(event.index))
            fields = [gr.skip()] * 6 if neighbor is None else _controls(neighbor)
            return *_pieces(handlers.view(visit)), gr.Group(visible=neighbor is not None), *fields

        def changed(
            visit: Session, words: str, number: float, where: str, by_step: str, by_map: str, away: bool
        ) -> str:
            control = {"caption": words, "weight": float(number), "mask": as_box(where), "negative": away}
            named = {
                "weight_by_step": CURVES.get(by_step),
                "weight_by_map": MAPS.get(by_map),
            }  # None: as params.yaml says
            handlers.change(visit, **control, **{name: value for name, value in named.items() if value is not None})
            return handlers.view(visit).neighbors

        def dropped(visit: Session, paths: list[str] | None, terms: str | None) -> tuple[Any, ...]:
            if not paths:
                return gr.skip(), *[gr.skip()] * 3, gr.skip(), gr.skip()
            words = handlers.drop(visit, paths, terms or "")
            return words, *_pieces(handlers.view(visit)), "given", gr.Group(visible=False)

        outputs, controls = [*self.view, self.control], [caption, weight, mask, curve, maps, negative]
        inputs = [session, *self.fields]
        running = [
            gr.on([self.prompt.submit, draw.click], in_words(drawn), inputs, outputs, **shared),
            compare.click(in_words(compared), inputs, outputs, **shared),
            again.click(in_words(redrawn), inputs, outputs, **shared),
        ]
        gr.on([self.prompt.submit, draw.click, compare.click, again.click], None, js=_TO_PICTURE)
        stop.click(
            lambda visit: _pieces(handlers.view(visit)), session, self.view, cancels=running, api_visibility="private",
            queue=False,
        )  # fmt: skip
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.near.select(in_words(touched), session, [*outputs, *controls], **quick)
        gr.on(
            [weight.release, caption.blur, caption.submit, mask.input, curve.input, maps.input, negative.input],
            in_words(changed), [session, *controls], self.near,
            **quick,
        )  # fmt: skip
        for source in (files, folder):
            source.upload(
                in_words(dropped), [session, source, licence], [answer, *self.view, self.kind, self.control], **quick
            )


class _BaseTab:
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
                        _LICENCES, value=None, label="Licence (required)", allow_custom_value=True, elem_id="licence"
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
            _head(self._handlers.head()),
            cards.data_sets(rows),
            gr.Dropdown([ALL, *(row[0] for row in rows)], value=ALL),
        )


def _add_history(handlers: Handlers, session: gr.State, drawing: _DrawTab, tabs: gr.Tabs) -> None:
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
        return entry.picture.provenance.prompt, *_pieces(handlers.view(visit)), gr.Tabs(selected="draw")

    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    drawing.past.select(in_words(touched), session, [picture, words, drawing.past, opened, go_on], **quick)
    go_on.click(in_words(continued), [session, opened], [drawing.prompt, *drawing.view, tabs], **quick)


def _pieces(view: View) -> tuple[str, str, str]:
    return view.figures, view.neighbors, view.history


def _form(fields: tuple[Any, ...]) -> Form:
    prompt, kind, number, mode, text, near, steps, seed, stages, where = fields
    return Form(
        prompt=prompt, variant=as_variant(kind), num_neighbors=int(number), mode=mode, text_guidance_scale=float(text),
        neighbor_guidance_scale=float(near), num_inference_steps=int(steps), seed=as_seed(seed),
        stages=None if stages is None else int(stages), where=where,
    )  # fmt: skip


def _controls(neighbor: Neighbor) -> list[Any]:
    return [
        neighbor.caption, neighbor.weight, mask_of(neighbor), curve_of(neighbor), map_of(neighbor), neighbor.negative,
    ]  # fmt: skip


def _sizes(handlers: Handlers) -> gr.Dropdown:
    sizes = handlers.sizes()
    return gr.Dropdown(sizes, value=sizes[-1][1], interactive=len(sizes) > 1)


def _kind(handlers: Handlers) -> str:
    return "retrieved" if handlers.can_retrieve() else "none"


def _taken(handlers: Handlers, visit: Session) -> tuple[Any, ...]:
    handlers.take_hits(visit)
    return "given", *_pieces(handlers.view(visit)), gr.Group(visible=False), gr.Tabs(selected="draw")


def _head(words: str) -> str:
    return f"<h1>rag-diffusion</h1><p class='fine'>{escape(words)}</p>"


def _with_request(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose last positional argument is gradio's request."""

    def called(files: Any, folder: Any, name: Any, licence: Any, author: Any, request: gr.Request) -> Any:
        return handler(files, folder, name, licence, author, request=request)

    return called
