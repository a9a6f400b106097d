"""What a study's numbers say, in words: change over from scratch, gain per decade, forecast, capacity.

Verdicts follow probabilities by the thresholds of ``scaleprior.laws.words``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from scaleprior.study.cell import Cell
from scaleprior.study.report.summary import ArchSummary, change_over
from scaleprior.wording import counted

if TYPE_CHECKING:
    from scaleprior.laws import Change, Law

__all__ = ["describe_cell", "sharing_sentence", "study_notes", "study_sentences"]


def describe_cell(cell: Cell) -> str:
    """Architecture, arm, images and seed, for people."""
    images = f"{cell.images:,} images" if cell.images else "from scratch"
    return f"{cell.title}, {images}, seed {cell.seed}"


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
        yield from _over_scratch(summary)
        yield from _law(summary)
    for arm in dict.fromkeys(summary.arm for summary in summaries):
        yield from _capacity([summary for summary in summaries if summary.arm == arm], arm)
    yield from _over_scratch_arm(summaries)


def study_notes(summaries: Sequence[ArchSummary]) -> Iterator[str]:
    """What the laws are, what to beware of, and by what scale words were chosen; each once for the whole study."""
    from scaleprior.laws.several import fitted_how
    from scaleprior.laws.words import shared_notes, shared_reasons, thresholds

    laws: Mapping[str, Law] = {s.title: s.law for s in summaries if s.law is not None}
    yield from shared_reasons(laws)
    yield from fitted_how(laws)
    yield from shared_notes(laws)
    if laws or any(change.known for s in summaries if (change := s.over_scratch) is not None):
        yield thresholds()


def _over_scratch(summary: ArchSummary) -> Iterator[str]:
    from scaleprior.laws.words import judged

    if (change := summary.over_scratch) is None:
        return
    sentence = (
        f"{summary.title}: pretraining on {summary.points[-1].images:,} images changes AP by {change.value:+.2f} over "
        f"from scratch ({_evidence(change)})"
    )
    if not change.known:
        yield f"{sentence}."
        return
    word = judged(change.probability, "gains", "loses")
    yield f"{sentence}: {'whether pretraining gains is open' if word == 'open' else f'pretraining {word}'}."


def _evidence(change: Change) -> str:
    """What a change rests on: runs, standard error, interval and probability, or that there is but the number."""
    from scaleprior.laws.words import chance, percent

    runs = f"{change.runs[0]} against {counted(change.runs[1], 'seeds')}"
    if not change.known:
        return f"{runs}: how far seeds scatter is not known"
    return (
        f"{runs}, standard error {change.error:.2f}, {percent(change.level)} interval {change.low:+.2f} to "
        f"{change.high:+.2f}; probability of a gain {chance(change.probability)}"
    )


def _over_scratch_arm(summaries: Sequence[ArchSummary]) -> Iterator[str]:
    for summary in summaries:
        others = [s for s in summaries if s.arch == summary.arch and s.scratch and s.arm != summary.arm]
        if not summary.points or summary.scratch is not None or len(others) != 1 or others[0].scratch is None:
            continue
        top, scratch = summary.points[-1], others[0].scratch
        change = change_over(scratch, summary.points)
        yield (
            f"{summary.arch}: pretraining on {top.images:,} images in arm {summary.arm} gives AP {top.mean:.2f}, from "
            f"scratch in arm {others[0].arm} AP {scratch.mean:.2f}: {change.value:+.2f} ({_evidence(change)}); their "
            "recipes differ, too."
        )


def _law(summary: ArchSummary) -> Iterator[str]:
    from scaleprior.laws.words import chance, judged, percent

    if summary.arm and summary.scratch is not None and not summary.points:
        yield f"{summary.title}: AP {summary.scratch.mean:.2f} from scratch."
        return
    if summary.law is None:
        yield f"{summary.title}: no law: {summary.why_no_law}."
        return
    law, gain, level = summary.law, summary.law.per_decade, percent(summary.law.level)
    word = judged(gain.probability, "helps", "hurts")
    yield (
        f"{summary.title}: {gain.value:+.2f} AP per tenfold pretraining images at the top of the ladder ({level} "
        f"interval {gain.low:+.2f} to {gain.high:+.2f}; probability of a gain {chance(gain.probability)}): "
        f"{'whether more data helps is open' if word == 'open' else f'more data {word}'}."
    )
    images = summary.points[-1].images * 10
    mean, low, high = (float(v) for v in law.predict(images))
    yield (
        f"{summary.title}: ten times more images ({images:,}) are forecast to give AP {mean:.2f} ({level} interval of "
        f"a new run {low:.2f} to {high:.2f})."
    )


def _capacity(summaries: Sequence[ArchSummary], arm: str) -> Iterator[str]:
    from scaleprior.laws import compare_laws

    within = f"arm {arm}: " if arm else ""
    laws = [(s.arch, s.law) for s in summaries if s.law is not None]
    for (name, law), (other_name, other) in itertools.pairwise(laws):
        yield within + compare_laws(other, law, names=(other_name, name)).verdict
