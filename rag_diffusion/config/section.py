"""What every section of params.yaml is: frozen, of strict types, without unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

Probability = Field(ge=0.0, le=1.0)
Positive = Field(gt=0)


class Section(BaseModel):
    """Part of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
