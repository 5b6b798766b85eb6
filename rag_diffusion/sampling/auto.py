"""What diffusers' AutoPipeline makes of a RetrievalPipeline: one again, for text, pictures and masks.

AutoPipelineForText2Image.from_pipe(pipe), AutoPipelineForImage2Image, AutoPipelineForInpainting
"""

from __future__ import annotations

from typing import Any

from diffusers.pipelines import auto_pipeline

_NAME = "retrieval"


def known_to_auto_pipeline(cls: type[Any]) -> type[Any]:
    """Enter a pipeline's class, `cls`, for every task of AutoPipeline; gives it back."""
    for tasks in (
        auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    ):
        tasks[_NAME] = cls
    return cls
