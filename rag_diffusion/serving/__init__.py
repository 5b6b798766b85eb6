"""A fine-tuned project as a model that MLflow keeps and serves."""
