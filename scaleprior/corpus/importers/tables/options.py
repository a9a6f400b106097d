"""What a person may say about a table of labels; all of it may be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from scaleprior.errors import UserError
from scaleprior.wording import parameter, shown

__all__ = ["TableOptions"]

UNCERTAIN = ("ignore", "positive", "negative")


@dataclass(frozen=True)
class TableOptions:
    """How a table is meant. None leaves a question to what the table itself says.

    Attributes:
        file_column: column of file or member names.
        label_column: column of labels; or several, each a label whose cells say 1 (present), 0 (absent), blank
            (unknown) or -1 (uncertain). A text names one column, several separated by commas, or ``FIRST..LAST``.
        split: keep only rows whose ``split_column`` has this value.
        split_column: see ``split``.
        separator: text between the labels of a cell; "" for cells that are one label each.
        missing: what a cell says that has no label, beside empty ones and pandas' nan.
        confidence_column: of a table with a row for each label: 1 present, 0 absent; "" for none.
        min_confidence: from which confidence on, in (0, 1], a label is present; below it, it is unknown.
        uncertain: what a -1 in a label's own column is: "ignore" (unknown), "positive" or "negative".
        encoding: of a CSV file, as Python calls it.
        skip_missing: leave out rows whose image is not there, and count them.

    Raises:
        UserError: a value that cannot be.
    """

    file_column: str | None = None
    label_column: str | Sequence[str] | None = None
    split: str | None = None
    split_column: str = "split"
    separator: str | None = None
    missing: str | Sequence[str] | None = None
    confidence_column: str | None = None
    min_confidence: float | None = None
    uncertain: str | None = None
    encoding: str | None = None
    skip_missing: bool = False

    def __post_init__(self) -> None:
        self._refuse_types()
        if self.uncertain not in (None, *UNCERTAIN):
            raise UserError(
                f"{parameter('uncertain')} is {self.uncertain!r}", hint=f"take one of {', '.join(UNCERTAIN)}"
            )
        if self.min_confidence is not None and not 0 < self.min_confidence <= 1:
            raise UserError(
                f"{parameter('min_confidence')} is {self.min_confidence}", hint="give a number above 0, at most 1"
            )

    def _refuse_types(self) -> None:
        """Values from Python and YAML are of any type: ``split: 1`` is a number, and a table's cells are text."""
        texts = ("file_column", "split", "split_column", "separator", "confidence_column", "uncertain", "encoding")
        for name in texts:
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise UserError(f"{parameter(name)} is {shown(value)}, no text", hint=f"give a text: {str(value)!r}")
        for name, few in (("label_column", 1), ("missing", 0)):
            value = getattr(self, name)
            listed = () if value is None or isinstance(value, str) else value
            several = isinstance(listed, Sequence) and all(isinstance(word, str) for word in listed)
            if not several or (listed is value and len(listed) < few):
                raise UserError(f"{parameter(name)} is {shown(value)}", hint="give a text, or a list of texts")
        least = self.min_confidence
        if least is not None and (isinstance(least, bool) or not isinstance(least, (int, float))):
            raise UserError(f"{parameter('min_confidence')} is {shown(least)}", hint="give a number")
        if not isinstance(self.skip_missing, bool):
            raise UserError(f"{parameter('skip_missing')} is {self.skip_missing!r}", hint="give True or False")

    @property
    def missing_words(self) -> tuple[str, ...]:
        """``missing`` as words."""
        return (self.missing,) if isinstance(self.missing, str) else tuple(self.missing or ())

    def given(self) -> dict[str, object]:
        """What was said, by name; ``split`` is left out, which sources without a table have, too."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("split", "split_column") and getattr(self, field.name) not in (None, False)
        }
