"""Importers: class folders, tars with a table, files with a table; and what is wrong with each."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaleprior.corpus import Corpus, build_index, open_source
from scaleprior.errors import UserError
from tests.corpus.pictures import class_folders, jpeg, write_tar

HIERARCHY = {"nodes": {"pet": {"parents": []}, "cat": {"parents": ["pet"]}, "dog": {"parents": ["pet"]}}}


def build(src: Path, out: Path, *, max_skipped: float = 0.05, **options: object) -> Corpus:
    source = open_source(src, **options)
    facts = {"kind": source.kind, **source.facts}
    return build_index(
        source.rows(), out, label_space=source.label_space, root=source.root, source=facts, max_skipped=max_skipped
    )


def contents(corpus: Corpus) -> dict[str, tuple[list[str], bytes]]:
    """Label ids and bytes by key."""
    fraction = corpus.fraction(ratio=1.0)
    labels, offsets = fraction.labels()
    ids = corpus.label_space.ids
    return {
        key: ([ids[label] for label in labels[offsets[k] : offsets[k + 1]]], fraction.read(k))
        for k, key in enumerate(fraction.keys())
    }


def table(path: Path, rows: list[list[str]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_class_folders_make_a_flat_label_space(tmp_path):
    src = class_folders(tmp_path / "src", {"dog": 2, "cat": 1})
    (src / "cat" / "deeper").mkdir()
    (src / "cat" / "deeper" / "x.jpg").write_bytes(jpeg(50))
    (src / "cat" / ".hidden").write_text("")
    (src / "README").write_text("not part of it")
    corpus = build(src, tmp_path / "i")
    assert corpus.label_space.ids == ("cat", "dog")
    expected = {
        f"{name}": ([name.split("/")[0]], (src / name).read_bytes())
        for name in ("dog/0.jpg", "dog/1.jpg", "cat/0.jpg", "cat/deeper/x.jpg")
    }
    assert contents(corpus) == expected


def test_class_folders_with_a_hierarchy(tmp_path):
    src = class_folders(tmp_path / "src", {"dog": 1})
    (src / "hierarchy.json").write_text(json.dumps(HIERARCHY))
    corpus = build(src, tmp_path / "i")
    assert corpus.label_space.ids == ("pet", "cat", "dog")
    class_folders(src, {"wolf": 1})
    with pytest.raises(UserError, match="label 'wolf' is not in the label space"):
        open_source(src)


@pytest.fixture
def tars(tmp_path) -> Path:
    """Two tars, a CSV with splits and a multi-label row, and a hierarchy."""
    src = tmp_path / "src"
    src.mkdir()
    write_tar(src / "one.tar", {"a.jpg": jpeg(1), "./b.jpg": jpeg(2), "unlabelled.jpg": jpeg(3)})
    write_tar(src / "two.tar", {"sub/c.jpg": jpeg(4)})
    rows = [["file", "wnid", "split", "x0"], ["a.jpg", "cat", "train", "1"], ["b.jpg", "dog; cat", "train", "2"]]
    table(src / "labels.csv", [*rows, ["sub/c.jpg", "dog", "val", "3"]])
    (src / "hierarchy.json").write_text(json.dumps(HIERARCHY))
    return src


def test_tars_with_a_table(tars, tmp_path):
    corpus = build(tars, tmp_path / "i")
    assert contents(corpus) == {
        "a.jpg": (["cat"], jpeg(1)),
        "b.jpg": (["cat", "dog"], jpeg(2)),
        "sub/c.jpg": (["dog"], jpeg(4)),
    }
    assert corpus.facts["source"]["kind"] == "tars"


def test_split_selects_rows(tars, tmp_path):
    assert set(contents(build(tars, tmp_path / "i", split="train"))) == {"a.jpg", "b.jpg"}
    with pytest.raises(UserError, match="no row with split 'test'; values there are 'train', 'val'"):
        open_source(tars, split="test")
    with pytest.raises(UserError, match="no column 'fold'; its columns are 'file', 'wnid', 'split', 'x0'"):
        open_source(tars, split="train", split_column="fold")


def test_columns_can_be_chosen(tars, tmp_path):
    table(tars / "labels.csv", [["id", "what"], ["a.jpg", "cat"]])
    with pytest.raises(
        UserError, match=r"no column of labels \(label, labels, wnid, class, ...\); its columns, .* are 'id', 'what'"
    ):
        open_source(tars)
    assert set(contents(build(tars, tmp_path / "i", file_column="id", label_column="what"))) == {"a.jpg"}
    with pytest.raises(UserError, match=r"no column 'nope'.*choose one with label_column$"):
        open_source(tars, file_column="id", label_column="nope")


def test_image_that_is_in_no_tar(tars, tmp_path):
    table(tars / "labels.csv", [["file", "wnid"], ["a.jpg", "cat"], ["images/b.jpg", "dog"]])
    with pytest.raises(
        UserError, match=r"names an image that is in no tar .* such as 'images/b.jpg'; images there .* like"
    ):
        build(tars, tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_name_in_two_tars(tars, tmp_path):
    write_tar(tars / "three.tar", {"a.jpg": jpeg(9)})
    with pytest.raises(UserError, match=r"more than once: 'a.jpg' in one.tar, three.tar"):
        build(tars, tmp_path / "i")


def test_rows_of_one_image_are_joined(tars, tmp_path):
    table(tars / "labels.csv", [["file", "wnid"], ["a.jpg", "cat"], ["./a.jpg", "dog"], ["a.jpg", "cat"]])
    corpus = Corpus.build(tars, tmp_path / "i")
    assert contents(corpus) == {"a.jpg": (["cat", "dog"], jpeg(1))}
    joined = corpus.facts["warnings"]["rows of an image that has other rows (joined)"]
    assert joined == {"count": 2, "examples": ["a.jpg"]}


def test_label_outside_the_label_space(tars, tmp_path):
    table(tars / "labels.csv", [["file", "wnid"], ["a.jpg", "cow"]])
    with pytest.raises(UserError, match=r"image 'a.jpg': label 'cow' is not in the label space"):
        build(tars, tmp_path / "i")


def test_damaged_member_is_skipped(tars, tmp_path):
    write_tar(tars / "two.tar", {"sub/c.jpg": jpeg(4)[:-30]})
    corpus = build(tars, tmp_path / "i", max_skipped=0.4)
    assert [entry["key"] for entry in corpus.facts["skipped"]["files"]] == ["sub/c.jpg"]


def test_members_with_absurd_names_harm_nobody(tars, tmp_path):
    """One name that is not UTF-8, which no row asks for, was a crash."""
    members = {"a.jpg": jpeg(1), "caf\udce9.jpg": jpeg(2), "/etc/x.jpg": jpeg(3), "../b.jpg": jpeg(4)}
    write_tar(tars / "one.tar", members)
    table(tars / "labels.csv", [["file", "wnid"], ["a.jpg", "cat"]])
    corpus = Corpus.build(tars, tmp_path / "i")
    assert contents(corpus) == {"a.jpg": (["cat"], jpeg(1))}
    assert corpus.facts["warnings"] == {
        "names in tars that are not UTF-8": {"count": 1, "examples": ["caf\\udce9.jpg"]},
        "tar members that no row names (left out)": {"count": 3, "examples": ["../b.jpg"]},
    }
    table(tars / "labels.csv", [["file", "wnid"], ["../b.jpg", "cat"]])
    with pytest.raises(UserError, match=r"key '../b.jpg' is not a relative path"):
        Corpus.build(tars, tmp_path / "j")


def test_hard_and_symbolic_links_in_tars_are_images(tars, tmp_path):
    """GNU tar stores a file that has two names once, and the other name as a link."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jpg").write_bytes(jpeg(1))
    os.link(tmp_path / "d" / "a.jpg", tmp_path / "d" / "b.jpg")
    (tmp_path / "d" / "c.jpg").symlink_to("b.jpg")
    (tmp_path / "d" / "gone.jpg").symlink_to("/elsewhere.jpg")
    subprocess.run(
        ["tar", "cf", tars / "one.tar", "-C", tmp_path / "d", "a.jpg", "b.jpg", "c.jpg", "gone.jpg"], check=True
    )
    rows = [["file", "wnid"], ["a.jpg", "cat"], ["b.jpg", "dog"], ["c.jpg", "pet"]]
    table(tars / "labels.csv", rows)
    assert contents(build(tars, tmp_path / "i")) == {
        "a.jpg": (["cat"], jpeg(1)),
        "b.jpg": (["dog"], jpeg(1)),
        "c.jpg": (["pet"], jpeg(1)),
    }
    table(tars / "labels.csv", [*rows, ["gone.jpg", "cat"]])
    with pytest.raises(
        UserError, match=r"in no tar .*; there are links in tars that lead to no file in their tar: 'gone"
    ):
        build(tars, tmp_path / "j")


