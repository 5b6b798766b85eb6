"""`rag-diffusion ...` and `python -m rag_diffusion ...`. Light to import: stages bring the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from rag_diffusion.errors import ConfigError, ModelError, RagDiffusionError
from rag_diffusion.extras import need
from rag_diffusion.terminal.animate import animate
from rag_diffusion.terminal.cluster import cluster
from rag_diffusion.terminal.draw import draw
from rag_diffusion.terminal.errors import clean_errors
from rag_diffusion.terminal.init import init
from rag_diffusion.terminal.kb import kb
from rag_diffusion.terminal.push import push_model
from rag_diffusion.terminal.ui import ui

TELEMETRY_OFF = {
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

HELP = "Draw pictures from words and from pictures that are found for them in a knowledge base of your own."

app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False)
base = typer.Typer(help="The base generator that fine-tuning starts from.", no_args_is_help=True)
ruler = typer.Typer(help="The scorers that every image is measured with.", no_args_is_help=True)
pack = typer.Typer(help="A training as one folder, for a machine with a GPU and no network.", no_args_is_help=True)
app.add_typer(base, name="base")
app.add_typer(cluster, name="cluster")
app.add_typer(kb, name="kb")
app.add_typer(pack, name="pack")
app.add_typer(ruler, name="ruler")

Root = Annotated[Path, typer.Option(help="The directory that holds params.yaml.")]


def _say_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rag-diffusion {version('rag-diffusion')}")
        raise typer.Exit


@app.callback(help=HELP)
def before_each_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Switch off what other tools would send home."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)


app.command()(draw)
app.command()(animate)
app.command()(ui)
app.command("push")(push_model)
app.command()(init)


@app.command()
def run(
    stage: Annotated[str, typer.Argument(help="ingest, align, ... as in dvc.yaml")],
    root: Root = Path(),
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE in place of params.yaml's.")] = None,
) -> None:
    """Run one stage of the pipeline by hand. `dvc repro` runs all that are out of date."""
    from rag_diffusion.pipeline.runner import run_stage
    from rag_diffusion.progress import reporting_to_dagster, show_log

    signal.signal(signal.SIGTERM, _terminated)
    show_log()
    with clean_errors(), reporting_to_dagster():
        need("pipeline", "mlflow", "pandas")
        run_stage(stage, root, dict(_key_and_value(setting) for setting in settings or ()))


@base.command("promote")
def base_promote(root: Root = Path()) -> None:
    """Make the result of pipelines/pretrain the base generator in data/base, which git tracks."""
    from rag_diffusion.pipeline.promote import promote_base

    with clean_errors():
        typer.echo(f"promoted to {promote_base(root)}; commit it with its card")


@base.command("promote-upsampler")
def base_promote_upsampler(root: Root = Path()) -> None:
    """Make the result of pipelines/upsample the super-resolution stage in data/upsampler, which git tracks."""
    from rag_diffusion.pipeline.promote import promote_upsampler

    with clean_errors():
        typer.echo(f"promoted to {promote_upsampler(root)}; commit it with its card")


@base.command("promote-frames")
def base_promote_frames(root: Root = Path()) -> None:
    """Make the result of pipelines/clips what draws a clip's next frame, data/frames, which git tracks."""
    from rag_diffusion.pipeline.promote import promote_frames

    with clean_errors():
        typer.echo(f"promoted to {promote_frames(root)}; commit it with its card")


