"""The path of this file is a `custom_pipeline` of diffusers, which makes a RetrievalPipeline of its DiffusionPipeline.

    DiffusionPipeline.from_pretrained(folder, custom_pipeline=custom_pipeline.__file__)

reads a folder that `RetrievalPipeline.save_pretrained` wrote, with its neighbor attention. The class is found here by
name; everything else is in the package, which has to be installed.
"""

from rag_diffusion.sampling.pipeline import RetrievalPipeline

__all__ = ["RetrievalPipeline"]
