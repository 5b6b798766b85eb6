"""What the stages log, and the way it takes to MLflow.

`tracker` is what stages see, and starts a second process; in that, `worker` reads what they send and `writer` brings it
to the store. None but `writer`, `store` and `traces` may import mlflow, which takes seconds.
"""

from rag_diffusion.tracking.tracker import (
    ARTIFACTS,
    SPOOL,
    STORE,
    MlflowTracker,
    NullTracker,
    Reply,
    Setup,
    Tracker,
    default_setup,
    experiment_of,
    flatten,
    open_tracker,
)

__all__ = [
    "ARTIFACTS",
    "SPOOL",
    "STORE",
    "MlflowTracker",
    "NullTracker",
    "Reply",
    "Setup",
    "Tracker",
    "default_setup",
    "experiment_of",
    "flatten",
    "open_tracker",
]
