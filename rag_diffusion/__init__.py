"""Retrieval-augmented text-to-image diffusion: model, retriever and sampler.

The names below are loaded when they are first asked for, so that `import rag_diffusion` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
    from rag_diffusion.models.load import load_generator
    from rag_diffusion.models.unet import RetrievalUNet
    from rag_diffusion.retrieval.query import Query
    from rag_diffusion.retrieval.retriever import Retriever
    from rag_diffusion.sampling import FrameMemory, Guidance, Neighbor, RetrievalPipeline, RetrievalSchedule
    from rag_diffusion.store.filters import Filter

__version__ = "0.1.0"
__all__ = [
    "Filter",
    "FrameMemory",
    "Guidance",
    "KnowledgeBase",
    "Neighbor",
    "Query",
    "RetrievalPipeline",
    "RetrievalSchedule",
    "RetrievalUNet",
    "Retriever",
    "load_generator",
]
_MODULES = {
    "Filter": "store.filters",
    "FrameMemory": "sampling",
    "Guidance": "sampling",
    "KnowledgeBase": "knowledge.knowledge_base",
    "Neighbor": "sampling",
    "Query": "retrieval.query",
    "RetrievalPipeline": "sampling",
    "RetrievalSchedule": "sampling",
    "RetrievalUNet": "models.unet",
    "Retriever": "retrieval.retriever",
    "load_generator": "models.load",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
