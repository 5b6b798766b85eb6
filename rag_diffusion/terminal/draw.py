"""`rag-diffusion draw`: pictures for texts. Light to import: the command brings the rest."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag_diffusion.errors import ConfigError
from rag_diffusion.layout import BASE, MODEL
from rag_diffusion.project import config_of, retrieval_options
from rag_diffusion.terminal.draw_files import STANDARD_OUTPUT, DrawnFiles
from rag_diffusion.terminal.errors import clean_errors
from rag_diffusion.terminal.opening import chosen_guidance, opened_pipeline, signing, silence_libraries
from rag_diffusion.where import WHERE_HELP, parse_where

if TYPE_CHECKING:
    from rag_diffusion.models.neighbor_batch import Neighbor, Picture
    from rag_diffusion.sampling.studio import Variant

_WEIGHTS = ("weight_by_step", "weight_by_map")
_SIDE = 64  # pixels at which drawings are rendered for their colours


def draw(
    prompts: Annotated[list[str] | None, typer.Argument(help="What to draw; each text is a picture.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="More texts, one a line; - is standard input.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A folder, a file NAME.png for one picture, or - for standard output.")
    ] = Path("drawings"),
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Pictures for each text.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture; the next has one more. Drawn if not given.")
    ] = None,
    neighbors: Annotated[
        int | None, typer.Option(min=0, help="Pairs to retrieve for each text; 0 draws without.")
    ] = None,
    neighbor: Annotated[
        list[str] | None,
        typer.Option(help='FILE or FILE="caption": a picture to look at, by hand; nothing is retrieved then.'),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            help="Where a --neighbor acts: left, right, top, bottom, 0,0,.5,1 or FILE; once for all, or each in turn."
        ),
    ] = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="How much a --neighbor counts; once for all, or each in turn.")
    ] = None,
    weight_by_step: Annotated[
        list[str] | None,
        typer.Option(help="When: constant, linear, early, late, 0.2,0.6 or 0:1,0.5:0.3; once, or each in turn."),
    ] = None,
    weight_by_map: Annotated[
        list[str] | None, typer.Option(help="both, style, layout or 16:1,8:0.5; once, or each --neighbor in turn.")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help='FILE or FILE="caption": a picture to guide away from.')
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Retrieve from this data set alone; may be repeated.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help=WHERE_HELP)] = None,
    style_neighbors: Annotated[
        int | None, typer.Option(min=0, help="Pairs in the manner asked for, beside the others; else retrieval.style.")
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(help="That manner, or a picture in it, which may be repeated; else the one that the text names."),
    ] = None,
    colours: Annotated[
        list[str] | None,
        typer.Option(help="All that the picture may have: '#dd2e44', or a picture or folder of them; may be repeated."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Without, random and retrieved side by side, one sheet.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="A page: neighbors, licences, where each was looked at.")
    ] = False,
    svg: Annotated[bool, typer.Option("--svg", help="A traced vector drawing beside each picture.")] = False,
    model: Annotated[
        str | None, typer.Option(help=f"Weights: a folder, or a published pipeline. {MODEL}, else {BASE}.")
    ] = None,
    stages: Annotated[
        int | None, typer.Option(min=1, help="Of a cascade: 1 is the small picture alone. All that there are.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps.")] = None,
    guidance: Annotated[str | None, typer.Option(help="none, text, neighbor, alternate, interleaved or joint.")] = None,
    text_guidance_scale: Annotated[float | None, typer.Option(help="How much the text is followed.")] = None,
    neighbor_guidance_scale: Annotated[float | None, typer.Option(help="How much the neighbors are followed.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="As DDIMScheduler, DPMSolverMultistepScheduler ...")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to begin with instead of noise.")] = None,
    strength: Annotated[float, typer.Option(min=0.0, max=1.0, help="How far that picture is noised.")] = 0.8,
    begin_strength: Annotated[
        float | None,
        typer.Option(help="Below 1: begin with the first neighbor, noised so far; it keeps the thing. 1: with noise."),
    ] = None,
    credentials: Annotated[
        str | None,
        typer.Option(help="Sign what made each picture (C2PA): a folder of certificate.pem, key.pem, or development."),
    ] = None,
    watermark: Annotated[str | None, typer.Option(help="A text whose mark is put into the pixels, invisibly.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and no word about the neighbors.")] = False,
    root: Annotated[Path, typer.Option(help="The directory that holds params.yaml.")] = Path(),
) -> None:
    """Draw pictures for texts, from what the project's model and knowledge base know, with provenance inside.

    Example: rag-diffusion draw "a lucky shamrock in the style of Twemoji" --seed 7 --explain
    """
    with clean_errors():
        texts = _texts(prompts or [], file)
        controls = {"mask": mask, "weight": weight, "weight_by_step": weight_by_step, "weight_by_map": weight_by_map}
        by_hand = _controlled(_neighbors(neighbor or []), controls)
        writer = DrawnFiles(out, compare=compare, explain=explain, svg=svg, quiet=quiet)
        writer.check(len(texts) * num_images)
        if by_hand and (neighbors is not None or source or where or style_neighbors is not None):
            raise ConfigError(
                "--neighbor: expected pictures by hand or --neighbors, --style-neighbors, --source and --where, got "
                "both; leave one out"
            )
        manner, examples = _style(style or [])
        if not quiet:
            silence_libraries()
        from rag_diffusion.sampling import studio

        seeds, config = studio.choose_seeds(seed, num_images), config_of(root)
        writer.sign = signing(root, credentials, config)
        retrieves = not by_hand and neighbors != 0
        pipe = opened_pipeline(root, model, retrieves, scheduler=scheduler, precision=precision or "fp32")
        pipe.set_progress_bar_config(disable=quiet, desc="draw", file=sys.stderr)
        if watermark is not None:
            pipe.watermark = watermark
        options = {
            "guidance": chosen_guidance(
                config, mode=guidance, text=text_guidance_scale, neighbor=neighbor_guidance_scale
            ),
            "num_inference_steps": steps or (20 if config is None else config.sample.num_inference_steps),
            "style": manner,
            "style_images": examples or None,
            "colours": _colours(colours) if colours else None,
            "source": source or (),
            "negative_neighbors": _neighbors(negative or []) or None,
            "keep_pictures": explain,
            "image": None if image is None else _open(image),
            "strength": strength,
            "begin_strength": begin_strength,
            "stages": stages,
        }
        if not by_hand:
            of_project = {} if config is None else retrieval_options(config)
            options |= of_project | _weights_of_retrieved(controls)
            options["where"] = parse_where(where or [], of_project.get("where"))
            if style_neighbors is not None or not retrieves:
                options["num_style_neighbors"] = style_neighbors or 0
        number = (3 if config is None else config.retrieval.content) if neighbors is None else neighbors
        variants = _variants(by_hand=bool(by_hand), retrieves=retrieves, compare=compare)
        try:
            for picture in studio.draw(
                pipe, texts, seeds, variants=variants, given=by_hand, num_neighbors=number, options=options
            ):
                writer.write(picture)
        except ValueError as error:  # what the pipeline says of an argument that does not fit
            raise ConfigError(str(error)) from None
        writer.finish()


def _texts(prompts: Sequence[str], file: Path | None) -> list[str]:
    """What to draw, none of it empty.

    Raises:
        ConfigError: nothing, an empty text, or a file that is not there.
    """
    texts = list(prompts)
    if file is not None:
        try:
            lines = sys.stdin.read() if file == STANDARD_OUTPUT else file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--file {file}: expected a text file with a prompt on each line, got {error}") from None
        texts += [line.strip() for line in lines.splitlines() if line.strip()]
    if not texts or not all(text.strip() for text in texts):
        raise ConfigError(
            'draw: expected a text, as in rag-diffusion draw "a red apple in the style of Noto", or --file with one on '
            f"each line; got {'an empty one' if texts else 'none'}"
        )
    return texts


def _neighbors(options: Sequence[str]) -> list[Neighbor]:
    """FILE or FILE=caption, each as a neighbor; one without a caption shows what the prompt asks for."""
    if not options:
        return []
    from rag_diffusion.models.neighbor_batch import Neighbor

    neighbors = []
    for text in options:
        name, sign, caption = (text, "", "") if Path(text).is_file() else text.partition("=")
        neighbors.append(Neighbor.from_file(name, caption.strip() if sign else None))
    return neighbors


def _controlled(given: Sequence[Neighbor], controls: Mapping[str, Sequence[Any] | None]) -> list[Neighbor]:
    """Each neighbor with what is said of it: one value for all, or one for each in turn.

    Raises:
        ConfigError: there are other numbers of them, or one is not of its form.
    """
    neighbors = list(given)
    for name, values in controls.items():
        if not values or not neighbors:
            continue
        if len(values) not in (1, len(neighbors)):
            option, count = name.replace("_", "-"), len(neighbors)
            raise ConfigError(f"--{option}: expected 1 or {count}, as there are --neighbor, got {len(values)}")
        each = [*values] * len(neighbors) if len(values) == 1 else values
        try:
            neighbors = [replace(neighbor, **{name: value}) for neighbor, value in zip(neighbors, each, strict=True)]
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return neighbors


def _weights_of_retrieved(controls: Mapping[str, Sequence[Any] | None]) -> dict[str, str]:
    """Weights by step and map that are given for all neighbors that are retrieved.

    Raises:
        ConfigError: more than one is given, or what only neighbors by hand have.
    """
    if alone := [name for name in ("mask", "weight") if controls[name]]:
        raise ConfigError(f"--{alone[0]}: expected --neighbor with it, got none")
    weights = {}
    for name in _WEIGHTS:
        values = controls[name] or ()
        if len(values) > 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected one for all that are retrieved, got {len(values)}")
        if values:
            weights[name] = values[0]
    if weights:
        from rag_diffusion.models.neighbor_control import as_curve, as_map_weights

        try:
            as_curve(weights.get("weight_by_step", "constant"))
            as_map_weights(weights.get("weight_by_map", "both"))
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return weights


def _style(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """The name of the manner, if any, and the files of pictures in it.

    Raises:
        ConfigError: several are no files.
    """
    examples = [text for text in given if Path(text).is_file()]
    names = [text for text in given if text not in examples]
    if len(names) > 1:
        raise ConfigError(f"--style: expected one manner, and files of pictures in it, got {', '.join(names)}")
    return (names[0] if names else None), examples


def _colours(given: Sequence[str]) -> list[str | Picture]:
    """Colours as they are, and pictures, of a folder all that are read in it.

    Raises:
        ConfigError: a folder has no pictures, or a file is not there.
        DataError: a drawing cannot be rendered.
    """
    from rag_diffusion.readers.captioned import IMAGE_SUFFIXES
    from rag_diffusion.readers.svg import render_drawing

    found: list[str | Picture] = []
    for text in given:
        path = Path(text)
        files = sorted(one for one in path.rglob("*") if one.suffix.lower() in IMAGE_SUFFIXES)
        if not (files or text.startswith("#") or path.is_file()):
            raise ConfigError(f"--colours: expected '#dd2e44', a picture or a folder of pictures, got {text!r}")
        for name in [str(one) for one in files] or [text]:
            drawing = Path(name).is_file() and name.lower().endswith(".svg")
            found.append(render_drawing(Path(name).read_bytes(), name, _SIDE) if drawing else name)
    return found


def _variants(*, by_hand: bool, retrieves: bool, compare: bool) -> list[Variant]:
    """What is drawn of each prompt and seed."""
    if by_hand:
        return ["none", "given"] if compare else ["given"]
    if retrieves:
        return ["none", "random", "retrieved"] if compare else ["retrieved"]
    return ["none"]


def _open(path: Path) -> Picture:
    """A picture of a file.

    Raises:
        DataError: it is none.
    """
    from rag_diffusion.models.neighbor_batch import Neighbor

    return Neighbor.from_file(path).image
