"""Everything that would stop a study, found before its first cell begins."""

from __future__ import annotations

from pathlib import Path

from scaleprior.checking import CheckReport
from scaleprior.detect.data.check import SetFiles, check_sets
from scaleprior.detect.data.problems import DropBad
from scaleprior.progress import ProgressFn
from scaleprior.study.prepare import what_to_drop
from scaleprior.study.spec import StudySpec

__all__ = ["check_study"]


def check_study(
    spec: StudySpec, out: Path, *, engine: str | None = None, progress: ProgressFn | None = None
) -> CheckReport:
    """Look at what the cells of ``spec`` would meet; nothing is written, and nothing made that the study would make."""
    report = CheckReport()
    drop_bad: DropBad = "none"
    with report.collecting("config"):
        drop_bad = what_to_drop(spec, engine or spec.engine)
    sets = [
        SetFiles(role, f"study_{role}", str(coco.json.absolute()), str(Path(coco.images).absolute()), drop_bad=drop_bad)
        for role, coco in (("train", spec.detection.train), ("val", spec.detection.val))
        if coco is not None
    ]
    report.take(check_sets(sets, same_ids=True, progress=progress)[0])
    return report
