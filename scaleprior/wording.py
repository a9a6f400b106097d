"""Words about parameters: spelled as in Python to who calls the library, as flags to who types a command.

::

    raise UserError(f"{parameter('norm')} is {norm!r}", hint=f"take {parameter('norm', 'GN')}")

A caller reads ``norm is 'BN'; take norm='GN'``, the terminal shows ``--norm is 'BN'; take --norm GN``: library code
names its own parameters, and only the command line asks for flags (:func:`in_flags`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = [
    "Wording",
    "bytes_in_words",
    "counted",
    "either",
    "flag",
    "in_flags",
    "in_short",
    "marked_line",
    "one_line",
    "parameter",
    "printable",
    "shown",
    "without_effects",
]

# Both spellings travel inside the text, between control characters that no message holds otherwise, until Wording
# keeps one and remembers the other: f-strings and joins need to know nothing of it.
_BOTH = re.compile("\x02([^\x02\x1f\x03]*)\x1f([^\x02\x1f\x03]*)\x03")
_ABSENT = object()
_LINES = re.compile("(\r?\n|\t)")
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}"), set: ("{", "}"), frozenset: ("frozenset({", "})"),
}  # fmt: skip
_PIECE = 4096  # characters or bits of one value that are ever rendered

_NOUN = re.compile(r"^(?:[a-z]+ )*?([a-z]+)(?= (?:that|whose|of|with|without|outside|to|where|from)\b|,|$)")
_ONE = {"boxes": "box", "categories": "category", "entries": "entry", "processes": "process", "classes": "class"}
_VERB = re.compile(r"(?<= that )(are|have|occur|lie|reach|repeat|differ)\b")
_DOES = {"are": "is", "have": "has", "reach": "reaches"}


def flag(name: str) -> str:
    """``max_skipped`` -> ``--max-skipped``, for a command that is shown as one; in an error use :func:`parameter`."""
    return f"--{name.replace('_', '-')}"


def parameter(name: str, value: object = _ABSENT, *, words: str = "", option: str = "") -> str:
    """A parameter for a message of :class:`scaleprior.errors.ScalePriorError` or a :class:`Wording`.

    Args:
        name: as Python spells it.
        value: to give it: ``norm='GN'`` and ``--norm GN``; True: ``resume=True`` and ``--resume``.
        words: what the command line shows behind the flag in place of a value, e.g. ``A B C``.
        option: what the flag is called where it is not called like the parameter.
    """
    python, shell = name, flag(option or name)
    if value is not _ABSENT:
        python = f"{name}={value!r}"
        shell = shell if value is True else f"{shell} {value}"
    if words:
        shell = f"{shell} {words}"
    return either(python, shell)


def either(python: str, shell: str) -> str:
    """Words for a message where the two say more than a parameter in ways of their own; either may be empty."""
    return f"\x02{python}\x1f{shell}\x03"


def counted(number: int, things: str) -> str:
    """``3 boxes that lie outside``; of one ``1 box that lies outside``.

    Args:
        things: the noun in the plural first, as in "boxes of no size" or "category ids that occur twice".
    """
    if number != 1:
        return f"{number} {things}"
    noun = _NOUN.match(things)
    if noun is not None:
        many = noun[1]
        things = f"{things[: noun.start(1)]}{_ONE.get(many, many.removesuffix('s'))}{things[noun.end(1) :]}"
    return f"1 {_VERB.sub(lambda verb: _DOES.get(verb[1], verb[1] + 's'), things, count=1)}"


def bytes_in_words(count: float) -> str:
    """3 significant digits and a unit of 1024."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TiB"


def printable(text: str) -> str:
    """``text`` as one line without effects: line ends and what steers a terminal are escaped, other letters stay."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def marked_line(text: str) -> str:
    """As :func:`printable`, of a text that may hold what :func:`parameter` made, which stays."""
    pieces, end = [], 0
    for both in _BOTH.finditer(text):
        pieces += [printable(text[end : both.start()]), either(printable(both[1]), printable(both[2]))]
        end = both.end()
    return "".join([*pieces, printable(text[end:])])


def without_effects(text: str) -> str:
    """As :func:`printable`, but lines and tabs stay: for a text of several lines, such as a log record.

    A carriage return alone does not: it would let a text write over the line that it stands in.
    """
    return "".join(line if line in ("\n", "\r\n", "\t") else printable(line) for line in _LINES.split(text))


def one_line(error: object, limit: int = 300) -> str:
    """What an exception says, in one line without effects, cut where it is longer than ``limit`` characters."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # of an exception whose own text fails
        text = ""
    text = printable(text) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."


def shown(value: object, limit: int = 100) -> str:
    """``repr(value)`` for a message, cut where it is longer than ``limit`` characters: a cell may hold a whole JPEG.

    No more of a text, a number or a container is looked at than is shown, however large or deep it is.
    """
    if isinstance(value, (str, bytes)) and len(value) > limit:
        unit = "characters" if isinstance(value, str) else "bytes"
        start = repr(value[: limit // 4] if isinstance(value, bytes) else value[:limit])[: limit + 2]
        return f"{start}... ({len(value):,} {unit})"
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > limit + 2:
            return f"{text[:limit]}..."
    return text


def in_short(value: object, limit: int = 200) -> str:
    """A name or an id out of a file for a message: as it is where it is a short text, else as :func:`shown`."""
    return printable(value) if isinstance(value, str) and len(value) <= limit else shown(value)


def _pieces(value: object) -> Iterator[str]:
    """``repr(value)`` piece by piece."""
    if type(value) in _BRACKETS and value:
        opening, closing = _BRACKETS[type(value)]
        yield opening
        for n, item in enumerate(value):  # pyright: ignore[reportArgumentType, reportUnknownVariableType]
            yield ", " if n else ""
            yield from _pieces(item)
            if isinstance(value, dict):
                yield ": "
                yield from _pieces(value[item])
        yield ",)" if type(value) is tuple and len(value) == 1 else closing
    elif isinstance(value, (str, bytes)):
        yield repr(value[:_PIECE])
    elif isinstance(value, int) and value.bit_length() > _PIECE:
        yield f"a whole number of {value.bit_length():,} bits"
    else:
        yield repr(value)


class Wording(str):
    """A text in the library's words that also knows the command line's.

    Attributes:
        marked: what it was made from; hand this on where a text goes to another process or into another message.
    """

    marked: str

    def __new__(cls, text: str) -> Wording:
        """``text`` may hold what :func:`parameter` made."""
        marked = getattr(text, "marked", text)
        self = super().__new__(cls, _BOTH.sub(r"\1", marked))
        self.marked = marked
        return self

    @property
    def flags(self) -> str:
        """The same text with flags."""
        return _BOTH.sub(r"\2", self.marked)


def in_flags(message: object) -> str:
    """An error or a text as the command line shows it."""
    wording = getattr(message, "wording", message)
    return wording.flags if isinstance(wording, Wording) else str(wording)
