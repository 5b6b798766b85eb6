"""Drawing: `RetrievalPipeline`, and what it is told."""

from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.schedule import RetrievalSchedule

__all__ = ["Guidance", "RetrievalPipeline", "RetrievalSchedule"]
