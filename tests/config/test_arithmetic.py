"""The ``eval`` tag of Detectron2's YAML files as arithmetic: its values, and everything that it refuses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from scaleprior.config import load_config
from scaleprior.config.arithmetic import ArithmeticLoader, evaluate
from scaleprior.errors import UserError

RETINANET = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


def test_detectron2s_own_expression() -> None:
    """Three octave-spaced sizes a level: the cube root of 2 is 1.259921 to six places, its square 1.587401."""
    sizes = evaluate(RETINANET)
    assert [row[0] for row in sizes] == [32, 64, 128, 256, 512]
    assert sizes[0] == pytest.approx([32, 40.317472, 50.796834], abs=1e-5)
    assert all(row[1] / row[0] == pytest.approx(1.259921, abs=1e-6) for row in sizes)
    assert all(row[2] / row[0] == pytest.approx(1.587401, abs=1e-6) for row in sizes)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-2.5", -2.5),
        ("7 // 2 + 7 / 2 - 1", 5.5),
        ("2 - 3 - 4", -5),  # from the left
        ("2 ** 3 ** 2", 512),  # from the right
        ("(1, [2, 3])", [1, [2, 3]]),
        ("[x + y for x in [1, 2]]", None),  # y is nobody
        ("[[x * y for y in [1, 2]] for x in [3, 4]]", [[3, 6], [4, 8]]),
        ("[x for x in []]", []),
    ],
)
def test_values(text: str, value: object) -> None:
    if value is None:
        with pytest.raises(UserError, match="y is more than arithmetic"):
            evaluate(text)
    else:
        assert evaluate(text) == value
        assert type(evaluate(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "x is more than arithmetic"),
        ("__import__('os').system('id')", "is more than arithmetic"),
        ("(1).__class__", "is more than arithmetic"),
        ("[c for c in ().__class__.__base__.__subclasses__()]", "is more than arithmetic"),
        ("range(3)", "is more than arithmetic"),
        ("'a' * 3", "'a' is more than arithmetic"),
        ("True", "True is more than arithmetic"),
        ("[1, 2][0]", "is more than arithmetic"),
        ("lambda: 1", "is more than arithmetic"),
        ("{1: 2}", "is more than arithmetic"),
        ("1 if 2 else 3", "is more than arithmetic"),
        ("[x for x in [1] if x]", "is more than arithmetic"),
        ("[x for x in [1] for y in [2]]", "is more than arithmetic"),
        ("[x for x, y in [[1, 2]]]", "is more than arithmetic"),
        ("[x for x in 3]", "is more than arithmetic"),
        ("[[x, x] for x in [[1, 1], [1, 1]]]", "is more than arithmetic"),
        ("[1] + [2]", "only numbers of a moderate size"),
        ("[0] * 1000000000", "only numbers of a moderate size"),
        ("9 ** 9 ** 9", "only numbers of a moderate size"),
        ("10 ** 10000", "only numbers of a moderate size"),
        ("1e10 + 1", "only numbers of a moderate size"),
        ("1e999 * 0", "only numbers of a moderate size"),
        ("(-8) ** 0.5", "is no real number"),
        ("1 / 0", "division by zero"),
        ("0 ** -1", "negative power"),
        ("-[1]", "bad operand"),
        ("1 +", "invalid syntax"),
        ("", "invalid syntax"),
        ("1\0", "null bytes"),
        ("9" * 5000, "integer string conversion"),
        ("1" + "+1" * 10_000, "20,001 characters, at most 10,000 are read"),
    ],
)
def test_all_else_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        evaluate(text)
    assert str(error.value).startswith("cannot compute ")
    assert str(error.value).endswith("; write the numbers out")
    assert len(str(error.value)) < 550


def test_bombs_are_refused_at_once() -> None:
    """Comprehensions in comprehensions, brackets in brackets: time and memory stay small."""
    hundred = str([1] * 100)
    nested = "1"
    for name in "abcde":
        nested = f"[{nested} for {name} in {hundred}]"
    begun = time.process_time()
    with pytest.raises(UserError, match="more than 10000 steps"):
        evaluate(nested)
    for text in ("-" * 100_000 + "1", "(" * 100_000 + "1" + ")" * 100_000, "[" * 150 + "]" * 150 + "+" * 5000):
        with pytest.raises(UserError, match="cannot compute"):
            evaluate(text)
    assert time.process_time() - begun < 5


def test_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sizes.yaml"
    tag = "!!python/object/apply:eval"
    file.write_text(f'MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: {tag} ["[[2 ** x] for x in [5, 6]]"]\n')
    assert load_config(file).cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64]]
    file.write_text(f"MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: {tag} [\"open('x', 'w')\"]\n")
    with pytest.raises(UserError, match=r"sizes\.yaml: cannot compute .*more than arithmetic"):
        load_config(file)
    assert not Path("x").exists()


@pytest.mark.parametrize("argument", ["[]", "['1', '2']", "[1]", "'1'", "{a: 1}", "[['1']]"])
def test_the_tag_takes_one_text(argument: str) -> None:
    with pytest.raises(UserError, match="a YAML eval tag with"):
        yaml.load(f"!!python/object/apply:eval {argument}", Loader=ArithmeticLoader)


@pytest.mark.parametrize("tag", ["object/apply:os.system", "object/new:dict", "name:os.system", "module:os"])
def test_other_tags_are_unknown(tag: str) -> None:
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        yaml.load(f"!!python/{tag} ['true']", Loader=ArithmeticLoader)
