"""rich's console and columns for text of others: what looks like markup, an emoji's name or a control is text.

rich takes ``[/b]`` in a string for markup, and raises where nothing is open. Here style is an argument, never a text.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from scaleprior.wording import printable

__all__ = ["PlainConsole", "WordsColumn", "styled"]


class PlainConsole(Console):
    """Shows every string as it is, in one line: printed, in a table's cell, head or title. :func:`styled` has style."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Without markup, emoji and effects, whatever is asked for."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


def styled(text: str, style: str) -> Text:
    """A text in a style, without effects."""
    return Text(printable(text), style=style)


class WordsColumn(ProgressColumn):
    """A bar's description, or what one of its fields holds, in the style that its field ``style`` names, if any.

    Args:
        field: of the task; "" for its description.
    """

    def __init__(self, field: str = "", *, style: str = "") -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._field, self._style = field, style

    def render(self, task: Task) -> Text:
        """Its text."""
        text = task.fields[self._field] if self._field else task.description
        return styled(str(text), self._style or task.fields.get("style", ""))
