"""Class folders as people have them: links, splits, files beside the images, names of all kinds."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from scaleprior.corpus import Corpus, open_source
from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.corpus.pictures import class_folders, jpeg


def taken(src: Path, **options: object) -> set[tuple[str, str]]:
    """(path, label) of every image that is taken."""
    return {(row.path, row.labels[0]) for row in open_source(src, **options).rows()}


def folder_says(src: Path) -> set[tuple[str, str]]:
    """The same as torchvision reads it."""
    found = ImageFolder(str(src))
    return {(os.path.relpath(path, src), found.classes[label]) for path, label in found.samples}


def doubts(src: Path, **options: object) -> str:
    return "; ".join(doubt.what for doubt in open_source(src, **options).doubts)


def test_linked_folders_and_files_are_followed(tmp_path):
    """28 of 40 images were read, and nobody was told of the rest."""
    store = class_folders(tmp_path / "store", {"deep": 6, "dog": 6})
    src = class_folders(tmp_path / "src", {"cat": 28})
    (src / "dog").symlink_to(store / "dog")  # a linked class
    (src / "cat" / "more").symlink_to(store / "deep")  # a linked folder below a class
    (src / "cat" / "one.jpg").symlink_to(store / "dog" / "0.jpg")  # a linked file
    assert taken(src) == folder_says(src)
    corpus = Corpus.build(src, tmp_path / "i")
    assert (len(corpus), corpus.facts["skipped"]["count"], corpus.facts["warnings"]) == (41, 0, {})
    keys = corpus.fraction(ratio=1.0).keys()
    assert {"dog/0.jpg", "cat/more/5.jpg", "cat/one.jpg"} < set(keys)


def test_a_loop_of_links_ends_and_is_named(tmp_path):
    src = class_folders(tmp_path / "src", {"cat": 2, "dog": 1})
    (src / "cat" / "deeper").mkdir()
    (src / "cat" / "deeper" / "up").symlink_to(src / "cat")
    (src / "dog" / "top").symlink_to(src)
    (src / "dog" / "self").symlink_to("self")
    (src / "ant").mkdir()  # the first folder, of links alone
    (src / "ant" / "self").symlink_to("self")
    (src / "ant" / "up").symlink_to(src)
    source = open_source(src)
    assert [row.key for row in source.rows()] == ["cat/0.jpg", "cat/1.jpg", "dog/0.jpg"]
    assert source.notes.warnings == {
        "links back to a folder above (not followed)": (3, ["ant/up", "cat/deeper/up", "dog/top"]),
        "links that lead nowhere": (2, ["ant/self", "dog/self"]),
        "class folders without images": (1, ["ant"]),
    }
    assert len(list(source.rows())) == 3
    assert source.notes.warnings["links that lead nowhere"][0] == 2  # a second stream counts afresh


def test_a_folder_reached_by_two_ways_is_two_sets_of_keys_and_said(tmp_path):
    src = class_folders(tmp_path / "src", {"cat": 2, "dog": 1})
    (src / "dog" / "cats").symlink_to(src / "cat")
    source = open_source(src)
    assert taken(src) == folder_says(src)
    assert [row.key for row in source.rows()] == [
        "cat/0.jpg",
        "cat/1.jpg",
        "dog/0.jpg",
        "dog/cats/0.jpg",
        "dog/cats/1.jpg",
    ]
    kind = "folders reached by two ways (their images are taken twice)"
    assert source.notes.warnings == {kind: (1, ["dog/cats is cat"])}


def test_links_that_lead_nowhere_are_unusable_images_and_named(tmp_path):
    src = class_folders(tmp_path / "src", {"dog": 3})
    (src / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (src / "dog" / "gone").symlink_to(tmp_path / "no_folder")
    corpus = Corpus.build(src, tmp_path / "i", max_skipped=0.5, yes=True)
    assert corpus.facts["skipped"]["reasons"] == {"unreadable": 1}
    assert corpus.facts["warnings"]["links that lead nowhere"] == {"count": 2, "examples": ["dog/gone", "dog/gone.jpg"]}
    # what is not decoded must not be indexed blindly
    assert [row.key for row in open_source(src, verified=False).rows()] == ["dog/0.jpg", "dog/1.jpg", "dog/2.jpg"]
    with pytest.raises(UserError, match=r"1 of 4 images \(25.0%\) cannot be used"):
        Corpus.build(src, tmp_path / "j", yes=True)


def test_a_class_that_is_a_dead_link_is_asked_about(tmp_path):
    src = class_folders(tmp_path / "src", {"cat": 1, "dog": 1})
    (src / "wolf").symlink_to("/mnt/unmounted/wolf")
    said = doubts(src)
    assert "1 links in" in said
    assert "lead nowhere and would be left out, first: 'wolf' to '/mnt/unmounted/wolf'" in said


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    src = class_folders(tmp_path / "src", {"cat": 1, "dog": 1})
    listing = os.scandir

    def refused(path: Path) -> object:  # as for a user without permission; tests may run as root
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"dog' cannot be read: Permission denied"):
        list(open_source(src).rows())


def test_files_beside_images_are_no_unusable_images(tmp_path):
    src = class_folders(tmp_path / "src", {"cat": 3, "dog": 1})
    for name in (
        "0.json",
        "1.JSON",
        "notes.txt",
        "Thumbs.db",
        "desktop.ini",
        ".DS_Store",
        "._0.jpg",
        "x.npy",
        "README",
    ):
        (src / "cat" / name).write_bytes(b"BM, but no image")
    (src / "labels.md").write_text("")
    (src / "loose.jpg").write_bytes(jpeg(9))
    (src / "__MACOSX" / "cat").mkdir(parents=True)
    (src / "__MACOSX" / "cat" / "0.jpg").write_bytes(jpeg(1))
    corpus = Corpus.build(src, tmp_path / "i", max_skipped=0.0)
    assert len(corpus) == 4
    others = {".json": 2, ".txt": 1, ".db": 1, ".ini": 1, ".DS_Store": 1, "._*": 1, ".npy": 1, "README": 1, ".md": 1}
    assert corpus.facts["other_files"] == others
    assert corpus.facts["warnings"] == {
        "hidden folders": {"count": 1, "examples": ["__MACOSX"]},
        "images beside the class folders (they have no label)": {"count": 1, "examples": ["loose.jpg"]},
    }
    assert corpus.label_space.ids == ("cat", "dog")


def test_what_is_to_be_an_image_stays_one(tmp_path):
    """A broken .jpg counts as unusable, an image without a suffix, or with a wrong one, is taken."""
    src = class_folders(tmp_path / "src", {"cat": 1, "dog": 1})
    (src / "cat" / "n01440764_10026").write_bytes(jpeg(5))
    (src / "cat" / "image.0001").write_bytes(jpeg(6))
    (src / "cat" / "broken.jpg").write_bytes(b"<html>")
    (src / "cat" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for verified in (True, False):
        keys = {row.key for row in open_source(src, verified=verified).rows()}
        assert {"cat/n01440764_10026", "cat/image.0001", "cat/broken.jpg"} < keys
        assert ("cat/phone.heic" in keys) == verified  # what is not decoded must be of a format that is read
    corpus = Corpus.build(src, tmp_path / "i", max_skipped=0.5)
    assert {entry["key"] for entry in corpus.facts["skipped"]["files"]} == {"cat/broken.jpg", "cat/phone.heic"}
    assert corpus.facts["other_files"] == {}


def test_pipes_and_sockets_are_not_opened(tmp_path):
    src = class_folders(tmp_path / "src", {"cat": 1, "dog": 1})
    os.mkfifo(src / "cat" / "pipe.jpg")  # opening it would wait for ever
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(src / "dog" / "socket.jpg"))
        source = open_source(src)
        assert [row.key for row in source.rows()] == ["cat/0.jpg", "dog/0.jpg"]
    kind = "entries that are neither files nor folders"
    assert source.notes.warnings == {kind: (2, ["cat/pipe.jpg", "dog/socket.jpg"])}


def test_names_that_are_not_utf8(tmp_path):
    src = class_folders(tmp_path / "src", {"cat": 1, "dog": 1})
    strange = os.fsencode(src / "cat") + b"/caf\xe9"
    Path(os.fsdecode(strange + b".txt")).write_text("")
    corpus = Corpus.build(src, tmp_path / "i")
    assert corpus.facts["other_files"] == {".txt": 1}  # what nobody needs harms nobody
    Path(os.fsdecode(strange + b".jpg")).write_bytes(jpeg(3))
    with pytest.raises(UserError, match=r"file name 'cat/caf\\udce9.jpg' is not UTF-8; rename"):
        Corpus.build(src, tmp_path / "j")
    os.mkdir(os.fsencode(src) + b"/caf\xe9")
    with pytest.raises(UserError, match=r"folder name 'caf\\udce9' in .*src is not UTF-8"):
        open_source(src)


@pytest.mark.parametrize(
    "classes",
    [
        ("train/cat", "train/dog", "val/cat", "val/dog"),
        ("Training/cat", "Validation/cat", "test/cat"),
        ("train2017/cat", "val2017/dog"),
        ("fold1/cat", "fold2/cat", "fold10/cat"),
        ("images/cat", "labels/cat"),
        ("set/train/cat", "set/train/dog", "set/val/dog"),
    ],
)
def test_splits_above_the_class_folders_are_asked_about(tmp_path, classes):
    src = class_folders(tmp_path / "src", dict.fromkeys(classes, 1))
    said = doubts(src)
    assert "are called like parts of a data set, and would be its labels; below them lie 'cat'" in said
    with pytest.raises(UserError, match="would be its labels"):
        Corpus.build(src, tmp_path / "i")
    corpus = Corpus.build(src, tmp_path / "i", yes=True)
    assert set(corpus.label_space.ids) <= {name.split("/")[0] for name in classes}


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_split_is_chosen(tmp_path, wrapped):
    top = tmp_path / "src" / "set" if wrapped else tmp_path / "src"
    class_folders(top, {"train/cat": 2, "train/dog": 1, "val/cat": 1, "val/dog": 1})
    corpus = Corpus.build(tmp_path / "src", tmp_path / "i", split="train")
    same = Corpus.build(top / "train", tmp_path / "j")
    assert (len(corpus), corpus.label_space.ids) == (3, ("cat", "dog"))
    assert corpus.fingerprint == same.fingerprint
    with pytest.raises(UserError, match=r"no folder for split 'dev'; the folders there are 'train', 'val'"):
        open_source(tmp_path / "src", split="dev")


def test_splits_below_the_class_folders(tmp_path):
    """The labels would be right, but what is held out would be learned from."""
    src = class_folders(tmp_path / "src", {"cat/train": 2, "cat/val": 1, "dog/train": 1, "dog/val": 1, "odd/val": 1})
    assert doubts(src) == ""  # one folder has no splits: they are no rule here
    (src / "odd" / "train2").mkdir()
    assert "hold the folders 'train', 'train2', 'val', called like parts of a data set" in doubts(src)
    source = open_source(src, split="train")
    assert not source.doubts
    assert [row.key for row in source.rows()] == ["cat/train/0.jpg", "cat/train/1.jpg", "dog/train/0.jpg"]
    assert source.notes.warnings == {"class folders without 'train'": (1, ["odd"])}


@pytest.mark.parametrize(
    "classes", [("train", "bus", "car"), ("cat", "dog"), ("images", "cat", "dog"), ("test", "a", "b")]
)
def test_ordinary_class_names_raise_no_doubt(tmp_path, classes):
    """COCO has a class "train"."""
    assert doubts(class_folders(tmp_path / "src", dict.fromkeys(classes, 1))) == ""


def test_a_folder_that_wraps_all_is_asked_about(tmp_path):
    src = class_folders(tmp_path / "src", {"set/cat": 1, "set/dog": 1})
    with pytest.raises(
        UserError, match=r"the one label 'set'; in it lie the folders 'cat', 'dog'; give .*src/set if"
    ) as e:
        Corpus.build(src, tmp_path / "i")
    assert in_flags(e.value).endswith("or pass --yes if it is meant so")


@pytest.mark.parametrize(
    ("images", "others", "said"),
    [
        (
            ("JPEGImages", "SegmentationClass"),
            ("Annotations", "ImageSets/Main"),
            "'ImageSets' of .* hold no images; the",
        ),
        (
            ("101_ObjectCategories/ant", "101_ObjectCategories/bee"),
            ("Annotations",),
            "'101_Obj.*lie the .* 'ant', 'bee'",
        ),
        (("images/ant", "images/bee"), ("meta",), "'meta' of .* holds no images; the label of all .* be 'images', in"),
    ],
)
def test_images_beside_annotations_are_no_classes(tmp_path, images, others, said):
    """VOC, Caltech and Food-101 as they are unpacked: their images became one class, or two, without a word."""
    src = class_folders(tmp_path / "src", dict.fromkeys(images, 2))
    for name in others:
        (src / name).mkdir(parents=True)
        (src / name / "a.txt").write_text("ant/0\n")
    assert re.search(said, doubts(src))
    with pytest.raises(UserError, match="or pass yes=True"):
        Corpus.build(src, tmp_path / "i")


def test_a_class_that_is_still_empty_is_no_doubt(tmp_path):
    src = class_folders(tmp_path / "src", {"ant": 1, "bee": 1})
    (src / "cow").mkdir()
    assert doubts(src) == ""


def test_groups_of_class_folders_are_asked_about(tmp_path):
    """Places' ``a/abbey`` became the class "a"."""
    src = class_folders(tmp_path / "src", {"a/abbey": 1, "a/airport": 1, "b/bar": 1})
    assert "hold no images but folders, such as 'a' with 'abbey', 'airport'; the labels would be the outer" in doubts(
        src
    )
    years = {"ant/2019": 1, "ant/2020": 1, "bee/2019": 1, "bee/2020": 1}  # names shared by classes divide them all
    assert doubts(class_folders(tmp_path / "years", years)) == ""
    assert doubts(class_folders(tmp_path / "single", {"ant/ants": 1, "bee/bees": 1})) == ""
    assert doubts(class_folders(tmp_path / "mixed", {"ant": 1, "ant/red": 1, "ant/black": 1, "bee/tame": 1})) == ""


