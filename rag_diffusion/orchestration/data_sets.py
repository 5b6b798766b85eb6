"""The data sets of the knowledge base in Dagster: one external asset, `kb`, with a partition for each.

They come and go while Dagster runs, as its dynamic partitions do: a new one needs no reload of the definitions. The
encoder that makes their vectors is upstream. No stage reads them; drawings by hand do, and note the versions in the
image's provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from rag_diffusion.errors import ModelError, RagDiffusionError
from rag_diffusion.knowledge.folders import DataSetFolders
from rag_diffusion.layout import ENCODER, KB
from rag_diffusion.orchestration.project import Project, digest
from rag_diffusion.retrieval.encoder_folder import EncoderFolder
from rag_diffusion.store.manifest import Manifest

DATA_SETS = Path(KB).name  # the asset
PARTITIONS = dg.DynamicPartitionsDefinition(name="data_sets")


def manifests(root: Path) -> dict[str, Manifest | None]:
    """What every data set beside the corpus says of itself, by name; None where that is damaged.

    Args:
        root: the project.
    """
    folders = DataSetFolders(root)
    return {name: _manifest(folders, name) for name in folders.names()}


def encoder_stages(project: Project) -> list[str]:
    """Names of the stages of `project` that make the encoder of the vectors: one, or none."""
    return [stage.name for stage in project.stages.values() if ENCODER in stage.outs]


def content_version(manifest: Manifest) -> str:
    """The hash of the pairs of a `manifest`; of a remote data set, of where it is served."""
    if manifest.remote:
        return digest({"url": manifest.url, "index": manifest.index})
    return manifest.hash


def encoder_version(project: Project, manifest: Manifest) -> str | None:
    """The data version of the encoder that made the vectors of a data set.

    Args:
        project: as it is on disk.
        manifest: of the data set.

    Returns:
        That of the present encoder, which also scores what a remote sends; None where another one made the vectors.
    """
    try:
        present = EncoderFolder(project.root / ENCODER).hash
    except ModelError:
        return None
    versions = [project.data_version(name) for name in encoder_stages(project)]
    return versions[0] if versions and (manifest.remote or manifest.encoder_hash == present) else None


def data_set_metadata(manifest: Manifest) -> dict[str, Any]:
    """What Dagster shows of a data set, by its `manifest`: pairs, licences, bytes, date, source."""
    metadata: dict[str, Any] = {"folder": f"{KB}/{manifest.name}", "form": manifest.form}
    metadata |= {"licences": _licences(manifest), "attribution": manifest.attribution, "origin": manifest.origin}
    if not manifest.remote:
        files = [*manifest.shards, *manifest.files.values()]
        metadata |= {
            "pairs": manifest.num_pairs,
            "rejected": manifest.num_rejected,
            "bytes": sum(int(file["bytes"]) for file in files),
            "originals": manifest.num_originals,
            "image_size": manifest.image_size,
            "added": manifest.added,
            "content_hash": manifest.hash,
            "encoder_hash": manifest.encoder_hash,
        }
    return {key: value for key, value in metadata.items() if value != ""}


def _manifest(folders: DataSetFolders, name: str) -> Manifest | None:
    try:
        return Manifest.read(folders.manifest(name))
    except RagDiffusionError:
        return None


def _licences(manifest: Manifest) -> str:
    """Licences and how many pairs have each, the most frequent first."""
    counts: Mapping[str, int] = manifest.counts.get("licence", {})
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{licence} ({count})" for licence, count in ordered) or manifest.licence
