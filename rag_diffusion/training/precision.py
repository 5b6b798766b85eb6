"""The scale that keeps small float16 gradients above zero; bfloat16 and float32 need none.

gradients of  scale * loss,  then divided by scale;  not finite: the step is left out and the scale halved;
2000 good steps: the scale doubled        (Micikevicius et al. 2018, 3.2)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

_GROWTH_STEPS = 2000
_LEAST = 1.0


@dataclass(kw_only=True)
class LossScale:
    """The scale, and for how many steps it has been good; a scale that is not `active` stays 1."""

    active: bool
    value: float = 1.0
    good_steps: int = 0

    @classmethod
    def for_dtype(cls, dtype: torch.dtype | None) -> LossScale:
        """For a network that computes in `dtype`; None is float32."""
        active = dtype == torch.float16
        return cls(active=active, value=2.0**16 if active else 1.0)

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients of `parameters` by the scale, in place."""
        if self.active:
            torch._foreach_div_([weight.grad for weight in parameters if weight.grad is not None], self.value)

    def accept(self, finite: bool) -> bool:
        """Whether the step may be made; adapts the scale.

        Args:
            finite: whether loss and gradient are.

        Returns:
            False where they are not; a smaller scale may still help, unless it is `exhausted`.
        """
        if finite:
            self.good_steps += 1
            if self.active and self.good_steps % _GROWTH_STEPS == 0:
                self.value *= 2
            return True
        self.good_steps = 0
        self.value /= 2
        return False

    @property
    def exhausted(self) -> bool:
        """No smaller scale is left to be tried."""
        return not self.active or self.value < _LEAST
