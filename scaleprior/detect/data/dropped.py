"""The list of what was left out of a run's detection sets, beside the run's results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaleprior.detect.data.coco_format import MOST_BYTES
from scaleprior.detect.data.problems import Problem
from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.parsing import read_json

__all__ = ["DROPPED_FILE", "record_dropped"]

logger = logging.getLogger(__name__)

DROPPED_FILE = "dropped.json"


def record_dropped(out: str | Path, sets: Mapping[str, Sequence[Problem]], *, anew: bool) -> None:
    """List in ``out/dropped.json`` what was left out of sets; where that is nothing, there is no file.

    It holds, by name of the set, the annotation file and each kind: what it is, how many, and every place.

    Args:
        sets: problems by name of the set.
        anew: forget the sets that the file names; else only these are replaced.
    """
    path = Path(out) / DROPPED_FILE
    listed = {} if anew else _listed(path)
    for name, problems in sets.items():
        dropped = [problem for problem in problems if problem.severity == "dropped"]
        listed.pop(name, None)
        if dropped:
            listed[name] = {"file": dropped[0].source, "dropped": [_words(problem) for problem in dropped]}
    if listed:
        write_json(path, listed)
    else:
        path.unlink(missing_ok=True)


def _listed(path: Path) -> dict[str, Any]:
    """What the file says; a damaged one, which is there to be looked at, is begun anew."""
    if not path.exists():
        return {}
    try:
        listed = read_json(path, what="list of what was left out", limit=MOST_BYTES)
    except UserError as e:
        logger.warning("%s; it is written anew", e)
        return {}
    return listed if isinstance(listed, dict) else {}


def _words(problem: Problem) -> dict[str, Any]:
    return {"kind": problem.kind, "what": problem.what, "count": problem.count, "places": list(problem.places)}
