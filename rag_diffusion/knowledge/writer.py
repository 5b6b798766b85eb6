"""Writing data sets: what is made beside the old one takes its place in one step, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from functools import partial

from rag_diffusion.config import Config
from rag_diffusion.engine.work import open_engine
from rag_diffusion.errors import ConfigError, LineageError
from rag_diffusion.knowledge.folders import DataSetFolders, check_name
from rag_diffusion.knowledge.generations import Generations
from rag_diffusion.knowledge.ingest import EmbedCandidates, Ingest, keep
from rag_diffusion.knowledge.merger import Merger
from rag_diffusion.layout import ENCODER
from rag_diffusion.readers.checked import Decode, checked_image, named
from rag_diffusion.readers.records import Item, Reader, Rejection
from rag_diffusion.retrieval.encoder_folder import PairEncoder
from rag_diffusion.store.manifest import CORPUS_NAME, REMOTE, UPLOADED, Manifest, rebuild_hint
from rag_diffusion.store.pair_set import TABLE, PairColumns
from rag_diffusion.store.segments import Segment, segments_of
from rag_diffusion.store.staging import Staging
from rag_diffusion.store.vectors import VECTORS_FILE
from rag_diffusion.types import Pair

SEALED = 512  # pairs from which on a segment is not written again by an insertion
UNKNOWN = "unspecified"  # licence and attribution where nobody says


class DataSetWriter:
    """Writes the data sets of a project; writers of one data set wait for each other.

    Args:
        folders: where they lie.
        config: of params.yaml.
        encoder: makes the vectors of pairs.
        wait: seconds to wait for another writer of the same data set.
    """

    def __init__(self, folders: DataSetFolders, config: Config, encoder: PairEncoder, *, wait: float) -> None:
        self._folders, self._config, self._encoder = folders, config, encoder
        self._generations = Generations(folders, config, encoder)
        self._wait = wait
        self.decode: Decode = checked_image  # of pictures; a server has them decoded in other processes
        self.merger = Merger(folders, self._generations, wait=wait)

    def add(
        self,
        name: str,
        reader: Reader | Iterable[Item | Rejection],
        *,
        form: str = "items",
        origin: str = "",
        licence: str = UNKNOWN,
        attribution: str = UNKNOWN,
        replace: bool = False,
        originals: bool = True,
    ) -> Manifest:
        """Make a data set of what a reader yields; one that was stopped goes on.

        Args:
            name: of the data set; pair ids begin with it.
            reader: can be read from the start again.
            form: of the reader, as it is told.
            origin: where it reads, as it is told.
            licence: of items that name none.
            attribution: of items that name none.
            replace: whether a data set of that name may be there; it holds until the new one is whole.
            originals: whether the files are kept as they come, so that images of another size can be made of them.

        Returns:
            The manifest of the finished data set.

        Raises:
            ConfigError: there is one of that name, or its index recalls less than `index.min_recall`.
            DataError: the source yields no pair.
            BusyError: another process writes it.
            ModelError: there is no encoder.
        """
        with self._folders.writing(check_name(name), self._wait):
            old = self._generations.present(name)
            if old is not None and not replace:
                raise ConfigError(
                    f"kb: expected a new name, but there is a data set {name!r} of {old.num_pairs} pairs; give "
                    "--replace, or another name"
                )
            facts = self._generations.facts(
                name, form, origin=origin, licence=licence, attribution=attribution, originals=originals
            )
            staging = self._generations.staging(facts)
            try:
                self._ingest(facts).fill(staging, reader)
                return self._generations.publish(facts, staging, old)
            except BaseException:
                if not staging.parts:  # nothing to go on with
                    shutil.rmtree(staging.folder, ignore_errors=True)
                raise

    def add_remote(
        self,
        name: str,
        url: str,
        *,
        index: str = "",
        allow_hosts: Iterable[str] = (),
        licence: str = UNKNOWN,
        attribution: str = UNKNOWN,
        replace: bool = False,
    ) -> Manifest:
        """Note a data set that another machine serves.

        Args:
            name: of the data set.
            url: of the server.
            index: which of the server's indexes; empty is its first.
            allow_hosts: hosts of it and of its images that may have private addresses.
            licence: of its images that name none.
            attribution: of its images that name none.
            replace: whether a data set of that name may be there.

        Returns:
            The manifest that was written.

        Raises:
            ConfigError: there is one of that name.
        """
        with self._folders.writing(check_name(name), self._wait):
            old = self._generations.present(name)
            if old is not None and not replace:
                raise ConfigError(f"kb: expected a new name, but there is a data set {name!r}; give --replace")
            manifest = Manifest(
                name=name,
                form=REMOTE,
                origin=url,
                url=url,
                index=index,
                allow_hosts=sorted(allow_hosts),
                licence=licence,
                attribution=attribution,
            )
            self._folders.forget(name)
            manifest.write(self._folders.manifest(name))
            self._folders.sweep(name)
            return manifest

    def insert(
        self,
        name: str,
        items: Iterable[Item | Pair | Rejection],
        *,
        licence: str = UNKNOWN,
        attribution: str = UNKNOWN,
    ) -> tuple[Manifest, list[Rejection]]:
        """Put pairs into a data set of uploaded ones, which is made if there is none; the next query finds them.

        They become a segment of their own, with those of the last one where it is small: an insertion costs the same
        whatever there is. Segments of one size are merged in the background, see `Merger`.

        Args:
            name: of the data set.
            items: read once, a part at a time; a pair is one that was checked before.
            licence: of items that name none.
            attribution: of items that name none.

        Returns:
            The data set, and which of the items were not taken.

        Raises:
            ConfigError: the data set was read from a source, which would not know of them.
            DataError: it would be empty.
        """
        with self._folders.writing(check_name(name), self._wait):
            old = self._generations.present(name)
            if old is not None and old.form != UPLOADED:
                raise ConfigError(
                    f"kb: expected a data set of uploaded pairs, but {name!r} was read from "
                    f"{old.origin or old.form!r}; add to its source and replace it, or upload into another data set"
                )
            keeps = old is None or old.originals
            facts = self._generations.facts(name, UPLOADED, licence=licence, attribution=attribution, originals=keeps)
            shutil.rmtree(self._folders.building(name), ignore_errors=True)
            try:
                manifest, rejected = self._inserted(facts, items, old)
            finally:
                shutil.rmtree(self._folders.building(name), ignore_errors=True)
        self.merger.after(manifest)
        return manifest, rejected

    def rebuild(self, name: str, *, originals: bool = True, stretch: bool = False) -> Manifest:
        """Make all of a data set again from what it holds: after damage, for another encoder or another image size.

        Vectors that are whole, of this encoder and of this image size are kept, if they never had fewer bits than
        `index.precision`.

        Args:
            name: of the data set.
            originals: whether the originals that it has are kept on.
            stretch: whether images without an original may be made larger than they are, which blurs them.

        Returns:
            The manifest of the new generation.

        Raises:
            ConfigError: another machine serves it, or images without an original would become larger.
            DataError: its shards or originals are damaged too.
        """
        with self._folders.writing(check_name(name), self._wait):
            old = Manifest.read(self._folders.manifest(name))
            if old.form == REMOTE:
                raise ConfigError(f"kb: expected a data set on this machine, but {name!r} is served by {old.url}")
            facts = self._generations.facts(
                name,
                old.form,
                origin=old.origin,
                licence=old.licence,
                attribution=old.attribution,
                originals=old.originals and originals,
            )
            resized = facts.image_size != old.image_size
            if facts.image_size > old.image_size and not stretch:
                _check_originals(old, facts.image_size)
            if originals or resized:
                self._generations.check_originals(old, whole=True)
            staging = self._generations.staging(facts)
            same = not resized and old.encoder_hash == facts.encoder_hash
            kept = segments_of(old)
            if same and self._generations.as_fine(old) and self._generations.intact(old, VECTORS_FILE):
                staging.drop(0)  # what a killed process put there
                self._keep(staging, old, kept)
            else:
                kept = []
                ingest = (
                    Ingest(facts, self._encoder, self.decode, self._generations.originals(old))
                    if resized
                    else self._ingest(facts)
                )
                ingest.fill(staging, self._generations.stored(old))
            return self._generations.publish(facts, staging, old, keeps_originals=True, kept=kept)

    def remove(self, name: str) -> None:
        """Remove the data set `name` with its pairs, vectors, indexes, cached images and unfinished builds.

        Raises:
            ConfigError: it is the pipeline's corpus, or there is none of that name.
            BusyError: another process writes it.
        """
        if name == CORPUS_NAME:
            raise ConfigError(
                "kb: expected a data set of your own, got 'corpus', which `dvc repro` makes: remove data/corpus"
            )
        with self._folders.writing(check_name(name), self._wait):
            if not (self._folders.manifest(name).exists() or self._folders.building(name).exists()):
                raise ConfigError(
                    f"kb: expected one of {', '.join(self._folders.names()) or 'no data set'}, got {name!r}"
                )
            self._folders.drop(name)

    def _ingest(self, facts: Manifest) -> Ingest:
        """Embeds the candidates of a source: here, or by the workers that params.yaml names."""
        engine = open_engine(self._config)
        if engine is None:
            return Ingest(facts, self._encoder, self.decode)
        encoder = (self._folders.root / ENCODER).absolute()  # workers have another working directory
        work = EmbedCandidates(facts=facts, encoder=encoder, device=self._config.device)
        return Ingest(facts, self._encoder, self.decode, elsewhere=partial(engine.map, work))

    def _inserted(
        self, facts: Manifest, items: Iterable[Item | Pair | Rejection], old: Manifest | None
    ) -> tuple[Manifest, list[Rejection]]:
        staging, source = self._generations.staging(facts), iter(items)
        small, beside = list[Segment](), list[Segment]()
        if old is not None:
            for segment in segments_of(old):
                (small if segment.manifest.num_pairs < SEALED else beside).append(segment)
            if old.encoder_hash != facts.encoder_hash:
                raise LineageError(
                    f"kb: expected {old.name!r} to be of the present encoder, but another one made its vectors; "
                    f"{rebuild_hint(old.name)} before you add to it"
                )
            if old.image_size != facts.image_size:
                raise LineageError(
                    f"kb: expected {old.name!r} to have images of {facts.image_size} pixels, but it has "
                    f"{old.image_size}; {rebuild_hint(old.name)} before you add to it"
                )
            self._generations.check_originals(old)
            self._keep(staging, old, small)
            source = self._not_taken(source, old)
        before = len(staging.parts)
        Ingest(facts, self._encoder, self.decode).take(staging, source)
        new = staging.parts[before:]
        rejected = [rejection for part in new for rejection in part.rejected()]
        if old is not None and not any(part.rows for part in new):
            return old, rejected  # whoever sent it is told; a record of each would let nonsense grow the data set
        manifest = self._generations.publish(facts, staging, old, keeps_originals=True, beside=beside, kept=small)
        return manifest, rejected

    def _keep(self, staging: Staging, old: Manifest, segments: Iterable[Segment]) -> None:
        """Put segments that have their vectors into a build."""
        for segment in segments:
            keep(staging, self._generations.source(old, segment), self._generations.vectors(old, segment))

    def _not_taken(self, items: Iterable[Item | Pair | Rejection], old: Manifest) -> Iterator[Item | Pair | Rejection]:
        """Items, those rejected that have the name of a pair which is there already."""
        tables = [
            PairColumns.open(
                self._generations.folder(old, segment) / TABLE, segment.manifest.num_pairs, rebuild_hint(old.name)
            )
            for segment in segments_of(old)
        ]
        for candidate in items:
            pair_id = _pair_id(candidate, old.name)
            if pair_id and any(columns.find(pair_id) is not None for columns in tables):
                name = pair_id.removeprefix(f"{old.name}/")
                yield Rejection(what=name, reason="name taken: an earlier pair has this id")
            else:
                yield candidate


def _check_originals(old: Manifest, size: int) -> None:
    """Refuse to make images larger than they are where there is no original to make them of."""
    without = old.num_pairs - old.num_originals
    if without:
        raise ConfigError(
            f"kb: expected originals to make images of {size} pixels for {old.name!r}, but {without} of its "
            f"{old.num_pairs} pairs have none, only an image of {old.image_size} pixels, which can be made smaller; "
            f"add it again from its source, {old.origin or 'the uploads'}, with --replace, or let `rag-diffusion kb "
            f"rebuild {old.name} --stretch` enlarge these images, which blurs them"
        )


def _pair_id(candidate: Item | Pair | Rejection, data_set: str) -> str:
    """The id that a candidate has, or would get; empty for one that gets none."""
    if isinstance(candidate, Item):
        return f"{data_set}/{named(candidate.name)}"
    return candidate.pair_id if isinstance(candidate, Pair) else ""
