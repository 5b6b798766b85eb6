"""clip-retrieval's protocol: names, bounds and messages for whoever asks and whoever answers.

`knowledge.remote.results` checks what a server answers, `serving.queries` what it is asked.

    POST /knn-service   text, image (base64), image_url or embedding_input -> [{id, similarity, caption, url, ...}]
    POST /metadata      ids                                                -> [{id, metadata: {caption, url, ...}}]
    GET  /indices-list                                                     -> [name, ...]

Source: clip-retrieval 2.45, clip_back.py and clip_client.py.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from rag_diffusion.errors import DataError

KNN, METADATA, INDICES = "knn-service", "metadata", "indices-list"
MAX_TEXT = 10_000  # characters of a query
MAX_IMAGES = 1_000  # results with metadata
MAX_IMAGE_BYTES = 2**25  # of one encoded image

_PIECE = 2**20  # characters of base64 at a time, so that other threads go on; a multiple of 4
_SHOWN_CHARACTERS = 200  # of an error that an answer tells


def text_query(text: str, *, index: str | None, top_k: int) -> dict[str, Any]:
    """Write a query for `/knn-service` with every field that any server of the protocol knows.

    Near-duplicates are left in: its own servers take two pictures for one from a cosine of 0.94 on, which leaves one of
    five where all pictures are of a kind, as icons are.

    Args:
        text: what is searched for.
        index: name of the server's index; None is its first.
        top_k: results asked for, with metadata and images.

    Returns:
        The message, of JSON values.
    """
    return {
        "text": text,
        "image": None,
        "image_url": None,
        "embedding_input": None,
        "modality": "image",
        "num_images": top_k,
        "num_result_ids": top_k,
        "indice_name": index,
        "use_mclip": False,
        "deduplicate": False,
        "use_safety_model": False,
        "use_violence_detector": False,
        "aesthetic_score": "",
        "aesthetic_weight": "",
        "with_images": True,
    }


def decode_base64(text: str, what: str, most: int) -> bytes:
    """Bytes of a base64 text, with or without `data:...;base64,` before it.

    Args:
        text: what came.
        what: name used in the error.
        most: bytes that it may have.

    Raises:
        DataError: it is none, empty or too long.
    """
    bare = text.partition(",")[2] if text.startswith("data:") else text
    try:
        packed = bare.encode("ascii").translate(None, b" \t\r\n")
        if len(packed) > most * 4 // 3 + 8:
            got = f"{len(packed)} characters of base64"
            raise DataError(f"too large: expected at most {most} bytes in {what}, got {got}")
        content = b"".join(
            base64.b64decode(packed[start : start + _PIECE], validate=True) for start in range(0, len(packed), _PIECE)
        )
    except (binascii.Error, ValueError) as error:
        raise DataError(
            f"not base64: expected an image as base64 in {what}, got {str(error)[:_SHOWN_CHARACTERS]}"
        ) from None
    if not content:
        raise DataError(f"empty image: expected an image as base64 in {what}, got none")
    return content