def test_spellings_of_a_member_are_matched_and_counted(tars, tmp_path):
    write_tar(tars / "one.tar", {"caf\u00e9.jpg": jpeg(1), "sub/nin\u0303o.jpg": jpeg(2), "x/plain.jpg": jpeg(3)})
    names = ["cafe\u0301.jpg", ".\\sub\\ni\u00f1o.jpg", "x\\plain.jpg"]
    table(tars / "labels.csv", [["file", "wnid"], *([name, "cat"] for name in names)])
    corpus = Corpus.build(tars, tmp_path / "i", yes=True)
    assert set(contents(corpus)) == {"caf\u00e9.jpg", "sub/nin\u0303o.jpg", "x/plain.jpg"}
    warnings = corpus.facts["warnings"]
    assert warnings["names in another Unicode normalisation (matched)"] == {"count": 1, "examples": names[:1]}
    assert warnings["names written with back-slashes (matched)"]["count"] == 2


def test_spellings_that_could_be_two_members_are_refused(tars, tmp_path):
    write_tar(tars / "one.tar", {"caf\u00e9.jpg": jpeg(1), "cafe\u0301.jpg": jpeg(2), "x.JPG": jpeg(3)})
    table(tars / "labels.csv", [["file", "wnid"], ["caf\u00e9.jpg", "cat"], ["cafe\u0301.jpg", "dog"]])
    assert len(build(tars, tmp_path / "i")) == 2  # both are there as they are written
    table(tars / "labels.csv", [["file", "wnid"], [".\\caf\u00e9.jpg", "cat"]])
    with pytest.raises(UserError, match=r"caf.*jpg' may be 'cafe.*jpg' or 'caf.*jpg'; write their paths"):
        build(tars, tmp_path / "j")
    table(tars / "labels.csv", [["file", "wnid"], ["x.jpg", "cat"]])
    with pytest.raises(UserError, match=r"in no tar .*'x.jpg'; there is 'x.JPG' \(names in another case\)"):
        build(tars, tmp_path / "j")


