"""The knowledge base and the model as repositories of Hugging Face: folders with cards, and their upload."""
