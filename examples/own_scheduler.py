"""Another scheduler of diffusers, set up your own way: on the configuration that the pipeline was trained with."""

from diffusers import DPMSolverMultistepScheduler

from rag_diffusion import RetrievalPipeline

pipe = RetrievalPipeline.from_pretrained("data/base")
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, solver_order=3)
pipe("a red circle", "photos/red.png", num_inference_steps=8).images[0].save("dpm.png")
