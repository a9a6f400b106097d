"""What a person's spelling means: names in other capitals and punctuation, numbers with a decimal comma."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable

__all__ = ["decimal", "meant", "nearest"]

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")

_TELLING = 3  # letters that are no accident inside another word


def decimal(text: str, *, comma: bool = True) -> float | None:
    """The finite number that a text is, 38,25 taken for 38.25 where ``comma`` says so; None of any other text."""
    try:
        value = float(text.replace(",", ".") if comma and _DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that is meant: itself, or the only one that has the same letters and digits.

    So ``r50`` is R-50 and ``Max Iter`` max_iter. Numbers are no names: 1 is not -1, nor 0.1 the same as 01.
    """
    known = list(known)
    if name in known:
        return name
    same = [other for other in known if _letters(other) == _letters(name)]
    return same[0] if len(same) == 1 and _letters(name) else None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelled most nearly like one that nobody has, or the only one that has it as a part.

    None of none. A number has no neighbour: 90000 is not a slip of 9000.
    """
    if decimal(name) is not None:
        return None
    wanted = _letters(name)
    letters = {_letters(other): other for other in known if other}
    if near := difflib.get_close_matches(wanted, letters, n=1, cutoff=0.7):
        return letters[near[0]]
    having = [
        other
        for plain, other in letters.items()
        if wanted in re.split(r"[\W_]+", other.casefold()) or (len(wanted) >= _TELLING and wanted in plain)
    ]
    return having[0] if len(having) == 1 else None


def _letters(name: str) -> str:
    plain = name.strip().casefold()
    return plain if decimal(plain) is not None else "".join(filter(str.isalnum, plain))
