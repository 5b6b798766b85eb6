"""The tab of the page that draws clips, as gradio's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from rag_diffusion.config import Config
from rag_diffusion.page import animating
from rag_diffusion.page.animating import ClipForm
from rag_diffusion.page.errors import in_words
from rag_diffusion.page.form import Form, as_seed
from rag_diffusion.page.handlers import Handlers
from rag_diffusion.sampling.guidance import MODES

_LICENCES = ["CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT", "Apache-2.0", "all rights reserved"]


class AnimateTab:
    """Prompt, pictures to begin with, the clip, and its frames with what each looked at.

    Args:
        handlers: of the page.
        config: of params.yaml, for what the fields say at first.
    """

    def __init__(self, handlers: Handlers, config: Config) -> None:
        sample = config.sample
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                prompt = gr.Textbox(
                    label="What the clip shows, and how it moves", placeholder="a cat waves its paw", lines=1,
                    max_length=2000, elem_id="clip-prompt",
                )  # fmt: skip
                with gr.Row():
                    start = gr.Button("Animate", variant="primary", min_width=90, elem_id="animate")
                    stop = gr.Button("Stop", min_width=70, elem_id="stop-clip")
                files = gr.File(
                    label="Pictures to begin with, by name", file_count="multiple", elem_id="begin", height=120,
                )  # fmt: skip
                licence = gr.Dropdown(_LICENCES, value=None, label="Licence of these", allow_custom_value=True)
                count = gr.Slider(2, animating.MOST, value=16, step=1, label="Frames", elem_id="num-frames")
                with gr.Accordion("Neighbors, guidance, steps and seed", open=False):
                    fps = gr.Slider(1, 30, value=8, step=1, label="Frames a second")
                    last = gr.Slider(0, 4, value=1, step=1, label="Last frames")
                    retrieved = gr.Slider(0, 6, value=2, step=1, label="Earlier frames, found by look and time")
                    pairs = gr.Slider(0, 4, value=0, step=1, label="Pairs of the knowledge base")
                    noise = gr.Checkbox(value=False, label="The same noise for all frames")
                    mode = gr.Dropdown(list(MODES), value=sample.guidance, label="Guidance")
                    text = gr.Slider(1, 15, value=sample.text_guidance_scale, step=0.5, label="Text guidance scale")
                    near = gr.Slider(
                        1, 15, value=sample.neighbor_guidance_scale, step=0.5, label="Neighbor guidance scale"
                    )
                    steps = gr.Slider(
                        1, 100, value=sample.num_inference_steps, step=1, label="Denoising steps", elem_id="clip-steps"
                    )
                    small = gr.Checkbox(value=False, label="Small frames alone", elem_id="small-frames")
                    seed = gr.Textbox(
                        label="Seed", placeholder="another one each time", max_lines=1, elem_id="clip-seed"
                    )
            with gr.Column(scale=5, min_width=300):
                first, strip = animating.empty()
                clip = gr.HTML(first, elem_id="clip")
            with gr.Column(scale=4, min_width=300):
                gr.Markdown("### Frames")
                frames = gr.HTML(strip, elem_id="frames")

        def animated(*fields: Any) -> Iterator[tuple[str, str]]:
            yield from animating.animate(handlers, _form(config, fields))

        running = gr.on(
            [prompt.submit, start.click],
            in_words(animated),
            [prompt, files, licence, count, fps, last, retrieved, pairs, noise, mode, text, near, steps, small, seed],
            [clip, frames],
            concurrency_id="animate", concurrency_limit=1, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        stop.click(None, cancels=[running], api_visibility="private", queue=False)


def _form(config: Config, fields: tuple[Any, ...]) -> ClipForm:
    prompt, files, licence, count, fps, last, retrieved, pairs, noise, mode, text, near, steps, small, seed = fields
    drawing = Form(
        prompt=prompt, variant="given", num_neighbors=config.retrieval.content, mode=mode,
        text_guidance_scale=float(text), neighbor_guidance_scale=float(near), num_inference_steps=int(steps),
        seed=as_seed(seed), stages=1 if small else None,
    )  # fmt: skip
    return ClipForm(
        drawing=drawing, files=files or (), licence=licence or "", num_frames=int(count), fps=float(fps),
        num_last=int(last), num_retrieved=int(retrieved), num_pairs=int(pairs), same_noise=bool(noise),
    )  # fmt: skip
