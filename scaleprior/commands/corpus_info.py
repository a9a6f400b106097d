"""``scaleprior corpus info``: what an index holds, on the terminal, as JSON, or as a page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.commands.corpus_build import warning_lines
from scaleprior.terminal import say, say_json

if TYPE_CHECKING:
    from scaleprior.corpus import Corpus, CorpusStatistics, LabelCount

__all__ = ["add_info_options", "show_info"]

_HEAD = 10  # labels printed of the head of the tail, and of its end


def add_info_options(parser: argparse.ArgumentParser) -> None:
    """The index, and how much of it is looked at."""
    parser.description = (
        "Labels with counts, the long tail, what the hierarchy adds, bytes; formats and sizes from the headers of a "
        "sample of images."
    )
    parser.add_argument("index", metavar="INDEX", help="index folder, or a saved fraction")
    looked_at = parser.add_mutually_exclusive_group()
    looked_at.add_argument(
        "--sample",
        type=int,
        default=1000,
        metavar="N",
        help="read the headers of the first N images in hash order, a random sample (default: 1000; 0: none)",
    )
    looked_at.add_argument("--all", action="store_true", help="read the headers of all images")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="also write a page with plots and sample images")
    parser.add_argument("--json", action="store_true", help="print JSON, with every label")


def show_info(facts: Mapping[str, Any], corpus: Corpus, args: argparse.Namespace) -> None:
    """Print ``facts`` of an index and its statistics; write the page that was asked for."""
    statistics = corpus.statistics(sample=None if args.all else args.sample, progress=True)
    warnings = corpus.facts.get("warnings", {})  # none in an index from before they were kept
    page = {} if args.html is None else {"html": str(corpus.write_page(args.html, statistics))}
    if args.json:
        say_json({**facts, **statistics.to_dict(), "warnings": warnings, **page})
        return
    width = max(map(len, (*facts, *page)))
    for name, value in {**facts, **page}.items():
        say(f"{name:{width}}  {value:,}" if type(value) is int else f"{name:{width}}  {value}")
    say("")
    for sentence in statistics.sentences():
        say(sentence)
    for line in warning_lines(warnings):
        say(line)
    _print_headers(statistics)
    _print_labels(statistics)


def _print_headers(statistics: CorpusStatistics) -> None:
    headers = statistics.headers
    if headers is None:
        return
    kinds = [f"{number:,} {kind}" for kind, number in headers.formats.items()]
    kinds += [f"{headers.turned:,} turned by EXIF"] if headers.turned else []
    kinds += [f"{number:,} not readable ({why})" for why, number in headers.problems.items()]
    say(f"Of {headers.describe()}: {', '.join(kinds)}.")
    spread = headers.spread()
    if spread:
        sides = [f"{side} {low:,} to {high:,}, median {middle:,}" for side, (low, middle, high) in spread.items()]
        say(f"Pixels: {'; '.join(sides[:2])}.")


def _print_labels(statistics: CorpusStatistics) -> None:
    from rich.table import Table

    from scaleprior.console import PlainConsole, styled

    given = statistics.given
    columns: dict[str, Callable[[LabelCount], int]] = {"images": lambda label: label.images}
    if any(label.closed != label.images for label in statistics.labels):
        columns["with descendants"] = lambda label: label.closed
    if statistics.has_absent:
        columns["absent"] = lambda label: label.absent
    texts = ["label", *(["name"] if any(label.name != label.id for label in given) else [])]
    table = Table(box=None, pad_edge=False, header_style="")
    for head in texts:
        table.add_column(head, overflow="fold")
    for head in columns:
        table.add_column(head, justify="right")
    left_out = max(len(given) - 2 * _HEAD, 0)
    for number, label in enumerate(given):
        if left_out and number == _HEAD:
            table.add_row(f"... {left_out:,} more")
        if number < _HEAD or number >= len(given) - _HEAD:
            names = [styled(label.id, ""), styled(label.name, "")][: len(texts)]
            table.add_row(*names, *(f"{figure(label):,}" for figure in columns.values()))
    say("")
    PlainConsole().print(table)