def test_images_and_labels_are_no_splits_to_choose(tmp_path):
    src = class_folders(tmp_path / "src", {"annotations/trimaps": 1, "images": 1})
    with pytest.raises(UserError, match=r"; give .*src/images if its folders are the labels, or a table by"):
        Corpus.build(src, tmp_path / "i")


@pytest.mark.parametrize(
    ("source", "said"),
    [("", "the source is an empty text"), ("https://host/a-{0..3}.tar", "is a URL, and"), ("s3://b/a", "URL")],
)
def test_what_is_no_place_on_this_machine(source, said):
    """An unset variable in a script was the folder that the script ran in."""
    with pytest.raises(UserError, match=said):
        open_source(source)


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("cat", "cat ")])
def test_class_folders_that_look_alike_are_asked_about(tmp_path, one, other):
    src = class_folders(tmp_path / "src", {one: 1, other: 1, "dog": 1})
    said = doubts(src)
    assert "differ only in case, blanks or Unicode normalisation" in said
    assert said.isascii()  # the two must not look the same in the message


def test_folders_that_a_mac_named_find_their_label(tmp_path):
    src = class_folders(tmp_path / "src", {"cafe\u0301": 2, "tea": 1})
    nodes = {"drink": {}, "caf\u00e9": {"parents": ["drink"]}, "tea": {"parents": ["drink"]}}
    (src / "hierarchy.json").write_text(json.dumps({"nodes": nodes}))
    corpus = Corpus.build(src, tmp_path / "i")
    labels, _ = corpus.fraction(ratio=1.0).labels()
    assert sorted(corpus.label_space.ids[label] for label in labels) == ["caf\u00e9", "caf\u00e9", "tea"]
    assert [warning["count"] for warning in corpus.facts["warnings"].values()] == [1]


def test_a_zip_in_place_of_the_folders(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "all the images.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(
        UserError, match=r"'all the images.zip', which is compressed.*; unpack it: unzip '.*images.zip' -d '"
    ):
        open_source(tmp_path / "src")
