"""What the terminal shows of a study's plan: the grid, what is missing, the work, and time where it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from scaleprior.console import PlainConsole
from scaleprior.laws.words import number
from scaleprior.study.plan import NO_BACKBONE, PlannedCell, StudyPlan
from scaleprior.study.rungs import AbsentRung
from scaleprior.wording import flag, printable

__all__ = ["print_plan"]


def print_plan(plan: StudyPlan) -> None:
    """Print all of it."""
    console = PlainConsole()
    console.print(_grid(plan))
    left = plan.left()
    waiting = sum(cell.state == NO_BACKBONE for cell in left)
    blocked = f", {waiting} wait for a backbone that is not here" if waiting else ""
    _say(console, f"{len(plan.cells)} cells on engine {plan.engine}: {len(plan.cells) - len(left)} done{blocked}")
    for line in _missing(plan.missing):
        _say(console, line)
    for line in (*_pretraining(plan), *_fine_tuning(plan, left)):
        _say(console, line)


def _say(console: PlainConsole, text: str) -> None:
    console.print(printable(text), soft_wrap=True, highlight=False)


def _grid(plan: StudyPlan) -> Table:
    """A row an architecture and arm, which is what a law is of."""
    with_arms = any(cell.arm for cell in plan.cells)
    table = Table(title=f"plan of study {plan.name}")
    table.add_column("architecture")
    if with_arms:
        table.add_column("arm")
    table.add_column("images")
    for head in ("seeds", "cells", "done", "no backbone", "steps", "images a step"):
        table.add_column(head, justify="right")
    for (arch, arm), cells in plan.groups().items():
        rungs = ", ".join(number(n) if n else "scratch" for n in dict.fromkeys(cell.images for cell in cells))
        counts = [len({cell.seed for cell in cells}), len(cells), *(_of(cells, s) for s in ("done", NO_BACKBONE))]
        work = [_range(cell.steps for cell in cells), _range(cell.images_per_step for cell in cells)]
        table.add_row(arch, *([arm] if with_arms else []), rungs, *map(str, counts), *work)
    return table


def _of(cells: Sequence[PlannedCell], state: str) -> int:
    return sum(cell.state == state for cell in cells)


def _range(values: Iterable[int]) -> str:
    return ", ".join(f"{value:,}" for value in dict.fromkeys(values))


def _missing(missing: Mapping[str, Sequence[AbsentRung]]) -> list[str]:
    lines = []
    for arch, rungs in missing.items():
        for rung in rungs:
            unknown = "" if rung.images is not None else " (of how many images is not known: not among the cells)"
            lines.append(f"- {arch}: {rung.weights}{unknown}: {rung.why}")
    return ["backbones that are not here:", *lines] if lines else []


def _pretraining(plan: StudyPlan) -> list[str]:
    left = [run for run in plan.pretrainings if not run.done]
    if not left:
        return []
    arms = len({cell.arm for cell in plan.cells})
    shared = ", each once for all arms" if arms > 1 else ""
    seen = sum(run.images_seen for run in left)
    steps = sum(run.steps for run in left)
    lines = [f"pretraining to do: {len(left)} backbones{shared}, {steps:,} steps, {seen:,} images seen"]
    for arch in dict.fromkeys(run.arch for run in left):
        images, rate = sum(run.images_seen for run in left if run.arch == arch), plan.pretraining_rates.get(arch)
        if rate is not None:
            lines.append(f"- {arch}: {images:,} images x {rate:.3g} s (measured here) = {_time(images * rate)}")
    return lines


def _fine_tuning(plan: StudyPlan, left: Sequence[PlannedCell]) -> list[str]:
    if not left:
        return []
    steps, images = sum(cell.steps for cell in left), sum(cell.steps * cell.images_per_step for cell in left)
    lines = [f"fine-tuning to do: {len(left)} cells, {steps:,} steps, {images:,} images; then as many evaluations"]
    seconds = plan.seconds_left()
    for group, cells in plan.groups().items():
        todo, rate = sum(cell.steps for cell in cells if cell.state != "done"), plan.rates.get(group)
        title = f"{group[0]} ({group[1]})" if group[1] else group[0]
        if todo and rate is not None:
            source = f"measured in {rate.cells} cells, evaluation is in it" if rate.cells else "given"
            source += f"; {rate.at_once:.1f} of them at once" if rate.at_once >= 1.05 else ""
            lines.append(
                f"- {title}: {todo:,} steps x {rate.seconds:.3g} s ({source}) = {_time(seconds[group] or 0.0)}"
            )
    unknown = [group for group, value in seconds.items() if value is None]
    if not unknown:
        total = sum(value or 0.0 for value in seconds.values())
        lines.append(f"fine-tuning in all: {_time(total)} on one device; a cell runs on one")
    else:
        lines.append(
            "its time: steps x seconds a step / 3600 = hours on one device, and a cell runs on one. Nobody has "
            f"measured the seconds for {_named(unknown)}: give them as {flag('seconds_per_step')} S, or ARCHITECTURE=S"
        )
    return lines


def _named(groups: Sequence[tuple[str, str]]) -> str:
    archs = dict.fromkeys(arch for arch, _ in groups)
    return ", ".join(archs)


def _time(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:,.0f} s"
