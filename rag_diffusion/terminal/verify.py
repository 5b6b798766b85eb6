"""What a picture tells of its making, and whether that holds: `rag-diffusion verify FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rag_diffusion.errors import DataError
from rag_diffusion.marks.credentials import read_credentials
from rag_diffusion.sampling.credit import credit
from rag_diffusion.sampling.provenance import Provenance, read_provenance
from rag_diffusion.sampling.watermark import NUM_BITS, SURE, matching_bits
from rag_diffusion.terminal.printable import printable

_STATES = {
    "Trusted": "signed by {signer}, which you trust, and as it was signed",
    "Valid": "as it was signed, by {signer}, which nothing here says to trust",
}


def verified(file: Path, watermark: str, trust: Sequence[Path]) -> tuple[list[str], bool]:
    """What a picture tells, a sentence each.

    Args:
        file: a PNG or JPEG.
        watermark: a text whose mark may be in the pixels; empty looks for none.
        trust: PEM files of roots whose signatures are trusted.

    Returns:
        The sentences, and whether everything is sound: credentials, where there are any, as they were signed, and the
        watermark there, where one is looked for.

    Raises:
        DataError: it is no picture that is read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: expected a PNG or JPEG, got {error.strerror}") from None
    signed, sound = read_credentials(content, trust), True
    sentences = []
    if signed is None:
        sentences.append("credentials  none inside")
    else:
        sound = signed.state in _STATES
        why = f"not as it was signed ({', '.join(signed.failures)})"
        sentences.append(f"credentials  {_STATES.get(signed.state, why).format(signer=printable(signed.signer))}")
    origin = signed.provenance if signed is not None and sound else None
    kind = "signed" if origin is not None else "unsigned"
    if origin is None:
        try:
            origin = read_provenance(content)
        except DataError:
            kind = "none inside"
    sentences += [f"provenance   {kind}"] if origin is None else _told(origin, kind)
    if watermark:
        with Image.open(file) as image:
            bits = matching_bits(np.asarray(image.convert("RGB")), watermark)
        there = bits >= SURE
        sentences.append(f"watermark    {'there' if there else 'not there'}: {bits} of {NUM_BITS} bits are its own")
        sound = sound and there
    return sentences, sound


def _told(origin: Provenance, kind: str) -> list[str]:
    """What a provenance says, which is `signed` or `unsigned`."""
    model = origin.model_hash[:12] or "without a hash"
    sentences = [f"provenance   {kind}: drawn for {printable(origin.prompt)!r}, seed {origin.seed}, by model {model}"]
    sentences += [
        f"looked at    {printable(source.caption)} ({printable(source.pair_id)}), {source.attention:.0%} of attention"
        for source in origin.neighbors
    ]
    return sentences + [f"licence      {printable(sentence)}" for sentence in credit(origin.neighbors)]
