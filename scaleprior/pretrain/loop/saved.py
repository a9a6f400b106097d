"""The state that a run goes on from, the same one in every process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior.training.agreement import agree_on_steps
from scaleprior.training.run_folder import refuse_other_run, restoring

if TYPE_CHECKING:
    from scaleprior.training.checkpoints import Checkpoints, SavedState
    from scaleprior.training.processes import ProcessGroup
    from scaleprior.training.run_folder import RunFolder

__all__ = ["saved_state"]


def saved_state(folder: RunFolder, checkpoints: Checkpoints, processes: ProcessGroup) -> SavedState | None:
    """The newest whole checkpoint of the run; None where it has none yet. Every process calls this; nothing is written.

    Raises:
        UserError: it is another run's.
        FailureError: another process sees another one, as where a folder is not shared or a disk reads wrongly.
    """
    found = checkpoints.load(tell=processes.main)
    step = None
    if found is not None:
        refuse_other_run(found.state, folder.fingerprint, str(found.path), folder.parts)
        with restoring(found.path):
            step = found.state["counters"]["step"]
    agree_on_steps(processes, step, folder.out)
    return found
