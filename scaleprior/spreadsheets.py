"""Cells of CSV files that a spreadsheet shows and does not calculate.

Spreadsheets take a cell for a formula that begins with ``=``, ``+``, ``-`` or ``@``, also in full width, and some with
a tab or the end of a line before that (OWASP, "CSV Injection"): such a formula can send what other cells hold. A text
like that gets an apostrophe, by which a spreadsheet knows text and which it does not show. Numbers stay numbers, and
our own readers take the apostrophe off again, so that what was written is what is read.
"""

from __future__ import annotations

import re

__all__ = ["guarded", "unguarded"]

_ACTS = "=+\\-@\t\r\n＝＋－＠"
_FORMULA = re.compile(f"'*[{_ACTS}]")  # with apostrophes of its own, so that exactly one is put and taken
_GUARDED = re.compile(f"'+[{_ACTS}]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def guarded(value: object) -> object:
    """``value`` as it goes into a cell; another one only where it is a text that a spreadsheet would calculate."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def unguarded(text: str) -> str:
    """What :func:`guarded` was given, from a cell's text."""
    return text[1:] if _GUARDED.match(text) else text
