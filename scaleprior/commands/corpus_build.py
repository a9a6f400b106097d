"""What ``scaleprior corpus build`` says at its end: what was read as what, and what was not taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scaleprior.terminal import say, say_json
from scaleprior.wording import printable

if TYPE_CHECKING:
    from scaleprior.corpus import Corpus, CorpusStatistics, LabelCount

__all__ = ["show_build", "warning_lines"]

_HEAD = 5  # labels named of the head of the tail, and of its end


def show_build(facts: Mapping[str, Any], corpus: Corpus, *, as_json: bool) -> None:
    """Print ``facts`` of a new index, its labels with their images, and what the build met beside them."""
    statistics = corpus.statistics(sample=0)
    met = {"warnings": corpus.facts["warnings"], "other_files": corpus.facts["other_files"]}
    reasons = corpus.facts["skipped"]["reasons"]
    if as_json:
        labels = {
            "labels": len(statistics.given),
            "most_frequent": [[label.id, label.images] for label in statistics.given[:_HEAD]],
            "least_frequent": [[label.id, label.images] for label in statistics.given[-_HEAD:]],
            "images_without_labels": statistics.unlabelled,
        }
        say_json({**facts, **labels, "skipped_by_reason": reasons, **met})
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:{width}}  {value:,}" if type(value) is int else f"{name:{width}}  {value}")
    say("", _labels(statistics))
    for line in _doubtful(statistics):
        say(line)
    if reasons:
        say(f"Skipped images: {_counted(reasons)}; corpus.json lists them.")
    for line in warning_lines(met["warnings"]):
        say(line)
    if met["other_files"]:
        say(f"Other files: {_counted(met['other_files'])}.")


def warning_lines(warnings: Mapping[str, Any]) -> list[str]:
    """What the build of an index met, one line a kind."""
    lines = []
    for kind, warning in warnings.items():
        examples = ", ".join(map(printable, filter(None, warning["examples"])))
        lines.append(f"Warning: {kind}: {warning['count']:,}{f', such as {examples}' if examples else ''}.")
    return lines


def _labels(statistics: CorpusStatistics) -> str:
    given = statistics.given
    named = _named(given) if len(given) <= 2 * _HEAD else f"{_named(given[:_HEAD])}, ..., {_named(given[-_HEAD:])}"
    of = f" of {len(statistics.labels):,}" if len(given) < len(statistics.labels) else ""
    labels = "label" if len(statistics.labels) == 1 else "labels"
    return f"{len(given):,}{of} {labels} with images, most frequent first: {named}"


def _named(labels: Sequence[LabelCount]) -> str:
    names = ((label.id if label.name == label.id else f"{label.id} ({label.name})", label.images) for label in labels)
    names = ((printable(name), images) for name, images in names)
    return ", ".join(f"{name if len(name) <= 60 else name[:60] + '...'} {images:,}" for name, images in names)


def _doubtful(statistics: CorpusStatistics) -> list[str]:
    """What shows only when all labels are counted: too late for a question, not for a second build."""
    said = []
    if statistics.unlabelled:
        word = "Warning: " if statistics.unlabelled > statistics.images / 2 else ""
        said.append(f"{word}{statistics.unlabelled:,} of {statistics.images:,} images have no label.")
    if len(statistics.given) > statistics.images / 2 and statistics.images > 20:
        said.append(
            f"Warning: {len(statistics.given):,} different labels on {statistics.images:,} images: nearly one each."
        )
    return said


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {kind}" for kind, number in counts.items())
