"""The ruler: fixed scorers of entity and style, trained on train entities before any generator exists."""
