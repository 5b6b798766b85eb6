"""Drawing: `RetrievalPipeline`, and what it is told."""

from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.frame_memory import FrameMemory
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.schedule import RetrievalSchedule

__all__ = ["FrameMemory", "Guidance", "Neighbor", "RetrievalPipeline", "RetrievalSchedule"]
