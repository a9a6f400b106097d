"""The gate through which files of others come in: regular files alone, of bounded size, parsed with bounded work.

Whatever a parser raises becomes one :class:`~scaleprior.errors.UserError` with the place. What is bounded: the bytes of
a file; how deep values are nested; in YAML, what aliases expand to; the digits of a whole number.
"""

from __future__ import annotations

import ast
import csv
import errno
import io
import json
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from scaleprior.errors import FailureError, UserError
from scaleprior.files import SHORTAGES
from scaleprior.wording import bytes_in_words, one_line

__all__ = [
    "TEXT_BYTES",
    "is_regular",
    "open_regular",
    "parse_json",
    "parse_literal",
    "parse_yaml",
    "read_bytes",
    "read_csv",
    "read_json",
    "read_text",
    "read_yaml",
]

TEXT_BYTES = 64 << 20
"""Of a config, a spec, a card, a list of names: the largest file that is read unless a caller knows better."""
_PIECE = 1 << 20  # bytes read at once
_CSV_BYTES = 16 << 20  # 40,000 rows of a study's results; as cells they take fifty times as much
_DELIMITERS = (",", ";", "\t")
_EXCEL_SAYS = re.compile(r"\s*sep=(.)\s*", re.IGNORECASE)  # a line that Excel writes above the header, and reads
_YAML_BYTES = 8 << 20  # which PyYAML takes a minute for
_YAML_NODES = 1_000_000  # once aliases are written out
_YAML_DEPTH = 100
_YAML_DIGITS = 1000  # of a whole number: those of base 60 take time by the square, those of base 16 cannot be printed
_LITERAL = 100_000  # characters

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# What a file that is no UTF-8 begins with -> what to do.
_NO_TEXT = {
    b"\x1f\x8b": "it is compressed: unpack it with gunzip",
    b"PK\x03\x04": "it is a zip file: unpack it",
    b"\xff\xfe": "it is UTF-16: write it as UTF-8",
    b"\xfe\xff": "it is UTF-16: write it as UTF-8",
}


def is_regular(path: str | Path) -> bool:
    """Whether there is a file of bytes, itself or behind a link; never raises, and never waits."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):  # a name with a null character
        return False


def open_regular(path: str | Path, *, what: str = "file", buffering: int = -1) -> BinaryIO:
    """Open a file to read, without waiting for whoever writes into a pipe, and without asking a device.

    Args:
        buffering: bytes read ahead, as of ``open``.

    Raises:
        UserError: it is missing, cannot be read, or is a folder, a pipe, a socket or a device; names ``what`` it was
            to be, and the path.
        FailureError: there are no descriptors or memory left.
    """
    try:
        _check_kind(os.stat(path).st_mode, path, what)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # another may take the name until here
        try:
            _check_kind(os.fstat(handle).st_mode, path, what)
            return os.fdopen(handle, "rb", buffering)
        except BaseException:
            os.close(handle)
            raise
    except FileNotFoundError as e:
        raise UserError(f"{what} not found: {path}", hint="check the path") from e
    except OSError as e:
        if e.errno in SHORTAGES:  # which says nothing about the file
            raise FailureError(
                f"{what} {path} cannot be read now: {e.strerror}", hint="mend that, and run again"
            ) from e
        hint = "check the path" if e.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG) else "check the file"
        raise UserError(f"{what} {path} cannot be read: {e.strerror or e}", hint=hint) from e
    except UserError:
        raise
    except ValueError as e:  # a null character
        raise UserError(f"{what} {path} cannot be read: {e}", hint="check the path") from e


def _check_kind(mode: int, path: str | Path, what: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((words for fits, words in _KINDS if fits(mode)), "no regular file")
        raise UserError(f"{what} {path} is {kind}", hint="give a file")


def read_bytes(path: str | Path, *, what: str = "file", limit: int = TEXT_BYTES) -> bytes:
    """All bytes of a file.

    Raises:
        UserError: see :func:`open_regular`; the file is larger than ``limit`` bytes.
    """
    return bytes(_content(path, what, limit, ends=None))


def _content(path: str | Path, what: str, limit: int, *, ends: bytes | None) -> bytearray:
    """The bytes of a file, piece by piece; of one that holds ``ends`` no more than the piece in which it does."""
    with open_regular(path, what=what) as file:
        size, content = os.fstat(file.fileno()).st_size, bytearray()
        try:
            while max(size, len(content)) <= limit and (piece := file.read(_PIECE)):
                content += piece
                if ends is not None and ends in piece:
                    break
        except OSError as e:
            raise UserError(f"{what} {path} cannot be read: {e.strerror or e}", hint="check the file") from e
    size = max(size, len(content))
    if size > limit:
        raise UserError(
            f"{what} {path} has {bytes_in_words(size)}, at most {bytes_in_words(limit)} are read", hint="check the file"
        )
    return content


def read_text(path: str | Path, *, what: str = "file", limit: int = TEXT_BYTES) -> str:
    """A file's text, in UTF-8, with or without the mark that some programs put before it.

    Raises:
        UserError: see :func:`read_bytes`; it is no UTF-8, or holds null characters, of which a sparse file has any
            number.
    """
    content = _content(path, what, limit, ends=b"\0")
    try:
        text = content.decode("utf-8-sig")
        if "\0" not in text:
            return text
        raise ValueError(f"null character at byte {content.index(0):,}")
    except ValueError as e:
        hint = next((hint for start, hint in _NO_TEXT.items() if content.startswith(start)), "check the file")
        raise UserError(f"{what} {path} cannot be read: {e}", hint=hint) from e


def read_json(path: str | Path, *, what: str = "JSON file", limit: int = TEXT_BYTES) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: see :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path, what=what, limit=limit), where=f"{what} {path}")


def parse_json(text: str | bytes, *, where: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON text.

    Args:
        where: what the text is and where it was found, for the message.
        pairs: makes objects out of their keys and values, as ``object_pairs_hook``.

    Raises:
        UserError: it is not JSON, nested too deeply, or holds a whole number of too many digits; names the line.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except UserError:
        raise  # from pairs
    except json.JSONDecodeError as e:
        hint = "repair the file" if e.msg != "Extra data" else "give one JSON value; are these JSON lines?"
        raise UserError(f"{where} is not JSON: line {e.lineno}: {e.msg}", hint=hint) from e
    except (RecursionError, MemoryError) as e:
        raise UserError(f"{where} is nested too deeply to be read", hint="check the file") from e
    except ValueError as e:  # no UTF-8, or more digits than Python converts
        raise UserError(f"{where} cannot be read: {e}", hint="check the file") from e


def read_csv(
    path: str | Path, *, what: str = "CSV file", delimiter: str | None = None, limit: int = _CSV_BYTES
) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row of a CSV file, the line being its last.

    Args:
        delimiter: None = what stands most often in the first line, of commas, semicolons and tabs. A line ``sep=;``
            above all others, which Excel writes, says it too, and is no row.

    Raises:
        UserError: see :func:`read_text`; it is no CSV, or a cell has more than 131,072 characters (the ``csv`` module's
            own limit).
    """
    text = io.StringIO(read_text(path, what=what, limit=limit), newline="")
    first = text.readline()
    said = _EXCEL_SAYS.fullmatch(first)
    if said is None:
        text.seek(0)
    mark: str = said[1] if said else delimiter or max(_DELIMITERS, key=first.count)
    above = line = 1 if said else 0
    try:
        reader = csv.reader(text, delimiter=mark)
        for row in reader:
            line = above + reader.line_num
            yield line, row
    except (csv.Error, ValueError) as e:  # the latter of a delimiter that is none
        where = f"{what} {path}, line {line + 1}"
        raise UserError(f"{where}: cannot be read: {one_line(e)}", hint="give a CSV file in UTF-8") from e


