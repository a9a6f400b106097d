"""From names in tables to images: suffixes, folders, spellings; what is ambiguous or missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from tests.corpus.pictures import jpeg, write_tar
from tests.corpus.tables.conftest import Table


@pytest.fixture(params=["files", "tar"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    """Images in folders, or in a tar."""
    table = Table(tmp_path)
    names = ["train/a.jpg", "train/b.PNG", "test/c.jpeg", "deep/er/d.jpg", "a.json", "train/b.txt"]
    if request.param == "tar":
        write_tar(table.src / "all.tar", {name: jpeg(k) for k, name in enumerate(names)})
    else:
        table.images(names)
    return table


@pytest.mark.parametrize(
    ("name", "key", "kind"),
    [
        ("a", "train/a.jpg", "names without their image's suffix (matched)"),
        ("train/a", "train/a.jpg", "names without their image's suffix (matched)"),
        ("b", "train/b.PNG", "names of images in other folders (matched)"),
        ("c.jpeg", "test/c.jpeg", "names of images in other folders (matched)"),
        ("er/d.jpg", "deep/er/d.jpg", "names of images in other folders (matched)"),
        ("train\\a.jpg", "train/a.jpg", "names written with back-slashes (matched)"),
        ("src/train/a.jpg", "train/a.jpg", None),  # the folder's own name in front, as in CheXpert
        ("train/a.jpg", "train/a.jpg", None),
        ("./train/a.jpg", "train/a.jpg", None),
    ],
)
def test_names_that_mean_one_image(place: Table, name: str, key: str, kind: str | None) -> None:
    other = "" if key == "test/c.jpeg" else "test/c.jpeg,y\n"
    source = place.source(f"file,label\n{name},x\n{other}", yes=True)
    assert key in {row.key for row in source.rows()}
    if kind is not None:
        assert source.notes.warnings[kind] == (1, [name])


def test_unicode_in_its_two_forms(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.images(["caf\u00e9.jpg", "nin\u0303o.jpg"])
    source = table.source("file,label\ncafe\u0301.jpg,x\nni\u00f1o,y\n")
    assert {row.key: row.labels for row in source.rows()} == {"caf\u00e9.jpg": ("x",), "nin\u0303o.jpg": ("y",)}
    assert "names in another Unicode normalisation (matched)" in source.notes.warnings


def test_several_images_of_a_name_are_named(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.images(["train/a.jpg", "val/a.jpg", "val/b.png", "b.jpg"])
    with pytest.raises(UserError, match=r"'a' may be 'train/a.jpg' or 'val/a.jpg', and 1 more names have several"):
        list(table.source("id,label\na,x\nb,y\n").rows())
    # a whole path is meant before a part of one
    table.images(["val/train/a.jpg"])
    assert table.signs("id,label\ntrain\\a.jpg,x\nb.jpg,y\n") == {"b.jpg": (["y"], []), "train/a.jpg": (["x"], [])}


def test_rows_without_an_image(place: Table) -> None:
    text = "file,label\na,x\ngone,y\nlost.jpg,y\n"
    with pytest.raises(UserError, match=r"names 2 images that are in no .*src, such as 'gone', 'lost.jpg'; images"):
        list(place.source(text).rows())
    source = place.source(text, skip_missing=True)
    assert [row.key for row in source.rows()] == ["train/a.jpg"]
    assert source.notes.warnings["images of the table that are not there (left out)"] == (2, ["gone"])


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.images(["scan/1.jpg", "images/scan.jpg"])
    assert table.signs("id,label\nscan,x\n", yes=True) == {"images/scan.jpg": (["x"], [])}


def test_two_names_of_one_image_in_a_tar_are_joined(tmp_path: Path) -> None:
    table = Table(tmp_path)
    write_tar(table.src / "all.tar", {"a.jpg": jpeg(1)})
    assert table.signs("id,label\na,x\na.jpg,y\n") == {"a.jpg": (["x", "y"], [])}


def test_exact_names_list_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scaleprior.corpus.importers.tables import files

    table = Table(tmp_path)
    table.images(["a.jpg"])
    monkeypatch.setattr(files, "images_below", lambda root: pytest.fail("listed"))
    assert table.read("file,label\na.jpg,x\n", yes=True) == [["x"]]


def test_a_table_with_a_row_for_each_label(tmp_path: Path) -> None:
    """Against a loop, with more pieces than one."""
    import random

    from scaleprior.corpus.importers.tables import table as module

    rng, expected, lines = random.Random(0), {}, []
    for k in range(40):
        chosen = rng.sample("uvwxyz", rng.randint(1, 4))
        expected[f"{k}.jpg"] = (sorted(chosen), [])
        lines += [f"{k}.jpg,{label}" for label in chosen]
    rng.shuffle(lines)
    table = Table(tmp_path)
    table.images(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_JOINED_AT_ONCE", 10)
        source = table.source("\n".join(["file,label", *lines]))
        assert {row.key: (sorted(row.labels), list(row.absent)) for row in source.rows()} == expected
        joined, _ = source.notes.warnings["rows of an image that has other rows (joined)"]
    assert joined == len(lines) - 40
    assert source.total == 40
    corpora = [Corpus.build(table.src, tmp_path / str(n), labels=table.src / "labels.csv") for n in range(2)]
    assert corpora[0].fingerprint == corpora[1].fingerprint
