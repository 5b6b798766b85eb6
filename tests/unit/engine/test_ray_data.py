"""The pipeline of Ray Data in the documentation: the encoder in its actors, and what it writes is added."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rag_diffusion.config import RayConfig
from rag_diffusion.engine.cluster import engine_of
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import ENCODER
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.retrieval.encoder import Encoder
from tests.small_project import small_project
from tests.unit.knowledge.bases import picture


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_actors_of_ray_data_keep_is_what_the_encoder_says_and_can_be_added(
    tmp_path: Path, project_root: Path, ray_config: RayConfig
) -> None:
    engine_of(ray_config).close()  # workers of other tests have the cores
    root = small_project(tmp_path, project_root)
    images, captions = [picture(number, size=64) for number in range(40)], [f"a thing {n}" for n in range(40)]
    (root / "crawl").mkdir()
    for first in (0, 20):
        part = {"image": images[first : first + 20], "caption": captions[first : first + 20]}
        pq.write_table(pa.table(part), root / "crawl" / f"{first}.parquet")
    encoder = Encoder(root / ENCODER, device="cpu")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in images])
    likeness = (encoder.images(pixels) * encoder.texts(captions)).sum(axis=1)
    ordered = np.sort(likeness)
    threshold = float(ordered[19:21].mean())  # what an untrained encoder says of half of them
    (program,) = re.findall(r"```python\n(.*?)```", (project_root / "docs/several-machines.md").read_text(), re.DOTALL)
    for written, here in (("concurrency=8", "concurrency=1"), ("> 0.3", f"> {threshold}")):
        assert written in program
        program = program.replace(written, here)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root, env=os.environ | {"RAY_ADDRESS": ray_config.address}, capture_output=True, text=True, check=False,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    base = KnowledgeBase.open(root)
    manifest = base.add("crawl", open_reader("auto", root / "fitting"))
    assert manifest.num_pairs == 20
    pairs = base.retriever().corpus
    ids, told = pairs.column("pair_id"), pairs.column("caption")
    kept = [caption for name, caption in zip(ids, told, strict=True) if name.startswith("crawl/")]
    assert sorted(kept) == sorted(np.asarray(captions)[likeness > threshold])