@pytest.mark.parametrize("name", ["more.tar.gz", "more.tgz", "more.zip", "more.tar.zst"])
def test_archives_beside_a_table_are_not_passed_over(tars, tmp_path, name):
    (tars / name).write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"1 compressed files in .*src would not be read, first: '{name}'; take one .*; unpack it: "
    ):
        Corpus.build(tars, tmp_path / "i")
    assert len(Corpus.build(tars, tmp_path / "i", yes=True)) == 3
    for tar in tars.glob("*.tar"):
        tar.unlink()
    with pytest.raises(
        UserError, match=rf"names image 'a.jpg', which is not in .*src; '{name}' there is compressed; unpack"
    ):
        open_source(tars)
    with pytest.raises(UserError, match=rf"{name} is compressed, and images are read from their place"):
        open_source(tars / name)
    (tars / "one.tar").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(UserError, match=r"one.tar is compressed, .*; unpack it: gunzip -c .* > .*one-unpacked.tar"):
        open_source(tars)
    (tars / "one.tar").unlink()
    for image in ("a.jpg", "b.jpg", "sub/c.jpg"):  # somebody has unpacked it, and kept it
        (tars / image).parent.mkdir(exist_ok=True)
        (tars / image).write_bytes(jpeg(1))
    assert len(Corpus.build(tars, tmp_path / "j", yes=True)) == 3


def test_a_path_that_is_not_utf8(tmp_path):
    src = class_folders(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")), {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match=r"the path '.*caf\\udce9' is not UTF-8; rename"):
        open_source(src)


@pytest.fixture
def files(tmp_path) -> Path:
    src = tmp_path / "src"
    (src / "deep").mkdir(parents=True)
    (src / "deep" / "a.jpg").write_bytes(jpeg(1))
    (src / "b it's.jpg").write_bytes(jpeg(2))
    return src


def test_files_with_a_csv(files, tmp_path):
    table(files / "labels.csv", [["path", "labels"], ["deep/a.jpg", "red;round"], ["b it's.jpg", ""]])
    corpus = build(files, tmp_path / "i")
    assert corpus.label_space.ids == ("red", "round")
    assert contents(corpus) == {"deep/a.jpg": (["red", "round"], jpeg(1)), "b it's.jpg": ([], jpeg(2))}


@pytest.mark.parametrize("labels", [[["red", "round"], ["red"]], ["red;round", "red"]])
def test_files_with_parquet_given_as_the_source(files, tmp_path, labels):
    pq.write_table(pa.table({"path": ["deep/a.jpg", "b it's.jpg"], "label": labels}), files / "t.parquet")
    corpus = build(files / "t.parquet", tmp_path / "i")
    assert {key: names for key, (names, _) in contents(corpus).items()} == {
        "deep/a.jpg": ["red", "round"],
        "b it's.jpg": ["red"],
    }


def test_table_elsewhere(files, tmp_path):
    table(tmp_path / "t.csv", [["path", "label"], ["deep/a.jpg", "red"]])
    assert set(contents(build(files, tmp_path / "i", labels=tmp_path / "t.csv"))) == {"deep/a.jpg"}
    with pytest.raises(UserError, match="table of labels not found"):
        open_source(files, labels=tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("gone.jpg", "names an image that is in no folder of .*, such as 'gone.jpg'"),
        ("/etc/x.jpg", "path '/etc/x.jpg' is not relative"),
        ("", "names no file in a row of column 'path'"),
    ],
)
def test_files_that_cannot_be(files, tmp_path, file, message):
    table(files / "labels.csv", [["path", "label"], [file, "red"]])
    with pytest.raises(UserError, match=message):
        build(files, tmp_path / "i")


