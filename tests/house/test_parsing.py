"""The gate of what is read: bounded, regular files only, one line for whatever a parser raises."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from scaleprior import parsing
from scaleprior.errors import FailureError, UserError
from scaleprior.parsing import (
    parse_json,
    parse_literal,
    parse_yaml,
    read_bytes,
    read_csv,
    read_json,
    read_text,
    read_yaml,
)


def laughs(levels: int) -> str:
    """A YAML of nine aliases a level: 9 ** levels values once they are written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_plain_files_are_read_as_their_parsers_read_them(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes('\ufeff{"ä": [1, 2.5, null]}'.encode())
    assert read_json(path) == {"ä": [1, 2.5, None]}
    path.write_text("a: &x [1, 2]\nb: *x\nc: {<<: {d: 3}}\n")
    assert read_yaml(path) == {"a": [1, 2], "b": [1, 2], "c": {"d": 3}}
    path.write_text("")
    assert read_yaml(path) is None
    assert read_bytes(path) == b""
    assert parse_literal("(1, [2.5, 'a'])") == (1, [2.5, "a"])


def test_only_regular_files_are_opened_and_nobody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, kind in {"fifo": "a pipe", "socket": "a socket", "link": "a device", ".": "a folder"}.items():
            path = tmp_path / name
            with pytest.raises(UserError, match=f"card {path} is {kind}; give a file"):
                read_bytes(path, what="card")
            assert not parsing.is_regular(path)
    with pytest.raises(UserError, match="card not found"):
        read_bytes(tmp_path / "absent", what="card")
    with pytest.raises(UserError, match=r"cannot be read: embedded null byte"):
        read_bytes(f"{tmp_path}/a\0b")
    assert not parsing.is_regular(f"{tmp_path}/a\0b")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="Too many levels of symbolic links"):
        read_bytes(tmp_path / "loop")
    (tmp_path / "file").write_text("1")
    with pytest.raises(UserError, match="Not a directory"):
        read_bytes(tmp_path / "file" / "below")
    assert parsing.is_regular(tmp_path / "file")


def test_without_descriptors_nothing_is_said_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, limits[1]))
    held: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(tmp_path, os.O_RDONLY))
        with pytest.raises(FailureError, match=r"a\.json cannot be read now: Too many open files"):
            read_json(tmp_path / "a.json")
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_file_beyond_the_limit_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"sparse.json has 1,?0?24 GiB|1 TiB"):
            read_json(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    path.write_bytes(b"x" * 11)
    assert read_text(path, limit=11) == "x" * 11
    with pytest.raises(UserError, match="has 11 bytes, at most 10 bytes are read"):
        read_text(path, limit=10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ("9" * 5000, r"cannot be read: Exceeds the limit \(4300 digits\)"),
        ('{"a":\n oops}', "is not JSON: line 2: Expecting value"),
        ("{}\n{}", "are these JSON lines"),
        (b"\xff\xff", "cannot be read: 'utf-8' codec"),
    ],
)
def test_json_that_is_none(text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_json(text, where="card a.json")
    assert str(caught.value).startswith("card a.json ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n", [(1, ["a", "b"]), (2, ["1", "2"])]),
        ("a;b\r\n1,5;2", [(1, ["a", "b"]), (2, ["1,5", "2"])]),
        ("sep=\t\na\tb\n1\t2\n", [(2, ["a", "b"]), (3, ["1", "2"])]),
        ('\ufeffa,"b\nc"\n\n1', [(2, ["a", "b\nc"]), (3, []), (4, ["1"])]),
        ("", []),
    ],
)
def test_rows_of_a_table_with_their_lines(tmp_path: Path, text: str, rows: list[tuple[int, list[str]]]) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert list(read_csv(path)) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1," + b"x" * 131_073, r"a.csv, line 2: cannot be read: field larger than field limit \(131072\)"),
        (b"a,b\n1,\0", r"a.csv cannot be read: null character at byte 6"),
        (b"a\xff", r"a.csv cannot be read: 'utf-8' codec can't decode"),
        (b"x" * ((16 << 20) + 1), r"a.csv has 16 MiB, at most 16 MiB are read"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_csv(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(12), "values with aliases written out"),
        ("a: &a [*a]", "an alias within itself"),
        (laughs(9) + "\nb: {<<: [{c: *a8}, {d: *a8}]}", "values with aliases written out"),
        ("[" * 300 + "]" * 300, "levels with aliases written out|nested too deeply"),
        ("[" * 50_000, "nested too deeply|cannot be read"),
        ("a: 2020-99-99", "cannot be read: month must be in 1..12"),
        ("a: !!int ''", "cannot be read"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("? [1, 2]\n: 3", "unhashable key"),
        ("a: b: c", "mapping values are not allowed here"),
        ("a: \x07", "unacceptable character"),
        ("9" * 5000, "a whole number of 5,000 characters"),
        ("a: 0x" + "f" * 5000, "a whole number of 5,002 characters"),
        ("a: 1" + ":1" * 200_000, "a whole number of 400,001 characters"),
    ],
)
def test_yaml_that_is_no_settings(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_yaml(text, where="spec a.yaml")
    assert str(caught.value).startswith("spec a.yaml ")
    assert "\n" not in str(caught.value)


def test_aliases_within_the_limit_are_values() -> None:
    value: Any = parse_yaml(laughs(5), where="a")
    assert len(value["a4"]) == 9
    assert value["a4"][0] is value["a4"][8]


@pytest.mark.parametrize(
    "text", ["(" * 200_000, "9" * 5000, "1 +", "os.system('x')", "[" * 99_000, "{[]: 1}", "-" * 50_000 + "1"]
)
def test_literals_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"^.{1,400}$"):
        parse_literal(text)


@pytest.mark.filterwarnings("error")
def test_a_literal_that_python_warns_of_is_read_without_a_word() -> None:
    assert parse_literal("'\\d'") == "\\d"
    with pytest.raises(ValueError, match="malformed node"):
        parse_literal("1is 2")
