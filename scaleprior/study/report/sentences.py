"""What a study's numbers say, in words: gain over scratch, gain per decade, forecast, capacity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from scaleprior.study.cell import Cell
from scaleprior.study.report.summary import ArchSummary

__all__ = ["describe_cell", "pooled_spread", "sharing_sentence", "study_sentences"]


def describe_cell(cell: Cell) -> str:
    """Architecture, arm, images and seed, for people."""
    images = f"{cell.images:,} images" if cell.images else "from scratch"
    return f"{cell.title}, {images}, seed {cell.seed}"


def pooled_spread(summary: ArchSummary) -> float | None:
    """Seed-to-seed standard deviation of AP: the root mean square over the fractions that have two seeds or more."""
    points = ((summary.scratch,) if summary.scratch else ()) + summary.points
    spreads = [(p.spread, len(p.aps) - 1) for p in points if p.spread is not None]
    if not spreads:
        return None
    return math.sqrt(sum(s * s * n for s, n in spreads) / sum(n for _, n in spreads))


def sharing_sentence(cells_at_once: Sequence[float]) -> str:
    """What the costs of cells that worked side by side do not say; "" where each was alone, or nobody knows.

    Args:
        cells_at_once: of each cell that knows, how many shared its GPU or machine on average.
    """
    if not cells_at_once or max(cells_at_once) < 1.05:
        return ""
    least, most = min(cells_at_once), max(cells_at_once)
    return (
        f"Cells shared their GPU or machine, {least:.1f} to {most:.1f} at once on average: seconds of cells that "
        "shared it with other numbers do not compare."
    )


def study_sentences(summaries: Sequence[ArchSummary]) -> Iterator[str]:
    """One sentence a finding; says as plainly what is not shown.

    Architectures are compared within an arm. Only from scratch, which often has an arm of its own because it needs
    another recipe, is held against other arms, and the sentence names both.
    """
    for summary in summaries:
        yield from _gain_over_scratch(summary)
        yield from _law(summary)
    for arm in dict.fromkeys(summary.arm for summary in summaries):
        yield from _capacity([summary for summary in summaries if summary.arm == arm], arm)
    yield from _over_scratch_arm(summaries)


def _gain_over_scratch(summary: ArchSummary) -> Iterator[str]:
    if summary.gain is None:
        return
    top = summary.points[-1]
    sentence = (
        f"{summary.title}: pretraining on {top.images:,} images changes AP by {summary.gain:+.2f} over from scratch"
    )
    spread = pooled_spread(summary)
    if spread is not None:
        relation = "more" if abs(summary.gain) > spread else "not more"
        sentence += f", {relation} than the seed-to-seed standard deviation of {spread:.2f}"
    yield sentence + "."


def _over_scratch_arm(summaries: Sequence[ArchSummary]) -> Iterator[str]:
    for summary in summaries:
        others = [s for s in summaries if s.arch == summary.arch and s.scratch and s.arm != summary.arm]
        if not summary.points or summary.scratch is not None or len(others) != 1 or others[0].scratch is None:
            continue
        top, scratch = summary.points[-1], others[0].scratch
        yield (
            f"{summary.arch}: pretraining on {top.images:,} images in arm {summary.arm} gives AP {top.mean:.2f}, from "
            f"scratch in arm {others[0].arm} AP {scratch.mean:.2f} ({top.mean - scratch.mean:+.2f}); their recipes "
            "differ, too."
        )


def _law(summary: ArchSummary) -> Iterator[str]:
    if summary.arm and summary.scratch is not None and not summary.points:
        yield f"{summary.title}: AP {summary.scratch.mean:.2f} from scratch."
        return
    if summary.law is None:
        yield f"{summary.title}: no law: {summary.why_no_law}."
        return
    gain = summary.law.per_decade
    verdict = "more data helps" if gain.low > 0 else "more data hurts" if gain.high < 0 else "a gain is not shown"
    yield (
        f"{summary.title}: {gain.value:+.2f} AP per tenfold pretraining images at the top of the ladder"
        f" (90 % interval {gain.low:+.2f} to {gain.high:+.2f}): {verdict}."
    )
    images = summary.points[-1].images * 10
    mean, low, high = (float(v) for v in summary.law.predict(images))
    yield (
        f"{summary.title}: ten times more images ({images:,}) are forecast to give AP {mean:.2f}"
        f" (90 % interval {low:.2f} to {high:.2f})."
    )


def _capacity(summaries: Sequence[ArchSummary], arm: str) -> Iterator[str]:
    from scaleprior.laws import compare_laws

    within = f"arm {arm}: " if arm else ""
    laws = [(s.arch, s.law) for s in summaries if s.law is not None]
    for (name, law), (other_name, other) in itertools.pairwise(laws):
        yield within + compare_laws(other, law, names=(other_name, name)).verdict
