"""The study's numbers: ``results.csv``, means over seeds, one law an architecture and arm, and what the study cost.

AP is in [0, 100] throughout; ``images`` 0 means from scratch.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.ap_names import AP_NAMES
from scaleprior.files import write_csv
from scaleprior.study.cell import Cell
from scaleprior.study.result import CellResult
from scaleprior.study.rungs import not_comparable
from scaleprior.study.view import StudyView

if TYPE_CHECKING:
    import pyarrow

    from scaleprior.laws import Change, Law

__all__ = [
    "ARM_COLUMN",
    "COLUMNS",
    "LEVEL",
    "ArchSummary",
    "Point",
    "change_over",
    "columns_of",
    "images_seen",
    "result_rows",
    "result_table",
    "summarise",
    "write_results",
]

COLUMNS = ("arch", "images", "seed", *AP_NAMES, "engine", "cell", "images_seen")
ARM_COLUMN = "arm"  # behind the others, in a study with arms
LEVEL = 0.9
"""Nominal coverage of a report's intervals."""


@dataclass(frozen=True)
class Point:
    """One fraction of one architecture.

    Attributes:
        aps: AP of each finished seed, in the order of ``seeds``.
    """

    images: int
    seeds: tuple[int, ...]
    aps: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean AP over seeds."""
        return statistics.fmean(self.aps)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n - 1); None with a single seed."""
        return statistics.stdev(self.aps) if len(self.aps) > 1 else None


@dataclass(frozen=True)
class ArchSummary:
    """All finished cells of one architecture, in a study with arms of one of its arms.

    Attributes:
        arm: "" in a study without arms.
        scratch: the from-scratch point; None if the study has none.
        points: the ladder, rising.
        law: AP against log images; None where there are too few fractions, or where they differ in more
            than their images, and then ``why_no_law`` says so.
    """

    arch: str
    scratch: Point | None
    points: tuple[Point, ...]
    law: Law | None
    why_no_law: str
    arm: str = ""

    @property
    def title(self) -> str:
        """As :attr:`scaleprior.study.Cell.title`: what the law is of."""
        return f"{self.arch} ({self.arm})" if self.arm else self.arch

    @property
    def over_scratch(self) -> Change | None:
        """AP at the top of the ladder over AP from scratch; None without either."""
        return change_over(self.scratch, self.points) if self.scratch and self.points else None


def change_over(scratch: Point, ladder: Sequence[Point]) -> Change:
    """AP at the top of a ladder over AP from scratch; all of them together say how far seeds scatter."""
    from scaleprior.laws import mean_change, pooled_spread

    spread, dof = pooled_spread(point.aps for point in (scratch, *ladder))
    return mean_change(ladder[-1].aps, scratch.aps, spread=spread, dof=dof, level=LEVEL)


def columns_of(view: StudyView) -> tuple[str, ...]:
    """The columns of ``results.csv``."""
    return (*COLUMNS, ARM_COLUMN) if view.arms else COLUMNS


def result_rows(view: StudyView) -> list[dict[str, str | int | float | None]]:
    """One row a finished cell, in the plan's order; the keys are :func:`columns_of` the study."""
    with_arms = bool(view.arms)
    return [
        {
            "arch": cell.arch,
            "images": cell.images,
            "seed": cell.seed,
            **{column: None if ap is None else round(ap, 6) for column, ap in result.detection.named().items()},
            "engine": view.engine,
            "cell": cell.key,
            "images_seen": images_seen(cell, result),
            **({ARM_COLUMN: cell.arm} if with_arms else {}),
        }
        for cell, result in view.finished()
    ]


def result_table(view: StudyView) -> pyarrow.Table:
    """:func:`result_rows` as a table: text, int64 and, of AP, float64 columns, also where a column is empty."""
    import pyarrow

    text, whole = ("arch", "engine", "cell", ARM_COLUMN), ("images", "seed", "images_seen")
    types = {**dict.fromkeys(text, pyarrow.string()), **dict.fromkeys(whole, pyarrow.int64())}
    schema = pyarrow.schema([(column, types.get(column, pyarrow.float64())) for column in columns_of(view)])
    return pyarrow.Table.from_pylist(result_rows(view), schema=schema)


def images_seen(cell: Cell, result: CellResult) -> int | None:
    """Images that the cell's own pretraining saw; None if its backbone was trained elsewhere."""
    if result.pretrain is not None:
        return result.pretrain.images_seen
    return None if cell.images else 0


def write_results(view: StudyView, path: Path) -> None:
    """Write ``results.csv``; its bytes depend on nothing but what the cells measured."""
    write_csv(path, columns_of(view), result_rows(view))


def summarise(view: StudyView) -> list[ArchSummary]:
    """Points and law of each architecture, arm by arm.

    Arms never share a law. All laws of a study are fitted together, so that one's forecast borrows from others' shapes
    and differences agree with the predictions; ladders that are not comparable have none.
    """
    done = view.finished()
    of = list(dict.fromkeys((status.cell.arch, status.cell.arm) for status in view.cells))
    points = []
    for arch, arm in of:
        finished = [(cell, result.detection.ap) for cell, result in done if (cell.arch, cell.arm) == (arch, arm)]
        points.append([_point(finished, n) for n in sorted({cell.images for cell, _ in finished})])
    ladders = [tuple(point for point in some if point.images) for some in points]
    apart = [not_comparable(view.facts, arch) for arch, _ in of]
    laws = _laws({cell: ladder for cell, ladder, why in zip(of, ladders, apart) if not why})
    summaries = []
    for (arch, arm), some, ladder, why in zip(of, points, ladders, apart):
        law, missing = (None, f"{why}: a picture, not a slope") if why else laws[arch, arm]
        scratch = some[0] if some and some[0].images == 0 else None
        summaries.append(ArchSummary(arch, scratch, ladder, law, missing, arm))
    return summaries


def _point(finished: Sequence[tuple[Cell, float]], images: int) -> Point:
    chosen = sorted((cell.seed, ap) for cell, ap in finished if cell.images == images)
    return Point(images, tuple(s for s, _ in chosen), tuple(ap for _, ap in chosen))


def _laws(
    ladders: Mapping[tuple[str, str], Sequence[Point]],
) -> dict[tuple[str, str], tuple[Law | None, str]]:
    """The law of each architecture and arm, or why it has none."""
    from scaleprior.laws.several import Ladder, fit_ladders

    names = {of: ", ".join(of) for of in ladders}
    given = {
        names[of]: Ladder(
            [p.images for p in points for _ in p.aps],
            [ap for p in points for ap in p.aps],
            [seed for p in points for seed in p.seeds],
        )
        for of, points in ladders.items()
    }
    laws = fit_ladders(given, kind="score", unit="percent", level=LEVEL)
    return {of: (laws.get(name), str(laws.left_out.get(name, ""))) for of, name in names.items()}
