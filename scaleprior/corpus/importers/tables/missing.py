"""What a cell says that has no label: nothing, or a word for nothing that may also be a label's name.

Numbers have such words from pandas, which turns a column of ids with gaps into floats: ``0.0``, ``nan``. There they
mean nothing, and the ids are ``0``. Among names, "nan" and "<NA>" are still pandas' own, but "NA" may be Namibia and
"None" a class, so these are asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scaleprior.corpus.importers.doubts import Doubt
from scaleprior.corpus.importers.tables.sql import text
from scaleprior.wording import either, flag

__all__ = ["BLANK", "Missing", "find_missing"]

_ALWAYS = ("", "nan", "NaN", "NAN", "-nan", "<NA>", "NaT")
_ASKED = ("NA", "N/A", "None", "null", "NULL")
_NOTHING = ("no finding", "no findings")  # in small letters

BLANK = (*_ALWAYS, *_ASKED, "#N/A", "n/a", "none", "Null")
"""Words for nothing in a column of numbers."""


@dataclass(frozen=True)
class Missing:
    """What counts as no label in a column.

    Attributes:
        words: the cells or parts of cells that do.
        numbers: labels are ids that may be written as floats, ``3.0``.
        doubts: words that may mean nothing and are read as labels.
    """

    words: tuple[str, ...]
    numbers: bool
    doubts: tuple[Doubt, ...] = ()

    @property
    def sql(self) -> str:
        """The words as an SQL list."""
        return ", ".join(map(text, self.words))

    def label(self, part: str) -> str:
        """SQL for the label that the trimmed SQL text ``part`` is: itself, or the id that a float is."""
        return f"regexp_replace({part}, '\\.0*$', '')" if self.numbers else part

    def clean(self, parts: str) -> str:
        """SQL for the labels in the SQL list of texts ``parts``: trimmed, without what is missing, floats as ids."""
        return f"[{self.label('trim(x)')} FOR x IN {parts} IF trim(x) NOT IN ({self.sql})]"


def find_missing(connection: Any, parts: str, column: str, given: Sequence[str] | None) -> Missing:
    """What is missing in a column of labels.

    Args:
        parts: SQL of the distinct parts of its cells, trimmed, as ``part``.
        column: what to call it in messages.
        given: what a person has said to be missing, beside empty cells and pandas' nan.
    """
    words = (*_ALWAYS, *given) if given is not None else BLANK
    listed = ", ".join(map(text, words))
    names, floats = connection.execute(
        "SELECT count(*) FILTER (NOT regexp_full_match(part, '-?[0-9]+(\\.0*)?')), "
        f"count(*) FILTER (regexp_full_match(part, '-?[0-9]+\\.0*')) FROM ({parts}) WHERE part NOT IN ({listed})"
    ).fetchone()
    if given is not None or not names:
        return Missing(words, numbers=not names and floats > 0)
    found = connection.execute(
        f"SELECT part FROM ({parts}) WHERE part IN ({', '.join(map(text, _ASKED))}) "
        f"OR lower(part) IN ({', '.join(map(text, _NOTHING))}) ORDER BY part"
    ).fetchall()
    return Missing(_ALWAYS, numbers=False, doubts=tuple(_doubt(column, word) for (word,) in found))


def _doubt(column: str, word: str) -> Doubt:
    none = either("missing=()", f"{flag('missing')} ''")
    drop = either(f"missing={word!r}", f"{flag('missing')} {word!r}")
    return Doubt(
        f"{column}: {word!r} is a label like any other as it stands",
        f"give {drop} if an image that has it has no label, {none} if it is one",
    )
