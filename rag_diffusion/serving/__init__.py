"""The knowledge base over HTTP, and a fine-tuned project as a model that MLflow keeps and serves."""

from rag_diffusion.extras import need

need("server", "fastapi", "uvicorn")  # mlflow brings them too
