"""`rag-diffusion animate`: a clip for a text. Light to import: the command brings the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.layout import BASE, MODEL
from rag_diffusion.project import config_of, retrieval_options
from rag_diffusion.terminal.errors import clean_errors
from rag_diffusion.terminal.opening import chosen_guidance, opened_pipeline, signing, silence_libraries
from rag_diffusion.terminal.printable import printable
from rag_diffusion.where import WHERE_HELP, parse_where

if TYPE_CHECKING:
    from rag_diffusion.models.neighbor_batch import Neighbor
    from rag_diffusion.sampling.clip_frames import ClipFrame
    from rag_diffusion.sampling.pipeline import RetrievalPipeline


def animate(
    prompt: Annotated[str, typer.Argument(help="What the clip shows, its motion among it.")],
    frame: Annotated[
        list[str] | None,
        typer.Option(help="A picture that it begins with, in order; or a clip: GIF, WebP, MP4 ... Else it is drawn."),
    ] = None,
    take: Annotated[int | None, typer.Option(min=1, help="Of what --frame names, so many first frames alone.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Of what --frame names, every so many-th frame.")] = 1,
    num_frames: Annotated[int, typer.Option("--num-frames", "-n", help="Of the clip, given ones among them.")] = 16,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A folder: each clip gets one in it, and plays in its index.html.")
    ] = Path("animations"),
    form: Annotated[
        list[str] | None, typer.Option(help="webp, gif or mp4 (extra `video`); may be repeated. webp if not given.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 8.0,
    seed: Annotated[int | None, typer.Option(help="Of the noise. Drawn if not given.")] = None,
    last: Annotated[int, typer.Option(help="Last frames that the next one looks at.")] = 1,
    retrieved: Annotated[int, typer.Option(help="Earlier frames beside them, found by look and time.")] = 2,
    pairs: Annotated[int | None, typer.Option(help="Pairs of the knowledge base beside the frames.")] = None,
    neighbors: Annotated[int | None, typer.Option(help="Pairs that a first frame looks at which is drawn.")] = None,
    where: Annotated[list[str] | None, typer.Option(help=WHERE_HELP)] = None,
    same_noise: Annotated[bool, typer.Option(help="Whether all frames begin with the same noise.")] = False,
    model: Annotated[str | None, typer.Option(help=f"Weights: a folder. {MODEL}, else {BASE}.")] = None,
    stages: Annotated[int | None, typer.Option(min=1, help="Of a cascade: 1 is small frames. All there are.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps of a frame.")] = None,
    guidance: Annotated[str | None, typer.Option(help="none, text, neighbor, alternate, interleaved or joint.")] = None,
    text_guidance_scale: Annotated[float | None, typer.Option(help="How much the text is followed.")] = None,
    neighbor_guidance_scale: Annotated[float | None, typer.Option(help="How much the neighbors are followed.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and no word about the frames.")] = False,
    root: Annotated[Path, typer.Option(help="The directory that holds params.yaml.")] = Path(),
) -> None:
    """Draw a clip frame by frame, each from the text, from frames before it, and from pairs of the knowledge base.

    Stopped by Ctrl-C or killed, the same command with the same --seed goes on where it was.

    Example: rag-diffusion animate "a cat waves its paw" --frame cat.png --num-frames 16 --form webp --form mp4
    """
    with clean_errors():
        if not quiet:
            silence_libraries()
        from rag_diffusion.sampling.rollout import Rollout
        from rag_diffusion.sampling.rollout_settings import RolloutSettings
        from rag_diffusion.sampling.studio import choose_seeds
        from rag_diffusion.terminal.animate_files import AnimatedFiles

        try:
            (chosen,), config = choose_seeds(seed, 1), config_of(root)
            asked = {"num_pairs": pairs, "num_neighbors": neighbors}
            settings = RolloutSettings(
                num_frames=num_frames, num_last=last, num_retrieved=retrieved, same_noise=same_noise,
                **{name: value for name, value in asked.items() if value is not None},  # type: ignore[arg-type]
            )  # fmt: skip
            files = AnimatedFiles(out, prompt, chosen, forms=form or ["webp"], fps=fps)
            given = _begin(frame or [], take, every)
            retrieves = settings.num_pairs > 0 or (given is None and settings.num_neighbors > 0)
            pipe = _pipeline(root, model, retrieves, needed=pairs is not None or neighbors is not None or bool(where))
            files.sign = signing(root, None, config)
            scales = {"text": text_guidance_scale, "neighbor": neighbor_guidance_scale}
            chosen_by_hand = [value for value in (guidance, *scales.values()) if value is not None]
            options: dict[str, Any] = {"keep_pictures": True}
            if pipe.frames is None or chosen_by_hand:
                options["guidance"] = chosen_guidance(config, mode=guidance, **scales)
            if pipe.frames is None or steps:
                options["num_inference_steps"] = steps or (20 if config is None else config.sample.num_inference_steps)
            if pipe.retriever is not None:
                of_project = {} if config is None else retrieval_options(config)
                of_project.pop("retrieval_schedule", None)  # a clip's pairs are the same at all steps
                options |= of_project | {"where": parse_where(where or [], of_project.get("where"))}
            rollout = Rollout(pipe, prompt, given, settings, seed=chosen, stages=stages, options=options)
            pipe.set_progress_bar_config(disable=quiet, desc="animate", unit="frame", file=sys.stderr)
            with pipe.progress_bar(total=num_frames) as bar:
                for one in files.drawn(rollout):
                    bar.update()
                    if not quiet:
                        bar.write(_words(one), file=sys.stderr)
        except ValueError as error:  # what the pipeline says of an argument that does not fit
            raise ConfigError(str(error)) from None
        for path in files.finish():
            typer.echo(path)


def _begin(files: list[str], take: int | None, every: int) -> list[Neighbor] | None:
    """The frames that a clip begins with; None where none are given."""
    if not files:
        return None
    from rag_diffusion.sampling.clip_frames import as_given

    found = as_given(files)[::every]
    if take is not None and len(found) < take:
        names = ", ".join(files)
        raise ValueError(f"--take: expected at least {take} frames, got {len(found)} of {names}; take fewer")
    return found[:take]


def _pipeline(root: Path, model: str | None, retrieves: bool, *, needed: bool) -> RetrievalPipeline:
    """The project's, with its knowledge base where there is one; without, unless pairs were asked for by name.

    Raises:
        ModelError: there are no weights.
        DataError: pairs are needed, and there are none.
    """
    try:
        return opened_pipeline(root, model, retrieves, scheduler=None, precision="fp32")
    except DataError:
        if needed or not retrieves:
            raise
        typer.echo("note      no knowledge base here: frames look at frames alone", err=True)
        return opened_pipeline(root, model, retrieves=False, scheduler=None, precision="fp32")


def _words(frame: ClipFrame) -> str:
    """What a frame looked at, on one line."""
    if frame.provenance is None:
        return f"frame {frame.number:>4}  given: {printable(frame.source)}"
    seen = [f"{printable(one.pair_id)} {one.attention:.0%}" for one in frame.provenance.neighbors]
    kept = "" if frame.drawn_now else " (was drawn before)"
    return f"frame {frame.number:>4}  looked at {', '.join(seen) or 'nothing'}{kept}"
