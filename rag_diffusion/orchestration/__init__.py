"""Dagster over the stages of dvc.yaml. The only room that imports dagster or dvc."""
