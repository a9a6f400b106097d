"""How many processes made which steps of a run that may go on with another number of them."""

from __future__ import annotations

from dataclasses import replace

from scaleprior.errors import UserError
from scaleprior.training.run_folder import RUN_FILE, RunFolder

__all__ = ["TRAINED_BY", "with_crew"]

TRAINED_BY = "trained_by"
"""Of ``run.json``: ``[{"from_step": 0, "processes": 2}, ...]``, ascending."""


def with_crew(folder: RunFolder, *, steps: int, processes: int) -> RunFolder:
    """``folder``, whose identity then says who made the steps so far and who makes those to come.

    Args:
        steps: that are done, and saved; ``run.json`` is of this run then, or of what it extends. What that says of
            later steps was lost with them.
        processes: that go on.

    Raises:
        UserError: ``run.json`` is damaged.
    """
    before = folder.known() if steps else None
    try:
        crews = [crew for crew in (before or {}).get(TRAINED_BY, ()) if crew["from_step"] < steps]
        last = crews[-1]["processes"] if crews else None
    except (TypeError, KeyError) as e:
        raise UserError(f"{folder.out / RUN_FILE} cannot be read: {TRAINED_BY}", hint="the file is damaged") from e
    if last != processes:
        crews.append({"from_step": steps, "processes": processes})
    return replace(folder, identity={**folder.identity, TRAINED_BY: crews})
