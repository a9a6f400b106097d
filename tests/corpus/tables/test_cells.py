"""When a cell is several labels: the rule by hand, and tables read as they are meant or asked about."""

from __future__ import annotations

import json

import pytest

from scaleprior.corpus.importers.tables.cells import Evidence, doubtful
from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.corpus.tables.conftest import Table


def csv(*cells: str) -> str:
    lines = [f'{name}.jpg,"{cell.replace(chr(34), chr(34) * 2)}"' for name, cell in zip("abcd", cells)]
    return "\n".join(["file,label", *lines, ""])


def evidence(**counts: int) -> Evidence:
    nothing = dict.fromkeys(("cells", "composite", "parts", "alone", "shared", "numbers", "tight"), 0)
    return Evidence(**{**nothing, **counts}, example="x")


@pytest.mark.parametrize(
    ("separator", "found", "expected"),
    [
        ("|", evidence(cells=1000, composite=1, parts=2), True),  # no name has one
        ("\t", evidence(cells=1000, composite=1, parts=2), True),
        ("|", evidence(cells=1000), False),
        (",", evidence(cells=1000, composite=600, parts=1400), False),  # ImageNet's "dog, domestic dog"
        (",", evidence(cells=1000, composite=600, parts=1400, tight=1), True),
        (",", evidence(cells=9, composite=6, parts=4, shared=3), True),
        (",", evidence(cells=9, composite=6, parts=4, shared=2), False),
        (" ", evidence(cells=120, composite=100, parts=150, alone=3, shared=60), False),  # "golden retriever"
        (" ", evidence(cells=432, composite=404, parts=28, alone=28, shared=28, numbers=28), True),  # protein atlas
        (" ", evidence(cells=3, composite=1, parts=2, alone=1), False),  # hot dog, dog, cat
        (" ", evidence(cells=3, composite=1, parts=2, alone=2), True),  # red fox, red, fox
        (" ", evidence(cells=25, composite=25, parts=10, shared=10), True),  # 25 cells would become 10 labels
        (" ", evidence(cells=19, composite=19, parts=10, shared=10), False),  # 19 would become 10, more than half
        (" ", evidence(cells=2, composite=2, parts=5, numbers=5), True),
    ],
)  # fmt: skip
def test_the_rule(separator: str, found: Evidence, expected: bool) -> None:
    assert doubtful(separator, found) is expected


@pytest.mark.parametrize(
    ("cells", "separator", "split"),
    [
        (("Cyst|Scar|Edema", "Scar", "Edema"), "|", [["Cyst", "Edema", "Scar"], ["Scar"], ["Edema"]]),
        (("dog,cat", "dog", "cat"), ",", [["cat", "dog"], ["dog"], ["cat"]]),
        (("dog, cat", "cat, cow", "cow, dog"), ",", [["cat", "dog"], ["cat", "cow"], ["cow", "dog"]]),
        (("16 0", "7  1 2", "0"), " ", [["0", "16"], ["1", "2", "7"], ["0"]]),
        (("haze primary", "haze", "primary"), " ", [["haze", "primary"], ["haze"], ["primary"]]),
        (("x\ty", "y", "z"), "\t", [["x", "y"], ["y"], ["z"]]),
    ],
)
def test_a_likely_separator_is_asked_about(table: Table, cells: tuple[str, ...], separator: str, split: list) -> None:
    with pytest.raises(UserError, match=r"column 'label'.* hold .* as it stands there are 3 labels, split at") as asked:
        table.source(csv(*cells))
    assert f"separator={separator!r}" in str(asked.value)
    assert "--separator ''" in in_flags(asked.value)
    assert table.read(csv(*cells), separator=separator) == split
    whole = [[cell] for cell in cells]
    assert table.read(csv(*cells), separator="") == whole
    assert table.read(csv(*cells), yes=True) == whole  # what is doubtful is meant so


@pytest.mark.parametrize(
    "cells",
    [
        ("dog, domestic dog", "kit fox, Vulpes macrotis", "grey fox, gray fox, Urocyon"),
        ("golden retriever", "hot dog", "dog"),
        ("Quercus alba", "Quercus rubra", "Acer rubrum"),
        ("24h/day", "rock-and-roll", "A & B"),
    ],
)
def test_names_are_neither_split_nor_asked_about(table: Table, cells: tuple[str, ...]) -> None:
    assert table.read(csv(*cells)) == [[cell] for cell in cells]


def test_semicolons_separate_as_ever(table: Table) -> None:
    assert table.read(csv("red; round", "red", ";;")) == [["red", "round"], ["red"], []]
    assert table.read(csv("red; round", "red"), separator="") == [["red; round"], ["red"]]
    with pytest.raises(
        UserError, match=r"2 of 4 distinct labels hold '\|', such as 'b\|c': split at ';' alone there are 4"
    ):
        table.source(csv("a;b|c", "d|e;f"))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            ("['x y', 'b']", "[\"it's\", 'b']", "[]"),
            [["b", "x y"], ["b", "it's"], []],
        ),  # as pandas writes it
        (tuple(json.dumps(names) for names in (["a, b", 'say "c"'], ["d"], [])), [["a, b", 'say "c"'], ["d"], []]),
        (("[1 7 3]", "[0]", "[12\n 4]"), [["1", "3", "7"], ["0"], ["12", "4"]]),  # numpy, which breaks long lines
        (("[1, 7]", "[1.0]", "[nan]"), [["1", "7"], ["1"], []]),
        ((json.dumps(["caf\u00e9"]), json.dumps(['a"b', "c\\d"]), "[null]"), [["caf\u00e9"], ['a"b', "c\\d"], []]),
        (("['1.0', '2.5']", "['2.5']", "[]"), [["1.0", "2.5"], ["2.5"], []]),
    ],
)
def test_the_text_of_lists(table: Table, cells: tuple[str, ...], expected: list) -> None:
    assert table.read(csv(*cells)) == expected


def test_a_vector_of_bits_names_no_label(table: Table) -> None:
    with pytest.raises(UserError, match=r"cells such as '\[0 1 0\]' are rows of 0 and 1, and nothing says"):
        table.source(csv("[1 0 1]", "[0 1 0]", "[1 1 1]"))


def test_all_distinct_cells_are_looked_at(table: Table) -> None:
    """One composite cell at the end of many plain ones is seen, which a sample would miss."""
    names = [f"{k}.jpg" for k in range(3000)]
    rows = [f"{name},class{k}" for k, name in enumerate(names)] + ["a.jpg,class1|class2"]
    with pytest.raises(UserError, match=r"1 of 3,001 distinct labels hold '\|', such as 'class1\|class2'"):
        table.source("\n".join(["file,label", *rows]))


def test_a_message_shows_the_beginning_of_a_value(table: Table) -> None:
    with pytest.raises(UserError) as refused:
        table.source(csv("x" * 5000 + "|y", "z"))
    assert len(str(refused.value)) < 600


def test_lists_beside_other_cells_are_asked_about(table: Table) -> None:
    """``['x', 'y']`` became a class of that name."""
    content = "file,label\na.jpg,\"['x', 'y']\"\nb.jpg,x\n"
    with pytest.raises(UserError, match=r"1 of 2 distinct cells are texts of lists, such as \"\['x', 'y'\]\""):
        table.source(content)
    assert table.read(content, yes=True) == [["['x', 'y']"], ["x"]]
