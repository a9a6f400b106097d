"""The scale of the loss under float16, which falls by half with every step whose gradients it could not hold."""

from __future__ import annotations

import logging

from scaleprior.errors import FailureError

__all__ = ["ScaleWatch"]

logger = logging.getLogger(__name__)

_SMALL, _NOTHING = 1.0, 2.0**-16  # from torch's 2**16 it is 16 and 32 steps without an update to these


class ScaleWatch:
    """Tells of a scale that has fallen to where something is wrong: steps without an update are silent otherwise."""

    def __init__(self) -> None:
        self._told = False

    def look(self, step: int, scale: float) -> None:
        """Look at the scale after ``step`` (from 0); the first below 1 is a warning.

        Raises:
            FailureError: it has fallen to almost nothing.
        """
        if scale < _NOTHING:
            raise FailureError(
                f"the gradients of step {step} and of those before it do not fit float16, although the loss was "
                f"scaled down to {scale:.1e} of itself: nothing is learnt any more",
                hint="use SCALEPRIOR.AMP_DTYPE bfloat16, SOLVER.AMP.ENABLED False, or a lower SOLVER.BASE_LR",
            )
        if scale < _SMALL and not self._told:
            logger.warning(
                "step %d: float16 holds the gradients only with the loss scaled down to %g of itself; steps whose "
                "gradients it could not hold updated nothing (SCALEPRIOR.AMP_DTYPE bfloat16 has no such limit)",
                step,
                scale,
            )
            self._told = True
