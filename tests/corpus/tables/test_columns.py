"""Which columns are meant: by their names in any spelling where one fits, else by asking."""

from __future__ import annotations

import pytest

from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.corpus.tables.conftest import Table


@pytest.mark.parametrize(
    "header",
    [
        "file,label", "path,wnid", "id_code,diagnosis", "Id,Target", "image_name,tags", "IMAGE ID,Class Name",
        "File_Name,Category", "id,breed", "img,labels", "photo,species", "Image,Id2,Label",
    ],
)  # fmt: skip
def test_usual_names_in_any_spelling(table: Table, header: str) -> None:
    cells = ["x"] * header.count(",")
    assert table.read("\n".join([header, ",".join(["a.jpg", *cells])]), yes=True) == [["x"]]


def test_the_names_of_before_win_over_others(table: Table) -> None:
    """file before path before image before filename, label before labels: whatever other columns there are."""
    assert table.read("path,file,labels,label,target\nno,a.jpg,no,x,no\n", yes=True) == [["x"]]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "image_id,img_path,label",
            r"several columns .* files: 'image_id', 'img_path'; choose .* file_column",
        ),
        (
            "file,category,species",
            r"several columns .* labels: 'category', 'species'; choose .* label_column",
        ),
        ("a.jpg,cat", r"no column of files .*; its columns, in its first line, are 'a.jpg', 'cat'"),
        ("file,weight", r"no column of labels .* are 'file', 'weight'"),
    ],
)
def test_several_or_none_is_a_question(table: Table, header: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table.source("\n".join([header, ",".join(["a.jpg"] + ["x"] * header.count(","))]))


def test_a_misspelled_column_gets_the_right_one(table: Table) -> None:
    with pytest.raises(UserError, match=r"no column 'Finding labels'; is 'Finding Labels' meant\?"):
        table.source("file,Finding Labels\na.jpg,x\n", label_column="Finding labels")


ONE_HOT = "file,x,y,z w,n\na.jpg,1,0,,5\nb.jpg,0.0,1.0,1,6\nc.jpg,,True,FALSE,7\n"
SIGNS = {"a.jpg": (["x"], ["y"]), "b.jpg": (["y", "z w"], ["x"]), "c.jpg": (["y"], ["z w"])}


@pytest.mark.parametrize("columns", ["x..z w", "x,y,z w", "x, y..z w", ["x", "y", "z w"], ["x", "y..z w"]])
def test_a_column_for_each_label(table: Table, columns: str | list[str]) -> None:
    assert table.signs(ONE_HOT, label_column=columns) == SIGNS


def test_a_column_for_each_label_may_be_named_like_ours(table: Table) -> None:
    text = "name,file,cell,confidence\na.jpg,1,0,1\nb.jpg,0,1,\n"
    assert table.signs(text, file_column="name", label_column="file..confidence") == {
        "a.jpg": (["confidence", "file"], ["cell"]),
        "b.jpg": (["cell"], ["file"]),
    }


def test_columns_of_0_and_1_are_pointed_out(table: Table) -> None:
    with pytest.raises(UserError, match=r"no column of labels") as refused:
        table.source("file,age,x,y,z\na.jpg,7,1,0,\nb.jpg,8,0,1,-1\n")
    assert (
        "3 columns hold only 1, 0 or -1: if each of them is a label, name them, such as --label-column x..z"
        in in_flags(refused.value)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": "z w..x"}, r"'z w' comes after 'x'; take x..z w"),
        ({"label_column": "x,q"}, r"no column 'q'"),
        ({"label_column": "x,n"}, r"label column 'n' holds '5'; where each label has a column of its own, cells"),
        ({"label_column": "x,y", "confidence_column": "n"}, r"confidence_column 'n' is for tables with one column"),
        ({"label_column": "x", "min_confidence": 0.5}, r"min_confidence needs a column of confidences"),
        ({"label_column": "x", "min_confidence": 5.0}, r"min_confidence is 5.0; give a number above 0, at most 1"),
        ({"label_column": "x,y", "uncertain": "maybe"}, r"uncertain is 'maybe'; take one of ignore, positive"),
        ({"label_column": []}, r"label_column is \[\]; give a text, or a list of texts"),
        ({"label_column": ["x", 1]}, r"label_column is \['x', 1\]; give"),
        ({"missing": 5}, r"missing is 5; give a text, or a list"),
        ({"split": 1}, r"split is 1, no text; give a text: '1'"),
        ({"separator": 5}, r"separator is 5, no text"),
        ({"file_column": ["file"]}, r"file_column is \['file'\], no text"),
        ({"label_column": "x", "min_confidence": "0.5"}, r"min_confidence is '0.5'; give a number"),
        ({"skip_missing": "yes"}, r"skip_missing is 'yes'; give True or False"),
    ],
)  # fmt: skip
def test_what_cannot_be(table: Table, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        table.source(ONE_HOT, **options)


def test_options_of_tables_need_a_table(table: Table) -> None:
    from scaleprior.corpus import open_source

    for name, value in {"separator": "|", "missing": "x", "uncertain": "positive", "skip_missing": True}.items():
        with pytest.raises(UserError, match=rf"^{name} .* needs a table of labels"):
            open_source(table.src, **{name: value})
