"""A small project on disk, its knowledge base, and a server that runs over it in a thread."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import uvicorn

from rag_diffusion.config import load_config
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import ENCODER, KB
from rag_diffusion.models.dual_encoder import create_embedded, save_weights
from rag_diffusion.readers.records import Item
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.encoder_folder import PairEncoder
from rag_diffusion.serving.connections import bounded_protocol
from rag_diffusion.serving.server import Access, create_app
from tests.tiny import tiny_pairs

STYLES = ("noto", "twemoji")


def items(style: str) -> list[Item]:
    """60 drawings of one style."""
    return [
        Item(
            name=f"{pair.entity}.png",
            image=pair.image,
            caption=pair.caption,
            label=pair.category,
            style=pair.style,
            title=pair.title,
            licence="MIT" if pair.category == "moon" else "CC0-1.0",
            split=pair.split,
        )
        for pair in tiny_pairs()
        if pair.style == style
    ]


def make_encoder(root: Path) -> Encoder:
    """The embedded encoder at 32 px, with heads as they are before training."""
    folder = root / ENCODER
    folder.mkdir(parents=True)
    save_weights(create_embedded(folder, image_size=32, embed_dim=16, seed=0), folder)
    return Encoder(folder)


def open_base(root: Path, project_root: Path, encoder: PairEncoder) -> KnowledgeBase:
    """A knowledge base in a folder that has an encoder."""
    return KnowledgeBase(root, load_config(project_root / "params.yaml"), encoder, wait=10)


def two_data_sets(root: Path, project_root: Path) -> KnowledgeBase:
    """120 drawings in two data sets, one a style."""
    made = open_base(root, project_root, make_encoder(root))
    for style in STYLES:
        made.add(style, items(style))
    return made


def copy_of(base: KnowledgeBase, root: Path) -> KnowledgeBase:
    """A copy of its data sets, to change; the encoder is the same."""
    shutil.copytree(base.root / KB, root / KB)
    (root / ENCODER).symlink_to(base.root / ENCODER)
    return KnowledgeBase(root, base.config, base.encoder, wait=10)


class Client:
    """Asks a server.

    Attributes:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=20)

    def post(self, path: str, **body: Any) -> requests.Response:
        return requests.post(f"{self.url}{path}", timeout=60, **body)

    def knn(self, **query: Any) -> list[dict[str, Any]]:
        """Results of a query, asked byte for byte as clip-retrieval's ClipClient 2.45 asks."""
        answer = self.post("/knn-service", data=json.dumps(clip_client_query(**query)))
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found


def clip_client_query(**changed: Any) -> dict[str, Any]:
    """The message of ClipClient(url, "all").query(): its defaults, its order of keys; posted without a content type."""
    return {
        "text": None,
        "image": None,
        "image_url": None,
        "embedding_input": None,
        "deduplicate": True,
        "use_safety_model": True,
        "use_violence_detector": True,
        "indice_name": "all",
        "use_mclip": False,
        "aesthetic_score": 9,
        "aesthetic_weight": 0.5,
        "modality": "image",
        "num_images": 40,
        "num_result_ids": changed.get("num_images", 40),
    } | changed


@contextmanager
def served(base: KnowledgeBase, **options: Any) -> Iterator[Client]:
    """A running server on a free port of this machine."""
    room = options.pop("room", None)
    app = create_app(base, Access(**options))
    http = bounded_protocol(room)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", http=http, ws="none")
    server = uvicorn.Server(config)
    running = threading.Thread(target=server.run, daemon=True)
    running.start()
    while not server.started:
        assert running.is_alive()
        time.sleep(0.01)
    try:
        yield Client(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    finally:
        server.should_exit = True
        running.join(20)
