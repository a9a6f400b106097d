"""What a study is before it runs: its grid, what of it is done, what is missing, and its work in steps and images.

Work is counted, time is not guessed: seconds come from whoever measured a step, or from cells that are done. A cell is
fine-tuned by one process on one device, or on its part of one where cells share it, so with GPUs::

    GPU hours = steps x seconds a step / 3600
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaleprior.corpus import Corpus
from scaleprior.detect.engines import get_engine
from scaleprior.errors import UserError
from scaleprior.files import is_number
from scaleprior.pretrain.costs.work import pretraining_work
from scaleprior.study.cell import Cell
from scaleprior.study.cells import Draft, draft_cells, fine_tuning_work, key_cells
from scaleprior.study.prepare import StudyData, detection_files, detection_fingerprint
from scaleprior.study.rungs import AbsentRung, Rung, survey_rungs
from scaleprior.study.spec import StudySpec
from scaleprior.study.status import study_status
from scaleprior.study.view import StudyView
from scaleprior.wording import parameter

__all__ = ["PlannedCell", "Pretraining", "Rate", "StudyPlan", "plan_study"]

NO_BACKBONE = "no backbone"


@dataclass(frozen=True)
class PlannedCell:
    """A cell and the work it is.

    Attributes:
        state: as in ``study status``; ``no backbone`` where it cannot run yet.
        steps, images_per_step: of fine-tuning.
    """

    arch: str
    arm: str
    images: int
    seed: int
    state: str
    steps: int
    images_per_step: int


@dataclass(frozen=True)
class Pretraining:
    """A backbone that the study pretrains, once for all arms.

    Attributes:
        images: of its fraction. images_seen: steps times images a step.
        done: it is there.
    """

    arch: str
    images: int
    seed: int
    steps: int
    images_seen: int
    done: bool


@dataclass(frozen=True)
class Rate:
    """Seconds of a step of fine-tuning, and whose word that is.

    Attributes:
        cells: done cells that it was measured in; 0 where it was given.
        evaluation: seconds that such a cell evaluated for; None where it was given.
        at_once: cells that shared the GPU or the machine meanwhile, on average over the time; 1 where nobody said.
    """

    seconds: float
    cells: int = 0
    evaluation: float | None = None
    at_once: float = 1.0


@dataclass(frozen=True)
class StudyPlan:
    """A study before it runs.

    Attributes:
        missing: of each architecture, backbones that are not here.
        rates: of (architecture, arm); none where nobody measured.
        pretraining_rates: of an architecture, measured seconds of a device for an image that pretraining sees.
    """

    name: str
    engine: str
    cells: tuple[PlannedCell, ...]
    pretrainings: tuple[Pretraining, ...]
    missing: Mapping[str, tuple[AbsentRung, ...]]
    rates: Mapping[tuple[str, str], Rate]
    pretraining_rates: Mapping[str, float]

    def left(self) -> list[PlannedCell]:
        """The cells that are not done."""
        return [cell for cell in self.cells if cell.state != "done"]

    def groups(self) -> dict[tuple[str, str], list[PlannedCell]]:
        """The cells of each (architecture, arm): of one law, and of one kind of step."""
        found: dict[tuple[str, str], list[PlannedCell]] = {}
        for cell in self.cells:
            found.setdefault((cell.arch, cell.arm), []).append(cell)
        return found

    def seconds_left(self) -> dict[tuple[str, str], float | None]:
        """Seconds of fine-tuning that each (architecture, arm) still needs, on one device; None: nobody measured.

        Evaluation is in it where it was measured. Of cells that shared a device, each counts with its part of the time.
        """
        found: dict[tuple[str, str], float | None] = {}
        for group, cells in self.groups().items():
            left, rate = [cell for cell in cells if cell.state != "done"], self.rates.get(group)
            seconds = sum(c.steps * rate.seconds + (rate.evaluation or 0.0) for c in left) if rate else None
            found[group] = seconds / rate.at_once if rate and seconds is not None else None
        return found

    def to_dict(self) -> dict[str, Any]:
        """For a script: cells, backbones, work, and time where it was measured."""
        seconds = self.seconds_left()
        return {
            "name": self.name,
            "engine": self.engine,
            "cells": [asdict(cell) for cell in self.cells],
            "pretrainings": [asdict(run) for run in self.pretrainings],
            "missing": [{"arch": arch, **asdict(rung)} for arch, rungs in self.missing.items() for rung in rungs],
            "work": {"all": _work(self.cells, self.pretrainings),
                     "left": _work(self.left(), [run for run in self.pretrainings if not run.done])},
            "rates": [{"arch": arch, "arm": arm, **asdict(rate)} for (arch, arm), rate in self.rates.items()],
            "seconds_left": [{"arch": arch, "arm": arm, "seconds": s} for (arch, arm), s in seconds.items()],
            "pretraining_seconds_an_image": dict(self.pretraining_rates),
        }  # fmt: skip


def _work(cells: Sequence[PlannedCell], runs: Sequence[Pretraining]) -> dict[str, int]:
    return {
        "cells": len(cells),
        "finetune_steps": sum(cell.steps for cell in cells),
        "finetune_images": sum(cell.steps * cell.images_per_step for cell in cells),
        "pretrainings": len(runs),
        "pretrain_steps": sum(run.steps for run in runs),
        "pretrain_images": sum(run.images_seen for run in runs),
    }


def plan_study(
    spec: StudySpec,
    out: Path,
    *,
    engine: str | None = None,
    seconds_per_step: Mapping[str, float] | float | None = None,
) -> StudyPlan:
    """Lay out the cells of ``spec``; nothing is made, downloaded or written, and no image is looked at.

    Args:
        out: the study's folder, which need not be there.
        engine: overrides the spec's.
        seconds_per_step: of fine-tuning, as somebody measured it; of each architecture, or of all. Wins over what was
            measured in ``out``.

    Raises:
        UserError: see :func:`plan_cells`; an architecture that the spec does not have, or seconds that are none.
    """
    view = None
    with contextlib.suppress(UserError):  # not begun yet
        view = study_status(out)
    name = engine or spec.engine
    resolved = get_engine(view.engine if view is not None and view.engine and name == "auto" else name).name
    given = _given(spec, seconds_per_step)
    found, absent = survey_rungs(spec)
    data = _data(spec, out, found)
    to_come = {arch: [r.images for r in rungs if r.images is not None] for arch, rungs in absent.items()}
    drafts = list(draft_cells(spec, data, resolved, absent=to_come))
    keyed = _keyed(spec, data, drafts)
    states = {status.cell.key: status.state for status in view.cells} if view is not None else {}
    cells = tuple(_planned(draft, keyed.get(id(draft)), states) for draft in drafts)
    measured = _measured(view) if view is not None else {}
    rates = {}
    for group in dict.fromkeys((cell.arch, cell.arm) for cell in cells):
        rate = Rate(given[group[0]]) if group[0] in given else measured.get(group)
        if rate is not None:
            rates[group] = rate
    return StudyPlan(
        name=spec.name,
        engine=resolved,
        cells=cells,
        pretrainings=tuple(_pretrainings(drafts, keyed, data, out)),
        missing={arch: rungs for arch, rungs in absent.items() if rungs},
        rates=rates,
        pretraining_rates=_pretraining_rates(view) if view is not None else {},
    )


def _given(spec: StudySpec, seconds: Mapping[str, float] | float | None) -> Mapping[str, float]:
    """Seconds a step of each architecture that they are given for."""
    if seconds is None:
        return {}
    by_arch = dict(seconds) if isinstance(seconds, Mapping) else dict.fromkeys(spec.architectures, seconds)
    for arch, value in by_arch.items():
        if arch not in spec.architectures:
            known = ", ".join(spec.architectures)
            raise UserError(f"{parameter('seconds_per_step')} has {arch!r}", hint=f"the spec's are {known}")
        if not is_number(value) or not 0 < value < math.inf:
            raise UserError(f"{parameter('seconds_per_step')} of {arch} is {value!r}", hint="give seconds, above 0")
    return by_arch


def _data(spec: StudySpec, out: Path, rungs: Mapping[str, tuple[Rung, ...]]) -> StudyData:
    """Of the data what is there already; a fingerprint that nothing can have yet is ""."""
    train, val = detection_files(spec, out)
    there = all(Path(files[1]).is_file() for files in (train, val))
    fingerprint = detection_fingerprint(train, val) if there and out.is_dir() else ""
    if spec.corpus is None:
        return StudyData(None, 0, "", train, val, fingerprint, {}, rungs)
    index = spec.corpus.index or out / "corpus"
    if not (index / "corpus.json").is_file():
        return StudyData(index, sys.maxsize, "", train, val, fingerprint, {}, rungs)
    corpus = Corpus.open(index)
    return StudyData(corpus.path, len(corpus), corpus.fingerprint, train, val, fingerprint, {}, rungs)


def _keyed(spec: StudySpec, data: StudyData, drafts: Sequence[Draft]) -> dict[int, Cell]:
    """The cells, by their drafts' ids, as far as what determines their keys is there."""
    if not data.detection_fingerprint or (spec.corpus is not None and not data.corpus_fingerprint):
        return {}
    known = [draft for draft in drafts if not _waits(draft)]
    return dict(zip(map(id, known), key_cells(spec, data, known) if known else ()))


