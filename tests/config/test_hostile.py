"""Configs that nobody wrote to be read: what they cost is bounded, and each is refused in one line that names it."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode as FvcoreNode

from scaleprior.config import bases, load_config, open_config
from scaleprior.config.load import file_keys
from scaleprior.errors import UserError

_EVAL = "!!python/object/apply:eval"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | str, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, words)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


def fvcore_keys(path: Path) -> dict[str, Any]:
    return FvcoreNode.load_yaml_with_base(str(path))


@pytest.mark.parametrize("seed", range(20))
def test_what_bases_of_bases_say_is_what_fvcore_reads(tmp_path: Path, seed: int) -> None:
    """Random graphs of files without circles, in which many are named many times."""
    draw = random.Random(seed)
    for number in range(8):
        names = [f"{draw.randrange(number)}.yaml" for _ in range(draw.randrange(4))] if number else []
        keys = "".join(f"{key}: {number}\n" for key in "abcd" if draw.random() < 0.5)
        write(tmp_path / f"{number}.yaml", (f"_BASE_: [{', '.join(names)}]\n" if names else "") + keys or "e: 0\n")
    assert file_keys(tmp_path / "7.yaml") == fvcore_keys(tmp_path / "7.yaml")


def test_diamonds_are_read_once_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level names the next one twice: 2 ** 60 readings of the last."""
    for level in range(60):
        base = f"{level + 1}.yaml"
        write(tmp_path / f"{level}.yaml", f"_BASE_: [{base}, ./{base}]\nSOLVER: {{MAX_ITER: {level + 1}}}\n")
    write(tmp_path / "60.yaml", "SOLVER: {BASE_LR: 0.5}\n")
    opened: list[Path] = []
    content = bases._content
    monkeypatch.setattr(bases, "_content", lambda path: opened.append(path) or content(path))
    cfg = load_config(tmp_path / "0.yaml").cfg
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (1, 0.5)
    assert len(opened) == 61


def test_a_chain_of_bases_may_be_deeper_than_the_stack(tmp_path: Path) -> None:
    for level in range(1100):
        write(tmp_path / f"{level}.yaml", f"_BASE_: {level + 1}.yaml\n")
    write(tmp_path / "1100.yaml", "SEED: 7\n")
    assert load_config(tmp_path / "0.yaml").cfg.SEED == 7
    write(tmp_path / "1100.yaml", "_BASE_: 0.yaml\n")
    assert "0.yaml is its own _BASE_; break the circle" in refused(tmp_path / "0.yaml")


def test_bases_are_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10 << 30)
    (tmp_path / "loop").symlink_to("loop")
    kinds = {
        "fifo": "is a pipe",
        "/dev/zero": "is a device",
        ".": "is a folder",
        "sparse": "has 10 GiB, at most 1 MiB are read",
        "loop": "Too many levels",
        "absent": "not found",
        "~nobody-of-that-name/x": "correct the name",
        '"a\\0"': "not found",
        "3": "_BASE_ is 3; name one file",
        "[a, 3]": "_BASE_ is ",
        "{a: 3}": "_BASE_ is ",
        "''": "_BASE_ is ''",
    }
    for name, words in kinds.items():
        assert words in refused(write(tmp_path / "a.yaml", f"_BASE_: {name}\n")), name
    assert "is a pipe; give a file" in refused(tmp_path / "fifo")
    assert "x" * 20 in refused("x" * 300 + ".yaml")
    (tmp_path / "scaleprior.yaml").symlink_to("fifo")  # beside a config.yaml, with which it would be taken
    assert load_config(write(tmp_path / "config.yaml", "SEED: 5\n")).cfg.SEED == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [1, 1, 1, 1]\nb: &b [*a, *a, *a]\nb: [*b, *b]\nSEED: &c [*c]", "an alias within itself"),
        ("[" * 1500, "nested too deeply"),
        ("SEED: 2020-99-99", "month must be in 1..12"),
        ("SEED: 0x" + "f" * 5000, "whole number of 5,002 characters"),
        ("SEED: 1" + ":1" * 5000, "whole number of 10,001 characters"),
        ("SOLVER: {BASE_LR: 1" + "0" * 400 + "}", ", an int; expected float"),
        ("MODEL: {RETINANET: {NUM_CLASSES: [{2020-01-01: 3}]}, KEYPOINT_ON: [{2020-01-01: 3}]}", "KEYPOINT_ON: [{"),
        ("? " + "k" * 100_000 + "\n: {" + ", ".join(f"a{i}: 1" for i in range(1000)) + "}", "unknown config key 'kkk"),
        (f"SEED: {_EVAL} ['{'1+' * 10_000}1']", "20,001 characters, at most 10,000 are read"),
        (f"SEED: {_EVAL} ['[[3]]', 1]", "eval tag with ['[[3]]', 1]"),
        ("\u2028: 3\nSEED\t: 3", "cannot be read"),
    ],
)
def test_yaml_that_is_no_config(tmp_path: Path, text: str, words: str) -> None:
    message = refused(write(tmp_path / "a.yaml", text))
    assert words in message
    assert str(tmp_path / "a.yaml") in message


