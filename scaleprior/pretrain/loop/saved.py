"""The state that a run goes on from, the same one in every process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior.errors import FailureError
from scaleprior.training.run_folder import refuse_other_run, restoring

if TYPE_CHECKING:
    from scaleprior.training.checkpoints import Checkpoints, SavedState
    from scaleprior.training.processes import ProcessGroup
    from scaleprior.training.run_folder import RunFolder

__all__ = ["saved_state"]


def saved_state(folder: RunFolder, checkpoints: Checkpoints, processes: ProcessGroup) -> SavedState | None:
    """The newest whole checkpoint of the run; None where it has none yet. Every process calls this; nothing is written.

    Raises:
        UserError: it is another run's, or all are damaged.
        FailureError: another process sees another one, as where a folder is not shared or a disk reads wrongly.
    """
    found = checkpoints.load(tell=processes.main)
    step = -1
    if found is not None:
        refuse_other_run(found.state, folder.fingerprint, str(found.path), folder.parts)
        with restoring(found.path):
            step = found.state["counters"]["step"]
    steps = processes.sum(*(step if rank == processes.rank else 0 for rank in range(processes.size)))
    if len(set(steps)) > 1:
        said = ", ".join(f"{round(each)} on process {rank}" for rank, each in enumerate(steps))
        raise FailureError(
            f"the processes find different checkpoints in {folder.out}, after step {said} (-1 is none)",
            hint="see that all of them read the same folder",
        )
    return found