def _waits(draft: Draft) -> bool:
    """Whether the cell has no backbone yet, and will not make it itself."""
    return bool(draft.cell.images) and draft.cell.pretrain is None and draft.rung is None


def _planned(draft: Draft, keyed: Cell | None, states: Mapping[str, str]) -> PlannedCell:
    cell, (steps, images_per_step) = draft.cell, draft.work
    state = NO_BACKBONE if _waits(draft) else states.get(keyed.key, "pending") if keyed is not None else "pending"
    return PlannedCell(cell.arch, cell.arm, cell.images, cell.seed, state, steps, images_per_step)


def _pretrainings(
    drafts: Sequence[Draft], keyed: Mapping[int, Cell], data: StudyData, out: Path
) -> Iterator[Pretraining]:
    seen = set[tuple[str, int, int]]()
    for draft in drafts:
        cell, learner = draft.cell, draft.learner
        which = cell.arch, cell.images, cell.seed
        if learner is None or which in seen:
            continue
        seen.add(which)
        work = pretraining_work(learner.cfg, data.corpus_images)
        own = keyed.get(id(draft))
        done = own is not None and (out / "pretrained" / own.backbone_name / "backbone.safetensors").is_file()
        yield Pretraining(*which, work.steps, work.images_seen, done)


def _measured(view: StudyView) -> dict[tuple[str, str], Rate]:
    """Seconds a step of each (architecture, arm) that has cells which are done."""
    groups: dict[tuple[str, str], list[tuple[int, float, float, float]]] = {}
    for cell, result in view.finished():
        steps, _ = fine_tuning_work(cell.finetune_config().cfg)
        if steps and "finetune" in result.seconds:
            tuning, evaluation = result.seconds["finetune"], result.seconds.get("evaluate", 0.0)
            at_once = result.cells_at_once
            own = tuning / at_once.get("finetune", 1.0) + evaluation / at_once.get("evaluate", 1.0)
            measured = steps, tuning, evaluation, own
            groups.setdefault((cell.arch, cell.arm), []).append(measured)
    rates = {}
    for group, measured in groups.items():
        steps, seconds, evaluation, own = (sum(column) for column in zip(*measured))
        at_once = (seconds + evaluation) / own if own else 1.0
        rates[group] = Rate(seconds / steps, len(measured), evaluation / len(measured), at_once)
    return rates


def _pretraining_rates(view: StudyView) -> dict[str, float]:
    """Seconds of a device for an image that pretraining sees, of each architecture that has finished one."""
    seen: dict[str, dict[str, tuple[float, int]]] = {}
    for cell, result in view.finished():
        if result.pretrain is not None and result.pretrain.images_seen and "pretrain" in result.seconds:
            own = result.seconds["pretrain"] / result.cells_at_once.get("pretrain", 1.0)
            runs, measured = seen.setdefault(cell.arch, {}), (own, result.pretrain.images_seen)
            # of the arms that share it, the first pretrained it; each later one has its look at it on top
            runs[cell.backbone_name] = min(runs.get(cell.backbone_name, measured), measured)
    return {
        arch: sum(seconds for seconds, _ in runs.values()) / sum(images for _, images in runs.values())
        for arch, runs in seen.items()
    }
