"""The code location of this project that `dagster dev` loads."""
