"""Labels given as numbers, and the list that says which class a number is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaleprior.corpus.names import is_text
from scaleprior.errors import UserError
from scaleprior.parsing import read_json, read_text
from scaleprior.wording import parameter, shown

__all__ = ["ClassNames"]

_NUMBER = re.compile(r"-?\d{1,18}(\.0+)?")
NAMES_FILES = ("classnames.txt", "class_names.txt", "classes.txt")


class ClassNames:
    """Turns a label as it is stored into labels as the label space has them.

    Args:
        names: class k is called ``names[k]``; None keeps numbers as they are.
        source: what the names were read from, for messages.
    """

    def __init__(self, names: Sequence[str] | None, source: str = "") -> None:
        self.names = names
        self._source = source

    @classmethod
    def read(cls, path: str | Path | None, folder: Path) -> ClassNames:
        """From a file with a name a line, a JSON list, or a JSON object by number.

        Args:
            path: the file; None takes ``classnames.txt``, ``class_names.txt`` or ``classes.txt`` of ``folder``, if any.

        Raises:
            UserError: missing, unreadable, or of another form.
        """
        found = path or next((folder / name for name in NAMES_FILES if (folder / name).is_file()), None)
        if found is None:
            return cls(None)
        is_json = Path(found).suffix.lower() == ".json"
        data = read_json(found, what="class names") if is_json else read_text(found, what="class names").splitlines()
        if isinstance(data, dict):
            numbered = {int(key): value for key, value in data.items() if re.fullmatch(r"[0-9]{1,9}", key)}
            data = [numbered.get(k) for k in range(len(data))]
        listed = data if isinstance(data, list) else []
        while listed and listed[-1] == "":  # blank lines at a file's end
            listed.pop()
        names = [name.strip() for name in listed if isinstance(name, str) and name.strip() and is_text(name)]
        if not names or len(names) < len(listed):
            raise UserError(
                f"class names {found} are no list of names", hint="give a name a line, a JSON list, or one by number"
            )
        return cls(names, str(found))

    def labels(self, value: Any, *, where: str) -> tuple[str, ...]:
        """The labels of one image.

        Args:
            value: a number, a text, a list of those, or None; NaN and -1 are "no label", as in published test sets.
            where: the file and place, for messages.

        Raises:
            UserError: something else, or a number that is in no list.
        """
        if value is None:
            return ()
        found: list[str] = []
        for one in value if isinstance(value, (list, tuple)) else [value]:
            name = self._label(one, where)
            if name:
                found.append(name)
        return tuple(dict.fromkeys(found))

    def _label(self, value: Any, where: str) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise UserError(
                f"{where}: the label is {shown(value)}",
                hint=f"labels are numbers, texts or lists of them; choose them with {parameter('label_column')}",
            )
        if value != value:  # NaN, which pandas writes where there is none
            return ""
        text = str(value).strip()
        if not text.isprintable() and not is_text(text):
            raise UserError(f"{where}: the label {shown(text)} is no Unicode text", hint="repair the file")
        if not _NUMBER.fullmatch(text):
            return text
        number = int(float(text)) if "." in text else int(text)
        if number == -1:
            return ""
        if self.names is None:
            return str(number) if not isinstance(value, str) or "." in text else text
        if not 0 <= number < len(self.names):
            raise UserError(
                f"{where}: label {number} is none of the {len(self.names):,} classes of {self._source}",
                hint=f"give the right list with {parameter('class_names', words='FILE')}",
            )
        return self.names[number]