def read_yaml(path: str | Path, *, what: str = "YAML file", loader: type[Any] = yaml.SafeLoader) -> Any:
    """What a YAML file holds.

    Raises:
        UserError: see :func:`read_text` and :func:`parse_yaml`.
    """
    return parse_yaml(read_text(path, what=what, limit=_YAML_BYTES), where=f"{what} {path}", loader=loader)


def parse_yaml(text: str, *, where: str, loader: type[Any] = yaml.SafeLoader) -> Any:
    """The value of a YAML text.

    Args:
        where: what the text is and where it was found, for the message.
        loader: a safe loader; what it constructs beyond plain values is its own.

    Raises:
        UserError: it is no YAML, or more than a file of settings: nested more than 100 deep, or a million values once
            its aliases are written out; names the place. What ``loader`` raises as one passes.
    """
    reader: Any = None
    try:
        reader = loader(text)
        node = reader.get_single_node()
        if node is None:
            return None
        _check_extent(node)
        return reader.construct_document(node)
    except UserError:
        raise
    except RecursionError as e:
        raise UserError(f"{where} is nested too deeply to be read", hint="repair the YAML") from e
    except (yaml.YAMLError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError) as e:
        raise UserError(f"{where} cannot be read: {one_line(e)}", hint="repair the YAML") from e
    finally:
        if reader is not None:
            reader.dispose()


def _check_extent(root: yaml.Node) -> None:
    """Refuse what grows when aliases are written out, as copying or printing would; without doing so itself.

    Raises:
        yaml.YAMLError: too many values, nested too deeply, or within itself.
    """
    extents: dict[int, tuple[int, int]] = {}  # of a node: values in it, levels below it
    open_nodes = set[int]()
    stack: list[tuple[yaml.Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if id(node) in extents:
            continue
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _YAML_DIGITS:
            what = f"a whole number of {len(node.value):,} characters"
            raise yaml.MarkedYAMLError(None, None, what, node.start_mark)
        if done:
            open_nodes.discard(id(node))
            inner = [extents[id(child)] for child in _children(node)]
            values = 1 + sum(count for count, _ in inner)
            levels = 1 + max((depth for _, depth in inner), default=0)
            if values > _YAML_NODES or levels > _YAML_DEPTH:
                what = f"{values:,} values" if values > _YAML_NODES else f"{levels} levels"
                raise yaml.MarkedYAMLError(None, None, f"{what} with aliases written out", node.start_mark)
            extents[id(node)] = values, levels
        elif id(node) in open_nodes:
            raise yaml.MarkedYAMLError(None, None, "an alias within itself", node.start_mark)
        else:
            open_nodes.add(id(node))
            stack.append((node, True))
            stack += [(child, False) for child in _children(node) if id(child) not in extents]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def parse_literal(text: str) -> Any:
    """The value of a Python literal, as :func:`ast.literal_eval`.

    Raises:
        ValueError: it is none, or too long or too deeply nested for one that a person writes.
    """
    if len(text) > _LITERAL:
        raise ValueError(f"{len(text):,} characters, at most {_LITERAL:,} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "1is 2", which nobody wrote as Python
            return ast.literal_eval(text)
    except (SyntaxError, TypeError, RecursionError, MemoryError, OverflowError) as e:
        raise ValueError(one_line(e)) from e
