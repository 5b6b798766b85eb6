"""Data sets as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rag_diffusion.knowledge.catalogue import Listed
from rag_diffusion.store.manifest import PIPELINE, Manifest
from rag_diffusion.terminal.printable import printable

if TYPE_CHECKING:  # listing data sets loads no retrieval
    from rag_diffusion.retrieval.calibration import Calibration

_SHOWN = 12  # values of a count


def as_table(listed: Sequence[Listed]) -> str:
    """One line for each data set of `listed`, and below them what is the matter."""
    if not listed:
        return "no data set yet; run `rag-diffusion kb add NAME PATH`, or `dvc repro index`"
    rows = [("data set", "pairs", "rejected", "form", "licences")]
    for entry in listed:
        manifest = entry.manifest
        pairs = "?" if manifest.remote else str(manifest.num_pairs)
        licences = printable(", ".join(_most(manifest.counts.get("licence", {}), 3))) or "-"
        rows.append((manifest.name, pairs, str(manifest.num_rejected), manifest.form, licences))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {pairs:>{widths[1]}}  {rejected:>{widths[2]}}  {form:<{widths[3]}}  {licences}"
        for name, pairs, rejected, form, licences in rows
    ]
    return "\n".join([*lines, *(f"{entry.manifest.name}: {entry.trouble}" for entry in listed if entry.trouble)])


def as_text(manifest: Manifest) -> str:
    """All that a data set says of itself in its `manifest`, but for the files."""
    if manifest.remote:
        where = f"{manifest.url}, index {manifest.index}" if manifest.index else manifest.url
        return f"{manifest.name}: on another machine, {where}"
    pairs = "1 pair" if manifest.num_pairs == 1 else f"{manifest.num_pairs} pairs"
    lines = [f"{manifest.name}: {pairs}, {manifest.num_rejected} rejected"]
    for reason, count in sorted(manifest.rejected_by_reason.items(), key=lambda item: -item[1])[:_SHOWN]:
        lines.append(f"  rejected {count}: {printable(reason)}")
    if manifest.num_rejected:
        lines.append(f"  each with its reason: rag-diffusion kb info {manifest.name} --rejected")
    facts = {
        "form": manifest.form,
        "origin": manifest.origin,
        "images": f"{manifest.image_size} pixels",
        "originals": _originals(manifest),
        "segments": _segments(manifest),
        "vectors": ", ".join(manifest.precisions),
        "hash": manifest.hash,
        "encoder": manifest.encoder_hash,
    }
    facts |= {name: ", ".join(_most(counts, _SHOWN)) for name, counts in sorted(manifest.counts.items())}
    lines += [f"{name:<10}{printable(value)}" for name, value in facts.items() if value]
    if manifest.recall:
        recalls = {key: value for key, value in manifest.recall.items() if key.startswith("recall_")}
        words = ", ".join(f"{_recalled(key)} {value:.4f}" for key, value in recalls.items())
        lines.append(f"{'recall@10':<10}{words}, index {manifest.recall.get('factory', '?')}")
        for name, point in manifest.recall.get("operating_points", {}).items():
            settings = ", ".join(f"{key} {value}" for key, value in point.items())
            lines += [f"{'':<10}{name}: {settings}"] if settings else []
    return "\n".join(lines)


def _recalled(key: str) -> str:
    """What a recall of the report is of, in words."""
    index = key.removeprefix("recall_")
    return f"{index.removesuffix('_short')} by short texts" if index.endswith("_short") else index


def calibration_as_text(calibration: Calibration) -> str:
    """What a `calibration` was fitted on, its error, and how often hits are right by their probability."""
    lines = [
        f"calibrated on {calibration.num_queries} queries about {calibration.num_families} families: expected "
        f"calibration error {calibration.expected_calibration_error:.3f}, cross-validated",
        "probability    hits  right",
    ]
    lines += [f"{entry.low:.1f} to {entry.high:.1f}  {entry.count:>8}  {entry.right:.3f}" for entry in calibration.bins]
    return "\n".join(lines)


def _segments(manifest: Manifest) -> str:
    """How many there are, and how large; empty of one."""
    sizes = sorted((int(entry["num_pairs"]) for entry in manifest.segments), reverse=True)
    return f"{len(sizes)}, of {', '.join(map(str, sizes[:_SHOWN]))} pairs" if sizes else ""


def _originals(manifest: Manifest) -> str:
    """How many files are kept as they came; empty for a corpus of Iconify's drawings, which lie with its pairs."""
    if manifest.form == PIPELINE and manifest.origin == "iconify":
        return ""
    if not manifest.originals:
        return "not kept; another image size needs the source, but a smaller one"
    return f"{manifest.num_originals} of {manifest.num_pairs} kept, {manifest.original_bytes / 2**20:.1f} MiB"


def _most(counts: Mapping[str, int], shown: int) -> list[str]:
    """The most frequent values with their numbers."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = [f"and {len(order) - shown} more"] * (len(order) > shown)
    return [f"{value} {count}" for value, count in order[:shown]] + more
