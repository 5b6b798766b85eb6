"""Dagster over the stages of dvc.yaml. The only package that imports dagster or dvc."""
