"""Files given by a pattern: globs, and braces such as ``train-{0000..1023}.tar`` as shells and WebDataset read them."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from scaleprior.errors import UserError

__all__ = ["expand_braces", "is_pattern", "matching_files"]

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000


def is_pattern(text: str) -> bool:
    """Whether ``text`` names no file but holds braces or wildcards."""
    return not os.path.exists(text) and (glob.has_magic(text) or bool(_alternatives(text)))


def matching_files(pattern: str) -> list[Path]:
    """The files that a pattern names, each once, in the pattern's order.

    Raises:
        UserError: it names none, or braces name one that is not there.
    """
    found: dict[str, None] = {}
    for text in expand_braces(pattern):
        here = sorted(glob.glob(text)) if glob.has_magic(text) else [text] if os.path.isfile(text) else []
        if not here and not glob.has_magic(text):
            raise UserError(f"{text}, one of {pattern}, is not there", hint="check the pattern")
        found.update(dict.fromkeys(here))
    if not found:
        raise UserError(f"no file matches {pattern}", hint="check the pattern")
    return [Path(name) for name in found]


def expand_braces(text: str) -> list[str]:
    """``a-{08..10}.tar`` is ``a-08.tar``, ``a-09.tar``, ``a-10.tar``; ``{train,val}`` is both; several are combined.

    Raises:
        UserError: a pattern of more than a million names.
    """
    parts: list[list[str]] = []
    end = 0
    for match in _alternatives(text):
        parts += [[text[end : match.start()]], list(_choices(match[1]))]
        end = match.end()
    names = [*parts, [text[end:]]]
    count = 1
    for part in names:
        count *= len(part)
    if count > _MOST:
        raise UserError(f"{text} stands for {count:,} names", hint=f"give a pattern of at most {_MOST:,}")
    return ["".join(chosen) for chosen in itertools.product(*names)]


def _alternatives(text: str) -> list[re.Match[str]]:
    return [match for match in _BRACES.finditer(text) if "," in match[1] or _RANGE.fullmatch(match[1])]


def _choices(inside: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        yield from inside.split(",")
        return
    first, last = numbers.groups()
    padded = first != str(int(first)) or last != str(int(last))  # as in bash: one zero in front pads all
    width = max(len(first), len(last)) if padded else 0
    if abs(int(last) - int(first)) >= _MOST:
        raise UserError(f"{{{inside}}} stands for more than {_MOST:,} names", hint="give a smaller range")
    step = 1 if int(last) >= int(first) else -1
    for number in range(int(first), int(last) + step, step):
        yield f"{number:0{width}d}"
