"""Present, absent, unknown: confidences, a column for each label, and the published tables' own ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.corpus.tables.conftest import Table

HUMAN = """ImageID,Source,LabelName,Confidence
a,verification,/m/dog,1
a,crowdsource-verification,/m/cat,0
b,verification,/m/cat,1
a,verification,/m/animal,1
b,machine,/m/dog,0
"""


def test_confidence_0_is_absent_unless_a_machine_says_it(table: Table) -> None:
    """It became a positive label."""
    assert table.signs(HUMAN) == {"a.jpg": (["/m/animal", "/m/dog"], ["/m/cat"]), "b.jpg": (["/m/cat"], [])}
    without = table.signs(HUMAN, confidence_column="")
    assert without["a.jpg"] == (["/m/animal", "/m/cat", "/m/dog"], [])


def test_a_row_without_a_confidence_is_counted(table: Table) -> None:
    source = table.source("file,label,confidence\na.jpg,x,1\nb.jpg,y,\n")
    assert {row.key: row.labels for row in source.rows()} == {"a.jpg": ("x",), "b.jpg": ("y",)}
    assert source.notes.warnings["rows without a confidence (present)"][0] == 1


def test_confidences_of_machines_need_a_limit(table: Table) -> None:
    machine = "ImageID,Source,LabelName,Confidence\na,machine,x,0.7\na,machine,y,0.4\nb,machine,y,0.9\nb,machine,x,0\n"
    with pytest.raises(UserError, match=r"3 confidences in .*'Confidence' are between 0 and 1, such as 0.4") as asked:
        table.source(machine)
    assert "--min-confidence 0.5" in in_flags(asked.value)
    source = table.source(machine, min_confidence=0.7)
    rows = {row.key: (row.labels, row.absent) for row in source.rows()}
    assert rows == {"a.jpg": (("x",), ()), "b.jpg": (("y",), ())}
    below = source.notes.warnings["labels below the confidence that is asked for (unknown)"]
    assert below[0] == 1


@pytest.mark.parametrize("value", ["87", "high", "-1", "1.01"])
def test_other_confidences_are_refused(table: Table, value: str) -> None:
    with pytest.raises(UserError, match=r"1 confidences in column 'confidence' are no numbers from 0 to 1") as refused:
        table.source(f"file,label,confidence\na.jpg,x,1\nb.jpg,y,{value}\n")
    assert "--confidence-column ''" in in_flags(refused.value)
    assert table.read(f"file,label,confidence\na.jpg,x,1\nb.jpg,y,{value}\n", confidence_column="") == [["x"], ["y"]]


def test_any_column_may_hold_the_confidence(table: Table) -> None:
    text = "file,label,present\na.jpg,x,1\na.jpg,y,0\nb.jpg,y,\n"
    assert table.signs(text, confidence_column="present") == {"a.jpg": (["x"], ["y"]), "b.jpg": (["y"], [])}


@pytest.mark.parametrize(
    ("uncertain", "expected", "said"),
    [
        (None, (["x"], []), "unknown"),  # y is -1, z blank
        ("ignore", (["x"], []), "unknown"),  # U-Ignore, U-Ones and U-Zeros of Irvin et al. 2019
        ("positive", (["x", "y"], []), "present"),
        ("negative", (["x"], ["y"]), "absent"),
    ],
)
def test_what_is_uncertain(table: Table, uncertain: str | None, expected: tuple, said: str) -> None:
    source = table.source("Path,x,y,z\na.jpg,1.0,-1.0,\nb.jpg,0.0,1.0,1.0\n", label_column="x..z", uncertain=uncertain)
    rows = {row.key: (list(row.labels), list(row.absent)) for row in source.rows()}
    assert rows == {"a.jpg": expected, "b.jpg": (["y", "z"], ["x"])}
    assert source.notes.warnings[f"uncertain labels, -1 ({said})"] == (1, ["y"])


def test_minus_1_without_any_0_may_be_absent(table: Table) -> None:
    """As in CelebA, where it would be unknown in silence."""
    text = "image_id,x,y\na.jpg,1,-1\nb.jpg,-1,1\n"
    with pytest.raises(UserError, match=r"hold 2 times -1 and never 0: as it stands -1 is unknown") as asked:
        table.source(text, label_column="x,y")
    assert "--uncertain negative" in in_flags(asked.value)
    assert table.signs(text, label_column="x,y", uncertain="negative") == {
        "a.jpg": (["x"], ["y"]),
        "b.jpg": (["y"], ["x"]),
    }


def test_soft_labels_in_columns_need_a_limit(table: Table) -> None:
    text = "file,x,y\na.jpg,0.8,0.2\nb.jpg,1,0\n"
    with pytest.raises(UserError, match=r"label column 'x' holds '0.8', between 0 and 1.*min_confidence=0.5"):
        table.source(text, label_column="x,y")
    assert table.signs(text, label_column="x,y", min_confidence=0.5) == {
        "a.jpg": (["x"], []),
        "b.jpg": (["x"], ["y"]),
    }


def test_presence_wins_when_rows_disagree(tmp_path: Path) -> None:
    """Also over the absence of an ancestor; both are counted."""
    table = Table(tmp_path)
    table.images(["a.jpg"])
    (table.src / "hierarchy.json").write_text('{"nodes": {"animal": {}, "dog": {"parents": ["animal"]}, "cat": {}}}')
    text = "file,label,confidence\na.jpg,dog,1\na.jpg,dog,0\na.jpg,animal,0\na.jpg,cat,0\n"
    corpus = Corpus.build(table.src, tmp_path / "i", labels=table.write(text))
    ids = corpus.label_space.ids
    fraction = corpus.fraction(images=1)
    assert [ids[x] for x in fraction.labels()[0]] == ["dog"]
    assert [ids[x] for x in fraction.absent()[0]] == ["cat"]
    assert corpus.facts["absent"] == {"labels": 1, "contradicted": 2}