@pack.command("pretrain")
def pack_pretrain(
    out: Annotated[Path, typer.Argument(help="the folder to make")],
    max_mb: Annotated[float, typer.Option(help="The most megabytes of all files; pairs fill what is left.")] = 60.0,
    wheels: Annotated[Path | None, typer.Option(help="A folder of wheels that the other machine lacks.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="The corpus to train on; data/corpus where not given.")] = None,
    root: Root = Path(),
) -> None:
    """Write all that training the base needs: code, drawings as SVG, a small text encoder. There: `python run.py`."""
    from rag_diffusion.packing.pack import pack_pretrain as write

    with clean_errors():
        manifest = write(root, out, max_mb=max_mb, wheels=wheels, corpus=corpus)
        typer.echo(
            f"{out}: {manifest['pairs']} pairs, {manifest['left_out']} left out for want of room, "
            f"{manifest['megabytes']} MB; there: python run.py --out OUT --minutes 10, then here: "
            "rag-diffusion pack result OUT"
        )


@pack.command("result")
def pack_result(
    out: Annotated[Path, typer.Argument(help="the folder that run.py wrote")],
    root: Root = Path(),
) -> None:
    """Put the parts of a trained pack together as pipelines/pretrain/result; `rag-diffusion base promote` goes on."""
    from rag_diffusion.packing.result import bring_home

    with clean_errors():
        typer.echo(f"{bring_home(root, out)}; `rag-diffusion base promote` makes it data/base")


@ruler.command("promote")
def ruler_promote(root: Root = Path()) -> None:
    """Make the result of pipelines/ruler the ruler in data/ruler, which git tracks."""
    from rag_diffusion.pipeline.promote import promote_ruler

    with clean_errors():
        typer.echo(f"promoted to {promote_ruler(root)}; commit it with its card")


@app.command()
def evaluate(root: Root = Path()) -> None:
    """Measure the fine-tuned model by the full protocol; it takes a while, and goes on where it was stopped.

    Every variant on all test prompts, curves on validation prompts, a page of pictures: see `evaluate` in params.yaml.
    """
    from rag_diffusion.pipeline.promote import publish_evaluation

    command = ["--cd", "pipelines", "--wait-for-lock", "repro", "evaluate/dvc.yaml"]
    with clean_errors():
        need("pipeline", "dvc")
        if not (root / "pipelines/evaluate/dvc.yaml").is_file():
            raise ConfigError(
                f"evaluate: expected a clone of rag-diffusion, found no pipelines/evaluate in {root.resolve()}; in a "
                "project of your own `dvc repro` measures what its corpus allows"
            )
        if subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root).returncode:
            raise ModelError("evaluate: expected the stage to end well; what went wrong stands above")
        typer.echo(f"published to {publish_evaluation(root)}")


@app.command()
def sync(root: Root = Path()) -> None:
    """Tell Dagster what `dvc repro` made in a shell; its sensor does so by itself while `dagster dev` runs."""
    with clean_errors():
        if not _orchestrated("sync", root):
            raise RagDiffusionError("sync: expected Dagster and DVC to answer; what went wrong stands above")


@app.command()
def promote(root: Root = Path()) -> None:
    """Register the fine-tuned model in MLflow and make it @champion, if every check of the pipeline passes."""
    with clean_errors():
        if not _orchestrated("promote", root):
            raise RagDiffusionError("promote: expected every check to pass and the model to draw; see above")


@app.command()
def lineage(
    what: Annotated[str, typer.Argument(help="a file that a stage made, a drawn PNG, or an MLflow run id")],
    root: Root = Path(),
    draw: Annotated[Path | None, typer.Option(help="Write it as an SVG drawing as well.")] = None,
) -> None:
    """Say which corpus, index, base, parameters, commit and runs made something."""
    from rag_diffusion.lineage import as_text, trace
    from rag_diffusion.terminal.lineage_svg import as_svg

    with clean_errors():
        traced = trace(root, what, pictures=draw is not None)
        typer.echo(as_text(traced))
        if draw is not None:
            draw.write_text(as_svg(traced), encoding="utf-8")


@app.command()
def redraw(
    file: Annotated[Path, typer.Argument(help="a PNG that was drawn here, with its provenance inside")],
    root: Root = Path(),
    out: Annotated[
        Path | None, typer.Option(help="Where to write it; FILE.again.png in this folder if nothing is named.")
    ] = None,
) -> None:
    """Draw a picture again from what its own file says, and compare; or say why it cannot be the same."""
    from rag_diffusion.terminal.redraw import redraw_file

    with clean_errors():
        typer.echo(redraw_file(root, file, out or Path(f"{file.stem}.again.png")))


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="a PNG or JPEG")],
    watermark: Annotated[str, typer.Option(help="A text whose mark may be in the pixels.")] = "",
    trust: Annotated[list[Path] | None, typer.Option(help="A PEM file of a root whose signatures are trusted.")] = None,
) -> None:
    """Say what a picture tells of its making: provenance, signed credentials, what is owed, its watermark.

    It ends with 1 where the credentials are not as they were signed, or the watermark is not there.
    """
    from rag_diffusion.terminal.verify import verified

    with clean_errors():
        sentences, sound = verified(file, watermark, tuple(trust or ()))
        for sentence in sentences:
            typer.echo(sentence)
        if not sound:
            raise typer.Exit(1)


@app.command()
def show(root: Root = Path()) -> None:
    """Say where the pictures and the numbers are, and print the metric table."""
    from rag_diffusion.terminal.show import summary

    with clean_errors():
        typer.echo(summary(root))


def _orchestrated(module: str, root: Path) -> bool:
    """Whether a module of `rag_diffusion.orchestration` ended well in the project at `root`."""
    need("pipeline", "dagster", "dvc")
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(
            f"{module}: expected a project with a dvc.yaml, found none in {root.resolve()}; name one by --root, or "
            "make one with `rag-diffusion init FOLDER`"
        )
    return subprocess.run([sys.executable, "-m", f"rag_diffusion.orchestration.{module}"], cwd=root).returncode == 0


def _key_and_value(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise ConfigError(f"--set {text}: expected KEY=VALUE, as sample.guidance=joint")
    return key, value


def _terminated(number: int, frame: FrameType | None) -> None:
    """Turn SIGTERM into an exit that removes half-written files and ends the MLflow run."""
    raise KeyboardInterrupt


def main() -> None:
    """Entry point."""
    app()