def test_all_expressions_of_a_file_share_one_budget(tmp_path: Path) -> None:
    numbers = ", ".join(["1"] * 60)
    line = f"{_EVAL} ['[[1 for y in [{numbers}]] for x in [{numbers}]]']"
    assert "unknown config key a" in refused(write(tmp_path / "a.yaml", f"a: {line}"))
    assert "it takes more than 10000 steps" in refused(write(tmp_path / "a.yaml", f"a: [{line}, {line}, {line}]"))


def test_blank_lines_take_no_time_by_the_square(tmp_path: Path) -> None:
    """A million of them: the search for a LazyConfig's mark took hours."""
    path = write(tmp_path / "a.yaml", "\n" * 1_000_000)
    assert not bases.is_lazy_config(path)
    assert bases.is_lazy_config(write(tmp_path / "lazy.yaml", "model:\n\n  _target_: a.B\n"))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("SEED", "9" * 5000, "SEED is '9999"),
        ("SOLVER.BASE_LR", "9" * 400, ", an int; expected float"),
        ("SOLVER.STEPS", "(" * 100_000, "SOLVER.STEPS is '((("),
        ("SEED", "-" * 1_000_000 + "1", "stands among the KEY VALUE words"),
        ("SEED", "1" + "+1" * 40_000, "SEED is '1+1"),
        ("INPUT.MIN_SIZE_TRAIN", "('" + "(" * 10_000 + "',)", "INPUT.MIN_SIZE_TRAIN is ('((("),
        ("SEED", "\ud800", "SEED is '\\ud800'"),
        ("SEED", "\0", "SEED is '\\x00'"),
        ("k" * 100_000, "1", "unknown config key"),
    ],
)
def test_overrides_of_any_length_and_depth(key: str, value: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [key, value])
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_mapping_of_a_program_is_bounded_alike() -> None:
    for value in ("x" * 1_000_000, float("inf"), [10**5000], {3}):
        with pytest.raises(UserError, match=r"^SEED is .{1,300}$"):
            open_config({"SEED": value})


@pytest.mark.slow
def test_configs_of_random_bytes_are_read_or_refused(tmp_path: Path) -> None:
    """800 mutations of a config, seeded; every one is a config or one UserError."""
    draw = random.Random(17)
    good = (
        "_BASE_: b.yaml\nMODEL: &m {RESNETS: {DEPTH: 50}, WEIGHTS: 'a'}\nSOLVER:\n  STEPS: (5, 8)\n  BASE_LR: 1e-3\n"
        f"INPUT:\n  MIN_SIZE_TRAIN: {_EVAL} ['[10*x for x in [1, 2]]']\nSEED: 0x3\nx: {{<<: *m}}\n"
    )
    write(tmp_path / "b.yaml", "SEED: 1\n")
    pieces = [
        "&a ",
        "*a",
        "[",
        "{",
        "? ",
        ": ",
        "!!binary ",
        "!!set ",
        "<<: ",
        "_BASE_: ",
        "1:1",
        ".inf",
        "- ",
        "\n ",
        "~",
        "|",
        "\0",
        "2020-01-99",
    ]
    for _ in range(800):
        text = list(good)
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(text))
            text[at : at + draw.randrange(3)] = draw.choice([draw.choice(pieces), chr(draw.randrange(256)), ""])
        try:
            load_config(write(tmp_path / "a.yaml", "".join(text)))
        except UserError as e:
            assert str(e).isprintable()  # noqa: PT017 (most are none)