@pytest.mark.parametrize("text", ["", "path\na.jpg\n", "path,label\na.jpg,red,more\n", "path,path\n1,2\n"])
def test_malformed_tables(files, tmp_path, text):
    (files / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=r"labels.csv"):
        build(files, tmp_path / "i")
    assert sorted(os.listdir(tmp_path)) == ["src"]


def test_missing_empty_and_hopeless_sources(tmp_path):
    with pytest.raises(UserError, match=r"source folder not found: .*absent"):
        open_source(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"source folder .*empty is empty"):
        open_source(tmp_path / "empty")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.jpg").write_bytes(jpeg(1))
    with pytest.raises(UserError, match="has no class folders"):
        open_source(tmp_path / "flat")
    class_folders(tmp_path / "classes", {"a": 1})
    with pytest.raises(UserError, match=r"has no folder for split 'train'; the folders there are 'a'"):
        open_source(tmp_path / "classes", split="train")
    with pytest.raises(UserError, match=r"^label_column 'x' needs a table of labels"):
        open_source(tmp_path / "classes", label_column="x")


def test_a_corpus_is_built_in_one_call(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "animals", {"cat": 3, "dog": 2})
    calls: list[tuple[int, int]] = []
    corpus = Corpus.build(source, tmp_path / "index", progress=lambda done, total, _: calls.append((done, total)))
    by_hand = open_source(source)
    expected = build_index(
        by_hand.rows(), tmp_path / "by_hand", label_space=by_hand.label_space, root=by_hand.root,
        source={"kind": by_hand.kind, **by_hand.facts},
    )  # fmt: skip
    assert corpus.fingerprint == expected.fingerprint
    assert (corpus.name, len(corpus), calls[-1]) == ("index", 5, (5, 5))
    assert corpus.facts["source"] == expected.facts["source"]
    with pytest.raises(UserError, match="already holds an index"):
        Corpus.build(source, tmp_path / "index")
    assert len(Corpus.build(source, tmp_path / "index", name="pets", salt="x", overwrite=True).fraction(images=2)) == 2


def test_the_source_may_be_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dot means that folder, not the index's own."""
    source = class_folders(tmp_path / "animals", {"cat": 2, "dog": 2})
    monkeypatch.chdir(source)
    corpus = Corpus.build(".", tmp_path / "index")
    monkeypatch.chdir(tmp_path)
    assert (corpus.root, len(corpus)) == (source, 4)
    assert Corpus.open("index").fraction(images=1).read(0).startswith(b"\xff\xd8")


def test_a_build_shows_a_bar_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    source = class_folders(tmp_path / "src", {"cat": 2, "dog": 1})
    assert len(Corpus.build(source, tmp_path / "quiet")) == 3
    assert not said.getvalue()
    assert len(Corpus.build(source, tmp_path / "shown", progress=True)) == 3
    assert "indexing" in said.getvalue()


def test_a_table_beside_folders_is_not_passed_over(tmp_path):
    """``images_001`` of ChestX-ray14 would be a class, and its table another file."""
    src = class_folders(tmp_path / "src", {"images_001": 2, "images_002": 1})
    table(src / "notes.csv", [["when", "who"], ["today", "me"]])
    assert len(Corpus.build(src, tmp_path / "i")) == 3  # no labels in there
    table(src / "Data_Entry_2017.csv", [["Image Index", "Finding Labels"], ["0.jpg", "Hernia"]])
    with pytest.raises(UserError, match=r"holds the table 'Data_Entry_2017.csv', which is not read.*give labels='"):
        Corpus.build(src, tmp_path / "j")
    assert len(Corpus.build(src, tmp_path / "j", yes=True)) == 3
    for folder in ("images_001", "images_002"):
        for file in (src / folder).iterdir():
            file.unlink()
        (src / folder).rmdir()
    with pytest.raises(UserError, match=r"no class folders, and no labels.csv; it holds 'Data_Entry.*'; if this"):
        open_source(src)
