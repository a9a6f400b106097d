"""The options of ``scaleprior corpus build`` that say how a table of labels is meant."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_table_options", "table_options"]

_NAMES = (
    "descriptions", "file_column", "label_column", "split_column", "separator", "missing", "confidence_column",
    "min_confidence", "uncertain", "encoding", "skip_missing",
)  # fmt: skip


def add_table_options(build: argparse.ArgumentParser) -> None:
    """Declare them in a group of their own."""
    table = build.add_argument_group("tables", "What a table does not say itself. docs/corpus.md tells what it does.")
    table.add_argument(
        "--file-column", metavar="NAME", help="column of file names (default: file, path, image_id, ...)"
    )
    table.add_argument(
        "--label-column",
        action="append",
        metavar="NAME",
        help="column of labels (default: label, wnid, class, target, ...); several, as A,B,C or FIRST..LAST or given "
        "again, if each label has a column with 1, 0 or nothing",
    )
    table.add_argument("--split-column", metavar="NAME", default="split", help="column of splits (default: split)")
    table.add_argument("--separator", metavar="TEXT", help="between the labels of a cell; '' = a cell is one label")
    table.add_argument(
        "--missing",
        action="append",
        metavar="TEXT",
        help="a word for no label (may be given again); '' = empty cells only",
    )
    table.add_argument(
        "--confidence-column",
        metavar="NAME",
        help="1 = the row's label is present, 0 = absent; '' = none (default: confidence)",
    )
    table.add_argument("--min-confidence", type=float, metavar="X", help="from which on a label is present, 0 to 1")
    table.add_argument(
        "--uncertain", metavar="HOW", help="-1 in a label's column: ignore (unknown, the default), positive or negative"
    )
    table.add_argument("--encoding", metavar="NAME", help="of a CSV file, such as cp1252 (default: UTF-8)")
    table.add_argument("--descriptions", metavar="FILE", help="CSV of label and name (default: Open Images', if there)")
    table.add_argument("--skip-missing", action="store_true", help="leave out rows whose image is not there")


def table_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, by the names of ``Corpus.build``."""
    given = {name: getattr(args, name) for name in _NAMES}
    if given["separator"] is not None:
        given["separator"] = given["separator"].replace("\\t", "\t")
    return given
