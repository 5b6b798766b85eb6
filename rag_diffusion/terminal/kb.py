"""`rag-diffusion kb ...`. Light to import: the commands bring the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.extras import need
from rag_diffusion.layout import SCRATCH
from rag_diffusion.terminal.errors import clean_errors
from rag_diffusion.terminal.kb_snapshot import restore, snapshot
from rag_diffusion.terminal.push import push_base
from rag_diffusion.where import WHERE_HELP, parse_where

kb = typer.Typer(help="The knowledge base that neighbors come from.", no_args_is_help=True)
kb.command()(snapshot)
kb.command()(restore)
kb.command("push")(push_base)

Root = Annotated[Path, typer.Option(help="The directory that holds params.yaml.")]
Name = Annotated[str, typer.Argument(help="of the data set, as my-photos")]
ALLOW = "A host that may have a private address, HOST or HOST:PORT."
FORMS = (
    "imagefolder, image_text, photos (captioned by their names), webdataset, parquet, arrow (datasets.save_to_disk), "
    "datasets (what the package of that name reads), coco, iconify, video, archive; "
    "auto looks what it is"
)


@kb.command()
def add(
    name: Name,
    path: Annotated[
        str | None,
        typer.Argument(
            help="a folder, an archive, a table, hf://datasets/OWNER/NAME, s3://.../{00..41}.tar, npm:@iconify/json"
        ),
    ] = None,
    root: Root = Path(),
    form: Annotated[str, typer.Option(help=FORMS)] = "auto",
    licence: Annotated[str, typer.Option(help="Of images that name none.")] = "unspecified",
    attribution: Annotated[str, typer.Option(help="Of images that name none.")] = "unspecified",
    caption: Annotated[
        str, typer.Option(help="Of a text with several lines: first-line, all, or a language whose line begins so.")
    ] = "first-line",
    image_column: Annotated[str, typer.Option(help="Of a table or data set, where its name does not tell.")] = "",
    caption_column: Annotated[str, typer.Option(help="The same of captions.")] = "",
    remote: Annotated[str, typer.Option(help="In place of a path: URL of a server of clip-retrieval's protocol.")] = "",
    index: Annotated[str, typer.Option(help="With --remote: which of its indexes; its first if none is named.")] = "",
    allow_host: Annotated[list[str] | None, typer.Option(help=ALLOW)] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of the data set of that name.")] = False,
    no_originals: Annotated[
        bool,
        typer.Option("--no-originals", help="Do not keep the files as they come; another image size needs them again."),
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another writer.")] = 60.0,
) -> None:
    """Make a data set of images with captions; a build that was stopped goes on when it is started again."""
    from rag_diffusion.knowledge.folders import check_name

    with clean_errors():
        if (path is None) == (not remote):
            raise ConfigError("kb add: expected a path, or --remote URL, and not both")
        check_name(name)
        from rag_diffusion.readers.addresses import is_address

        elsewhere = path is not None and is_address(path)
        if path is not None and not elsewhere and not Path(path).exists():
            raise DataError(f"{path}: expected a file or a folder, got none; name another path")
        from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
        from rag_diffusion.knowledge.remote.remote_source import RemoteSource
        from rag_diffusion.readers.forms import open_reader
        from rag_diffusion.store.manifest import REMOTE, Manifest
        from rag_diffusion.terminal.kb_report import as_text

        base = KnowledgeBase.open(root, wait=wait)
        if path is None:
            allowed = sorted(allow_host or ())
            RemoteSource(Manifest(name=name, form=REMOTE, url=remote, index=index, allow_hosts=allowed)).indices()
            manifest = base.writer.add_remote(
                name,
                remote,
                index=index,
                allow_hosts=allowed,
                licence=licence,
                attribution=attribution,
                replace=replace,
            )
        else:
            options = {"image_column": image_column, "caption_column": caption_column, "allow_hosts": allow_host}
            given: dict[str, object] = {option: value for option, value in options.items() if value}
            if path.startswith("npm:"):
                given["cache"] = root / SCRATCH / "packages"
            reader = open_reader(form, path, part=caption, **given)
            if (carded := reader.licence(licence)) != licence:
                licence = carded
                typer.echo(f"licence {licence}, as its card says")
            typer.echo(f"reading {reader.path} as {reader.form}{f': {reader.why}' if reader.why else ''}")
            manifest = base.add(
                name,
                reader,
                form=reader.form,
                origin=path,
                licence=licence,
                attribution=attribution,
                replace=replace,
                originals=not no_originals,
            )
            for sentence in reader.doubts.sentences():
                typer.echo(f"warning: {sentence}")
        typer.echo(as_text(manifest))


@kb.command("list")
def list_all(root: Root = Path()) -> None:
    """All data sets: pairs, form, licences, and what is the matter where one cannot be searched."""
    from rag_diffusion.knowledge.catalogue import Catalogue
    from rag_diffusion.terminal.kb_report import as_table

    with clean_errors():
        typer.echo(as_table(Catalogue.light(root).list()))


@kb.command()
def info(
    name: Name,
    root: Root = Path(),
    check: Annotated[bool, typer.Option("--check", help="Compare every byte of its files with its manifest.")] = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="Everything that was not taken, and why.")] = False,
) -> None:
    """What a data set says of itself: counts, licences, rejections, hashes, recall of its index."""
    from rag_diffusion.knowledge.catalogue import Catalogue
    from rag_diffusion.terminal.kb_report import as_text
    from rag_diffusion.terminal.printable import printable

    with clean_errors():
        base = Catalogue.light(root)
        typer.echo(as_text(base.info(name)))
        if rejected:
            for rejection in base.rejections(name):
                typer.echo(printable(f"{rejection.what}: {rejection.reason}"))
        if check:
            base.check(name)
            typer.echo("every file is as its manifest tells")


@kb.command()
def remove(
    name: Name,
    root: Root = Path(),
    wait: Annotated[float, typer.Option(help="Seconds to wait for another writer.")] = 60.0,
) -> None:
    """Remove a data set and all that was made from it."""
    with clean_errors():
        _expect(root, name)
        from rag_diffusion.knowledge.knowledge_base import KnowledgeBase

        KnowledgeBase.open(root, wait=wait).remove(name)
        typer.echo(f"removed {name}")


@kb.command()
def rebuild(
    name: Name,
    root: Root = Path(),
    no_originals: Annotated[bool, typer.Option("--no-originals", help="Give up the files kept as they came.")] = False,
    stretch: Annotated[
        bool, typer.Option("--stretch", help="Enlarge images without an original too, which blurs them.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another writer.")] = 60.0,
) -> None:
    """Make a data set again from what it holds: after `align`, for another image size, or where a file was damaged."""
    with clean_errors():
        _expect(root, name)
        from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
        from rag_diffusion.terminal.kb_report import as_text

        base = KnowledgeBase.open(root, wait=wait).writer
        typer.echo(as_text(base.rebuild(name, originals=not no_originals, stretch=stretch)))


@kb.command()
def merge(
    name: Name,
    root: Root = Path(),
    wait: Annotated[float, typer.Option(help="Seconds to wait for another writer.")] = 60.0,
) -> None:
    """Make one segment of all that uploads have left; it happens little by little anyway, while a server runs."""
    with clean_errors():
        _expect(root, name)
        from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
        from rag_diffusion.terminal.kb_report import as_text

        typer.echo(as_text(KnowledgeBase.open(root, wait=wait).writer.merger.merge(name, everything=True)))


@kb.command()
def calibrate(root: Root = Path()) -> None:
    """Fit, on the pairs of all data sets here, the probability that a hit shows what was asked for."""
    with clean_errors():
        from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
        from rag_diffusion.terminal.kb_report import calibration_as_text

        calibration = KnowledgeBase.open(root).calibrate()
        if not calibration.fitted:
            raise DataError(calibration.reason)
        typer.echo(calibration_as_text(calibration))


@kb.command()
def search(
    query: Annotated[str, typer.Argument(help="what the images are to show, in words")],
    root: Root = Path(),
    top_k: Annotated[int, typer.Option(help="Hits asked for.")] = 10,
    source: Annotated[list[str] | None, typer.Option(help="Only of this data set, or source in it.")] = None,
    class_: Annotated[list[str] | None, typer.Option("--class", help="Only of this class.")] = None,
    licence: Annotated[list[str] | None, typer.Option(help="Only under this licence.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only of this split.")] = None,
    where: Annotated[list[str] | None, typer.Option(help=WHERE_HELP)] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Not this pair id.")] = None,
    explain: Annotated[Path | None, typer.Option(help="Say why, and write an HTML page with thumbnails.")] = None,
) -> None:
    """Find pairs by a text: score, pair id and caption, best first. Filters may be given several times."""
    from rag_diffusion.terminal.kb_search import search_text

    with clean_errors():
        filters = {"source": source, "class": class_, "licence": licence, "split": split}
        named = [f"{column}={value}" for column, values in filters.items() for value in values or ()]
        typer.echo(
            search_text(
                root,
                query,
                top_k=top_k,
                page=explain,
                where=parse_where([*named, *(where or ())]),
                exclude=tuple(exclude or ()),
            )
        )


@kb.command()
def serve(
    root: Root = Path(),
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets every machine ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 1234,
    read_only: Annotated[bool, typer.Option("--read-only", help="Take no uploads.")] = False,
    allow_host: Annotated[list[str] | None, typer.Option(help=f"{ALLOW} Of queries by image URL.")] = None,
    keys: Annotated[
        Path | None, typer.Option(help="A file of API keys: NAME KEY, then read or write; to write needs one.")
    ] = None,
    key_to_read: Annotated[bool, typer.Option("--key-to-read", help="To read needs a key as well.")] = False,
    rate: Annotated[int, typer.Option(min=1, help="Requests a minute of one key.")] = 600,
    open_to_all: Annotated[bool, typer.Option("--open-to-all", help="Other machines may write without a key.")] = False,
) -> None:
    """Serve it over HTTP in clip-retrieval's protocol, and take uploads; see docs/knowledge-base-http.md for keys."""
    with clean_errors():
        need("server", "fastapi", "uvicorn", "multipart", "msgspec", "h11", "prometheus_client")
        from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
        from rag_diffusion.serving.server import Access
        from rag_diffusion.serving.server import serve as run

        if key_to_read and keys is None:
            raise ConfigError("kb serve: expected --keys FILE with --key-to-read, got none")
        access = Access(
            allow_hosts=tuple(allow_host or ()), read_only=read_only, keys=keys, key_to_read=key_to_read, rate=rate
        )
        run(KnowledgeBase.open(root), access, host=host, port=port, open_to_all=open_to_all)


def _expect(root: Path, name: str) -> None:
    """Refuse a name that no data set has, before anything is loaded."""
    from rag_diffusion.knowledge.catalogue import Catalogue

    if name != "corpus":  # what is to be done with it, the writer says
        Catalogue.light(root).expect(name)
