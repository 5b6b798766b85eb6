"""What `kb info` says of a data set's index."""

from __future__ import annotations

from rag_diffusion.store.manifest import Manifest
from rag_diffusion.terminal.kb_report import as_text


def test_the_operating_point_of_each_index_is_told() -> None:
    recall = {"factory": "IVF64,Flat", "recall_image": 0.984, "recall_text": 0.99}
    recall |= {"recall_image_short": 0.98}
    points = {"image": {"nprobe": 24}, "text": {"nprobe": 12}}
    told = as_text(Manifest(name="photos", form="photos", recall=recall | {"operating_points": points}))
    assert "recall@10 image 0.9840, text 0.9900, image by short texts 0.9800, index IVF64,Flat" in told
    assert told.endswith("image: nprobe 24\n          text: nprobe 12")
    assert as_text(Manifest(name="photos", form="photos", recall=recall)).endswith("index IVF64,Flat")
