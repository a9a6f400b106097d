"""Text of others in pages and pictures: shown as it is spelled.

In Markdown it is never a link, a tag, a table's bar or a line of its own: escaped is what CommonMark and GitHub's
tables, mathematics and struck text would act on. An address that stands bare may still be made a link by who shows the
page; it then leads where it says.
"""

from __future__ import annotations

import re

from scaleprior.wording import printable

__all__ = ["code", "fenced", "in_picture", "plain", "visible"]

_BLANKS = re.compile(r"\s*[\r\n]+\s*|^[ ]{2,}")  # line ends, and what would be a block of code
# _ within a word and < before no name are letters as any other: "R_50", "< 0.1 %"
_ACTS = re.compile(r"[\\`*\[$~|]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
_BEGINS_A_BLOCK = re.compile(r"^\s*(?:[#>]|[-+](?=[\s-]|$)|\d+(?=[.)](?:\s|$)))")

# Controls but line ends and tabs; what turns the order of letters round; letters that nothing shows. What joins and
# parts letters of Persian or of emoji (U+200C, U+200D) stays: a browser takes it for nothing else.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069"
    r"\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """``text`` for HTML, before it is escaped: what a browser would obey or not show is spelled out."""
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)


def plain(text: str) -> str:
    """``text`` within a line of Markdown, in a cell of a table or an item of a list."""
    escaped = _ACTS.sub(r"\\\g<0>", printable(_BLANKS.sub(" ", text)))
    block = _BEGINS_A_BLOCK.match(escaped)
    if block is None:
        return escaped
    mark = block[0].lstrip()
    return f"{mark}\\{escaped[block.end() :]}" if mark.isdigit() else f"\\{mark}{escaped[block.end() :]}"


def code(text: str) -> str:
    """``text`` as code within a line; a longer fence where it holds backticks."""
    text = printable(text)
    fence = _longer_than_in(text, 1)
    room = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{room}{text}{room}{fence}"


def fenced(text: str) -> str:
    """``text`` as a block of code of one line."""
    text = printable(text)
    fence = _longer_than_in(text, 3)
    return f"{fence}\n{text}\n{fence}"


def in_picture(text: str) -> str:
    """``text`` for matplotlib, which takes what stands between two dollars for mathematics, or raises.

    What begins with an underscore it leaves out of legends; here a blank comes before that.
    """
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _longer_than_in(text: str, least: int) -> str:
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
