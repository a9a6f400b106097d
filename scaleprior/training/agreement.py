"""What several processes have to know of one another before they go on: who cannot, and who was asked to stop.

An error in one of them would leave the others waiting for it; so all raise it, with its words, and end together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from scaleprior.errors import FailureError, ScalePriorError, UserError
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.signals import Interrupted

__all__ = ["agree", "agree_on_steps", "error_of", "together"]

T = TypeVar("T")
_BY_CODE = {kind.exit_code: kind for kind in (FailureError, UserError, Interrupted)}


def error_of(code: int, text: str) -> ScalePriorError:
    """An error as another process had it.

    Args:
        code: its exit code, which tells its kind. text: its ``wording.marked``.
    """
    return _BY_CODE.get(code, FailureError)(text)


def agree(
    processes: ProcessGroup, error: ScalePriorError | None = None, *, stop: bool = False
) -> tuple[ScalePriorError | None, bool]:
    """The error of the first process that has one, and whether any was asked to stop: the same in every process.

    Every process has to call it. One small sum on the host, while nothing is wrong; no GPU is waited for.

    Args:
        error: of this process. stop: this process was asked to.
    """
    failed, stopped = processes.sum(float(error is not None), float(stop))
    if not failed or processes.size == 1:
        return error, stopped > 0
    first = processes.least(processes.size if error is None else processes.rank)
    said = processes.from_one(None if error is None else (error.exit_code, error.wording.marked), first)
    assert said is not None
    return (error if processes.rank == first else error_of(*said)), stopped > 0


def together(processes: ProcessGroup, work: Callable[[], T]) -> T:
    """What ``work()`` returns in this process, once it has returned in every one; each has to call this.

    Raises:
        ScalePriorError: as ``work`` raised it in one of them, in all.
    """
    result: T | None = None
    error: ScalePriorError | None = None
    try:
        result = work()
    except ScalePriorError as e:
        error = e
    error, _ = agree(processes, error)
    if error is not None:
        raise error
    return cast("T", result)


def agree_on_steps(processes: ProcessGroup, steps: int | None, where: object) -> None:
    """Refuse to go on from different checkpoints; every process has to call it.

    Args:
        steps: that the checkpoint which this process found has behind it; None where it found none.
        where: the folder, for the message.

    Raises:
        FailureError: another process found another one, as where a folder is not shared or a disk reads wrongly.
    """
    found = -1 if steps is None else steps
    all_found = processes.sum(*(found if rank == processes.rank else 0 for rank in range(processes.size)))
    if len(set(all_found)) > 1:
        said = ", ".join(f"{round(each)} on process {rank}" for rank, each in enumerate(all_found))
        raise FailureError(
            f"the processes find different checkpoints in {where}, after step {said} (-1 is none)",
            hint="see that all of them read the same folder",
        )
