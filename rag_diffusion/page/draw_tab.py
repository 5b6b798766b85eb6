"""The tab Draw: prompt, picture and neighbors, and which handler each field calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from rag_diffusion.config import Config
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.page import cards
from rag_diffusion.page.errors import in_words
from rag_diffusion.page.form import Form, as_colours, as_seed, as_variant
from rag_diffusion.page.handlers import Handlers, View
from rag_diffusion.page.session import Session
from rag_diffusion.page.words import CURVES, LICENCES, MAPS, MASKS, as_box, curve_of, map_of, mask_of
from rag_diffusion.sampling.guidance import MODES

_KINDS = [("Retrieved", "retrieved"), ("By hand", "given"), ("Random", "random"), ("None", "none")]
_TO_PICTURE = """() => { if (window.innerWidth < 900) setTimeout(() =>
  document.querySelector('#picture')?.scrollIntoView({behavior: 'smooth', block: 'start'}), 200); }"""


class DrawTab:
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
                self.kind = gr.Radio(_KINDS, value="retrieved", label="Neighbors", elem_id="kind")
                number = gr.Slider(1, 8, value=config.retrieval.content, step=1, label="Number of neighbors")
                where = gr.Textbox(
                    label="Only pairs with (empty: any)",
                    placeholder="licence=CC0-1.0, source=my-photos",
                    max_length=500,
                    elem_id="where",
                )
                colours = gr.Textbox(
                    label="Colours (empty: those of the style)",
                    placeholder="#dd2e44 #ffcc4d #ffffff",
                    max_length=500,
                    elem_id="colours",
                )
                with gr.Accordion("Pictures of your own as neighbors", open=False):
                    licence = gr.Dropdown(
                        LICENCES, value=None, label="Licence of these pictures", allow_custom_value=True
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
                    begin = gr.Slider(
                        0.05, 1, value=sample.begin_strength, step=0.05, elem_id="begin",
                        label="Begin with the first neighbor, noised so far (1: with noise alone)",
                    )  # fmt: skip
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
        self.fields = [self.prompt, self.kind, number, mode, text, near, steps, seed, self.size, where, colours, begin]
        shared: dict[str, Any] = {
            "concurrency_id": "draw", "concurrency_limit": 1, "show_progress": "hidden", "api_visibility": "private",
        }  # fmt: skip

        def drawn(visit: Session, *fields: Any) -> Iterator[tuple[Any, ...]]:
            for view in handlers.draw(visit, _form(fields)):
                yield *pieces(view), gr.Group(visible=False)

        def compared(visit: Session, *fields: Any) -> Iterator[tuple[Any, ...]]:
            for view in handlers.draw(visit, _form(fields), compare=True):
                yield *pieces(view), gr.Group(visible=False)

        def redrawn(visit: Session, *fields: Any) -> Iterator[tuple[Any, ...]]:
            for view in handlers.draw_again(visit, _form(fields)):
                yield *pieces(view), gr.Group(visible=False)

        def touched(visit: Session, event: gr.EventData) -> tuple[Any, ...]:
            neighbor = handlers.touch(visit, int(event.index))
            fields = [gr.skip()] * 6 if neighbor is None else _controls(neighbor)
            return *pieces(handlers.view(visit)), gr.Group(visible=neighbor is not None), *fields

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
            return words, *pieces(handlers.view(visit)), "given", gr.Group(visible=False)

        outputs, controls = [*self.view, self.control], [caption, weight, mask, curve, maps, negative]
        inputs = [session, *self.fields]
        running = [
            gr.on([self.prompt.submit, draw.click], in_words(drawn), inputs, outputs, **shared),
            compare.click(in_words(compared), inputs, outputs, **shared),
            again.click(in_words(redrawn), inputs, outputs, **shared),
        ]
        gr.on([self.prompt.submit, draw.click, compare.click, again.click], None, js=_TO_PICTURE)
        stop.click(
            lambda visit: pieces(handlers.view(visit)), session, self.view, cancels=running, api_visibility="private",
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


def pieces(view: View) -> tuple[str, str, str]:
    """What the outputs of `DrawTab.view` show of a `view`."""
    return view.figures, view.neighbors, view.history


def _form(fields: tuple[Any, ...]) -> Form:
    prompt, kind, number, mode, text, near, steps, seed, stages, where, colours, begin = fields
    return Form(
        prompt=prompt, variant=as_variant(kind), num_neighbors=int(number), mode=mode, text_guidance_scale=float(text),
        neighbor_guidance_scale=float(near), num_inference_steps=int(steps), seed=as_seed(seed),
        stages=None if stages is None else int(stages), where=where, colours=as_colours(colours),
        begin_strength=float(begin),
    )  # fmt: skip


def _controls(neighbor: Neighbor) -> list[Any]:
    return [
        neighbor.caption, neighbor.weight, mask_of(neighbor), curve_of(neighbor), map_of(neighbor), neighbor.negative,
    ]  # fmt: skip
