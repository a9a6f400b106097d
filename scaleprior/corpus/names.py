"""File names that mean the same: written with back-slashes, in another Unicode normalisation, or in another case.

A Mac stores ``é`` as two characters (NFD) where a table has one (NFC); a table or JSON made on Windows has
``images\\a.jpg``. Such names are matched where only one file can be meant. A different case is only pointed out: on
Linux both may exist.
"""

from __future__ import annotations

import posixpath
import unicodedata
from pathlib import Path
from typing import TypeGuard

from scaleprior.errors import UserError

__all__ = ["BACKSLASHES", "CASE", "NORMALISATION", "difference", "inside", "is_text", "is_texts", "plain", "spellings"]

BACKSLASHES = "names written with back-slashes"
NORMALISATION = "names in another Unicode normalisation"
CASE = "names in another case"


def plain(name: str) -> str:
    """What the spellings of a name have in common: forward slashes, no ``./`` in front, NFC."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def spellings(name: str) -> list[str]:
    """Other spellings of ``name``, the likeliest first."""
    bases = [name, name.replace("\\", "/").removeprefix("./")]
    forms = [unicodedata.normalize(form, base) for base in bases for form in ("NFC", "NFD")]
    return [form for form in dict.fromkeys([bases[1], *forms]) if form != name]


def difference(one: str, other: str) -> str:
    """What the names of one file differ in, in words; "" if they are not spellings of one name."""
    if one == other or plain(one).casefold() != plain(other).casefold():
        return ""
    if plain(one) != plain(other):
        return CASE
    return BACKSLASHES if ("\\" in one) != ("\\" in other) else NORMALISATION


def is_text(value: object) -> TypeGuard[str]:
    """Whether ``value`` is a text that UTF-8 can say: JSON can hold halves of surrogate pairs, which are no letters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_texts(value: object) -> TypeGuard[list[str]]:
    """Whether ``value`` is a list of such texts."""
    return isinstance(value, list) and all(map(is_text, value))


def refuse_undecodable(path: str | Path) -> None:
    """Raise UserError for a path that is not UTF-8: neither Parquet nor DuckDB takes it."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as e:
        raise UserError(f"the path {str(path)!r} is not UTF-8", hint="rename the folder or file") from e


def inside(name: str) -> str | None:
    """An archive member's name as a path below a folder, without ``/`` in front, ``.`` or ``//``; None if it leaves."""
    path = posixpath.normpath(name.lstrip("/"))
    return None if path in (".", "..") or path.startswith("../") else path
