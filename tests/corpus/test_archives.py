"""Tars without a table: WebDataset shards, a tar for each class, a tar of tars, class folders in tars."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from scaleprior.corpus import Corpus, ShardWriter, open_source
from scaleprior.corpus.importers.class_names import ClassNames
from scaleprior.errors import UserError
from tests.corpus.pictures import class_folders, jpeg, write_tar
from tests.corpus.test_importers import contents


def doubts(src: Path | str, **options: object) -> str:
    return "; ".join(doubt.what for doubt in open_source(src, **options).doubts)


def packed(folder: Path, *, prefix: str = "") -> bytes:
    """A tar of what lies in the folder, as ``tar -C folder -cf - .`` would give it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, arcname=f"{prefix}{path.relative_to(folder)}", recursive=False)
    return data.getvalue()


@pytest.fixture
def classes(tmp_path) -> Path:
    return class_folders(tmp_path / "classes", {"n01440764": 3, "n01443537": 2, "n02084071": 2})


@pytest.fixture
def unpacked(classes, tmp_path) -> Corpus:
    return Corpus.build(classes, tmp_path / "from folders")


def same(corpus: Corpus, unpacked: Corpus) -> bool:
    return corpus.fingerprint == unpacked.fingerprint and contents(corpus) == contents(unpacked)


def test_a_tar_of_class_tars_is_as_its_unpacked_folders(classes, unpacked, tmp_path):
    """ImageNet's own form: images lie two tars deep, and are read at their place in the outer one."""
    inner = {f"{folder.name}.tar": packed(folder) for folder in sorted(classes.iterdir())}
    (tmp_path / "src").mkdir()
    write_tar(tmp_path / "src" / "ILSVRC2012_img_train.tar", inner)
    corpus = Corpus.build(tmp_path / "src", tmp_path / "i")
    assert corpus.facts["source"]["kind"] == "tar of tars"
    assert same(corpus, unpacked)
    assert same(Corpus.build(tmp_path / "src" / "ILSVRC2012_img_train.tar", tmp_path / "j"), unpacked)
    write_tar(tmp_path / "src" / "ILSVRC2012_img_train.tar", {f"winter21_whole/{k}": v for k, v in inner.items()})
    assert same(Corpus.build(tmp_path / "src", tmp_path / "k"), unpacked)


def test_a_tar_for_each_class_is_as_its_unpacked_folders(classes, unpacked, tmp_path):
    (tmp_path / "src").mkdir()
    for folder in classes.iterdir():
        (tmp_path / "src" / f"{folder.name}.tar").write_bytes(packed(folder, prefix="./"))
    (tmp_path / "src" / "README").write_text("")
    corpus = Corpus.build(tmp_path / "src", tmp_path / "i")
    assert corpus.facts["source"]["kind"] == "class tars"
    assert same(corpus, unpacked)
    assert same(Corpus.build(str(tmp_path / "src" / "n0*.tar"), tmp_path / "j"), unpacked)


@pytest.mark.parametrize("parts", [1, 2])
def test_class_folders_in_tars_are_as_unpacked(classes, unpacked, tmp_path, parts):
    (tmp_path / "src").mkdir()
    files = sorted(path for path in classes.rglob("*.jpg"))
    for k in range(parts):
        members = {path.relative_to(classes).as_posix(): path.read_bytes() for path in files[k::parts]}
        write_tar(tmp_path / "src" / f"images-{k}.tar", {**members, "README.md": b"", f"{k}/notes.txt": b""})
    corpus = Corpus.build(tmp_path / "src", tmp_path / "i")
    assert corpus.facts["source"]["kind"] == "class folders in tars"
    assert same(corpus, unpacked)
    assert corpus.facts["other_files"] == {".txt": parts, ".md": parts}


def test_splits_in_a_tar_are_asked_about_and_chosen(classes, unpacked, tmp_path):
    write_tar(
        tmp_path / "all.tar",
        {f"{top}/{p.relative_to(classes)}": p.read_bytes() for top in ("train", "val") for p in classes.rglob("*.jpg")},
    )
    assert "the first folders in" in doubts(tmp_path / "all.tar")
    assert same(Corpus.build(tmp_path / "all.tar", tmp_path / "i", split="train"), unpacked)


def test_folders_that_wrap_all_of_a_tar(classes, unpacked, tmp_path):
    for name, top in (("one", "set"), ("two", "set/train")):
        members = {f"{top}/{p.relative_to(classes)}": p.read_bytes() for p in classes.rglob("*.jpg")}
        write_tar(tmp_path / f"{name}.tar", members)
        with pytest.raises(UserError, match=r"'set', are called or nested like parts of a data set.* split='set'"):
            Corpus.build(tmp_path / f"{name}.tar", tmp_path / "i")
    assert same(Corpus.build(tmp_path / "one.tar", tmp_path / "j", split="set"), unpacked)
    assert same(Corpus.build(tmp_path / "two.tar", tmp_path / "k", split="train"), unpacked)


def test_what_is_odd_in_class_tars_is_counted(tmp_path):
    (tmp_path / "src").mkdir()
    odd = {"../up.jpg": jpeg(2), "/abs/a.jpg": jpeg(3), "._a.jpg": b"x", "notes.txt": b"", "no_suffix": jpeg(4)}
    write_tar(tmp_path / "src" / "cat.tar", {"a.jpg": jpeg(1), "broken.jpg": b"<html>", **odd, "caf\udce9.jpg": b""})
    write_tar(tmp_path / "src" / "dog.tar", {"a.jpg": jpeg(9)})
    corpus = Corpus.build(tmp_path / "src", tmp_path / "i", max_skipped=0.5)
    assert set(contents(corpus)) == {"cat/a.jpg", "cat/abs/a.jpg", "cat/no_suffix", "dog/a.jpg"}
    assert [entry["key"] for entry in corpus.facts["skipped"]["files"]] == ["cat/broken.jpg"]
    assert corpus.facts["other_files"] == {"._*": 1, ".txt": 1}
    warned = {kind: warning["examples"] for kind, warning in corpus.facts["warnings"].items()}
    assert warned == {
        "names in tars that lead out of their folder (left out)": ["../up.jpg"],
        "names in tars that are not UTF-8": ["caf\\udce9.jpg"],
    }


def test_numbered_tars_without_their_table_are_no_classes(tmp_path):
    (tmp_path / "src").mkdir()
    for k in range(3):
        write_tar(tmp_path / "src" / f"images-{k:03d}.tar", {f"{k}.jpg": jpeg(k)})
    with pytest.raises(UserError, match=r"3 tars, from images-000.tar, are numbered like shards; each would be"):
        Corpus.build(tmp_path / "src", tmp_path / "i")


def test_tars_beside_class_folders_are_asked_about(classes):
    write_tar(classes / "more.tar", {"a.jpg": jpeg(1)})
    assert "1 tars beside the class folders of" in doubts(classes)


def shards(folder: Path, samples: dict[str, dict[str, bytes]], count: int = 2) -> Path:
    """Samples as KEY -> suffix -> bytes, in shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        keys = sorted(samples)[k::count]
        members = {f"{key}.{suffix}": data for key in keys for suffix, data in sorted(samples[key].items())}
        write_tar(folder / f"shard-{k:06d}.tar", members)
    return folder


def labels_of(corpus: Corpus) -> dict[str, list[str]]:
    return {key: names for key, (names, _) in contents(corpus).items()}


@pytest.mark.parametrize(
    ("suffix", "values", "options", "expected"),
    [
        ("cls", ["0", "1\n", "1"], {}, [["0"], ["1"], ["1"]]),
        ("cls", ["0", "1", "-1"], {}, [["0"], ["1"], []]),
        ("cls", ["[0, 1]", "[]", "1"], {}, [["0", "1"], [], ["1"]]),
        ("json", ['{"label": 3}', '{"label": 3.0}', '{"label": "cat"}'], {}, [["3"], ["3"], ["cat"]]),
        ("json", ['{"labels": ["cat", "pet"]}', '{"labels": []}', '{"x": 1}'], {}, [["cat", "pet"], [], []]),
        ("json", ['{"a": "x", "label": 1}', '{"a": "y"}', "{}"], {"label_column": "a"}, [["x"], ["y"], []]),
        ("txt", ["cat\n", "dog\r\ncat", ""], {}, [["cat"], ["cat", "dog"], []]),
    ],
)
def test_webdataset_labels(tmp_path, suffix, values, options, expected):
    samples = {f"{k:04d}": {"jpg": jpeg(k), suffix: value.encode()} for k, value in enumerate(values)}
    corpus = Corpus.build(shards(tmp_path / "src", samples), tmp_path / "i", yes=True, **options)
    assert corpus.facts["source"]["kind"] == "webdataset"
    assert labels_of(corpus) == {f"{k:04d}.jpg": names for k, names in enumerate(expected)}
    assert all(data == jpeg(int(key[:4])) for key, (_, data) in contents(corpus).items())


def test_webdataset_class_names(tmp_path):
    samples = {f"{k:04d}": {"jpg": jpeg(k), "cls": str(k % 3).encode()} for k in range(6)}
    src = shards(tmp_path / "src", samples)
    (src / "classnames.txt").write_text("cat\ndog\nwolf\n\n")
    assert Corpus.build(src, tmp_path / "i").label_space.ids == ("cat", "dog", "wolf")
    for text, name in (('["a", "b", "c"]', "list.json"), ('{"0": "a", "1": "b", "2": "c"}', "map.json")):
        (tmp_path / name).write_text(text)
        corpus = Corpus.build(src, tmp_path / name[:3], class_names=tmp_path / name)
        assert labels_of(corpus)["0004.jpg"] == ["b"]
    (tmp_path / "short.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"shard-000000.tar: 0002.cls: label 2 is none of the 2 classes of .*short.txt"):
        open_source(src, class_names=tmp_path / "short.txt")
    for name, text in (("bad.json", '{"0": "a", "5": "b"}'), ("blank.txt", ""), ("gone.txt", None)):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=rf"class names .*{name}"):
            open_source(src, class_names=tmp_path / name)


def test_webdataset_by_a_pattern_and_with_splits(tmp_path):
    for split, count in (("train", 4), ("validation", 2)):
        samples = {f"{split}{k}": {"jpg": jpeg(k), "cls": str(k % 2).encode()} for k in range(count)}
        for path in shards(tmp_path / "new", samples).iterdir():
            path.rename(path.parent.parent / f"imagenet-{split}-{path.name[6:]}")
    assert "the 4 tars are of the splits 'train', 'validation'; all would be read" in doubts(tmp_path)
    by_split = Corpus.build(tmp_path, tmp_path / "out" / "i", split="train")
    by_braces = Corpus.build(f"{tmp_path}/imagenet-train-{{000000..000001}}.tar", tmp_path / "out" / "j")
    by_glob = Corpus.build(f"{tmp_path}/imagenet-train-*.tar", tmp_path / "out" / "k")
    assert len(by_split) == 4
    assert by_split.fingerprint == by_braces.fingerprint == by_glob.fingerprint
    with pytest.raises(UserError, match=r"none of the 4 tars is of split 'test'; splits in their names are 'train'"):
        open_source(tmp_path, split="test")
    (tmp_path / "folders").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "folders" / split).mkdir()
        for path in tmp_path.glob(f"imagenet-{split}-*.tar"):
            path.rename(tmp_path / "folders" / split / path.name[-10:])
    assert "are of the splits 'train', 'validation'" in doubts(tmp_path / "folders")
    again = Corpus.build(tmp_path / "folders", tmp_path / "out" / "l", split="train")
    assert again.fingerprint == by_split.fingerprint


def test_webdataset_shards_that_number_their_samples_alike(tmp_path):
    for k in range(2):
        write_tar(tmp_path / f"s-{k}.tar", {"0.jpg": jpeg(k), "0.cls": b"%d" % k})
    corpus = Corpus.build(str(tmp_path / "s-*.tar"), tmp_path / "i")
    assert labels_of(corpus) == {"s-0/0.jpg": ["0"], "s-1/0.jpg": ["1"]}


def test_our_own_shards_are_read_as_any(tmp_path):
    with ShardWriter(tmp_path / "s", images_per_shard=2) as writer:
        for k in range(5):
            writer.write(f"train/{k:03d}", jpeg(k), {"labels": [f"c{k % 2}"]})
    corpus = Corpus.build(tmp_path / "s", tmp_path / "i")
    assert labels_of(corpus) == {f"train/{k:03d}.jpg": [f"c{k % 2}"] for k in range(5)}


def test_odd_samples_are_counted(tmp_path):
    samples = {f"{k:04d}": {"jpg": jpeg(k), "cls": str(k % 2).encode()} for k in range(6)}
    samples |= {
        "b1": {"cls": b"1"},
        "b2": {"jpg": jpeg(7)},
        "b3": {"jpg": jpeg(8), "json": b"{broken"},
        "b4": {"seg.png": b"x", "jpg": jpeg(9), "cls": b"1"},
        "b5": {"jpg": jpeg(10), "png": b"x", "cls": b"0"},
        "._a": {"jpg": b"x"},
        "__meta__": {"txt": b"x"},
    }
    corpus = Corpus.build(shards(tmp_path / "src", samples, 1), tmp_path / "i")
    found = labels_of(corpus)
    assert (len(found), found["b2.jpg"], found["b3.jpg"], found["b4.jpg"]) == (10, [], [], ["1"])
    assert {kind: w["examples"] for kind, w in corpus.facts["warnings"].items()} == {
        "label files that cannot be read": ["b3.json"],
        "samples with several images (the first is taken)": ["b5.jpg"],
        "samples without an image (left out)": ["b1.cls"],
    }
    assert corpus.facts["other_files"] == {"._*": 1, ".txt": 1}


def test_samples_whose_files_are_not_neighbours(tmp_path):
    """WebDataset's readers would give halves of samples."""
    names = [f"{k}.{suffix}" for suffix in ("cls", "jpg") for k in range(3)]
    write_tar(tmp_path / "a.tar", {name: jpeg(1) if name.endswith("jpg") else b"1" for name in names})
    with pytest.raises(UserError, match=r"in .*a.tar the files of a sample are not neighbours"):
        open_source(tmp_path / "a.tar")


def test_labels_that_are_not_there_or_no_labels(tmp_path):
    samples = {f"{k:04d}": {"jpg": jpeg(1), "json": json.dumps({"a": k, "d": {}}).encode()} for k in range(30)}
    src = shards(tmp_path / "src", samples)
    with pytest.raises(UserError, match=r"none of the 30 images of .* has a label; pass labels, or label_column"):
        open_source(src)
    with pytest.raises(UserError, match=r"no sample has label_column 'b'; the JSON has 'a', 'd'; name one"):
        open_source(src, label_column="b")
    with pytest.raises(UserError, match=r"shard-000000.tar: 0000.json: the label is {}; labels are numbers"):
        open_source(src, label_column="d")
    assert "30 images have 30 different labels, such as '0'" in doubts(src, label_column="a")


def test_most_images_without_labels_are_asked_about_before_they_are_decoded(tmp_path):
    samples = {f"{k}": {"jpg": b"not decoded", **({"cls": b"%d" % (k % 2)} if k < 4 else {})} for k in range(9)}
    with pytest.raises(UserError, match=r"5 of 9 images have no label"):
        Corpus.build(shards(tmp_path / "src", samples, 1), tmp_path / "i")


def test_a_hierarchy_is_held_to_before_anything_is_decoded(tmp_path):
    samples = {f"{k}": {"jpg": b"not decoded", "txt": name.encode()} for k, name in enumerate(["cat", "cow"])}
    src = shards(tmp_path / "src", samples)
    (src / "hierarchy.json").write_text(json.dumps({"nodes": {"pet": {}, "cat": {"parents": ["pet"]}}}))
    with pytest.raises(UserError, match="label 'cow' is not in the label space"):
        open_source(src)


def test_options_that_mean_nothing_are_refused(classes, tmp_path):
    (tmp_path / "src").mkdir()
    for folder in classes.iterdir():
        (tmp_path / "src" / f"{folder.name}.tar").write_bytes(packed(folder))
    for option in ("label_column", "class_names", "file_column"):
        for source in (tmp_path / "src", classes):
            with pytest.raises(UserError, match=rf"^{option} 'x' (needs|is for) a table of labels"):
                open_source(source, **{option: "x"})


@pytest.mark.parametrize("members", [{}, {"a.txt": b"x"}])
def test_tars_of_nothing(tmp_path, members):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=r"a.tar holds no (files|images)"):
        open_source(tmp_path / "a.tar")


def test_a_missing_file_and_a_file_of_another_kind(tmp_path):
    with pytest.raises(UserError, match="source folder not found"):
        open_source(tmp_path / "a.tar")
    write_tar(tmp_path / "a.tar", {"a.jpg": jpeg(1)})
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(UserError, match=r"names 2 files that are not all tars, or all Parquet files with images"):
        open_source(f"{tmp_path}/*.*")


def test_a_tar_whose_name_is_not_utf8(tmp_path):
    path = Path(f"{tmp_path}/caf\udce9.tar")
    write_tar(path, {"a/a.jpg": jpeg(1)})
    for source in (path, tmp_path, str(tmp_path / "*.tar")):
        with pytest.raises(UserError, match=r"the path '.*caf\\udce9.tar' is not UTF-8; rename"):
            open_source(source)


@pytest.mark.parametrize(
    ("suffix", "value"),
    [
        ("json", b'{"label": "\\ud800"}'),
        ("json", b"[" * 100_000),
        ("json", b'{"label": 1' + b"0" * 5000 + b"}"),
        ("cls", b"1" * 5000),
        ("txt", b"\xff\xfe\x00"),
        ("json", b"{" + b" " * 2_000_000 + b"}"),
    ],
)
def test_absurd_labels_are_a_clear_error_or_counted(tmp_path, suffix, value):
    """One of them in 300 million must not be a crash."""
    samples = {"a": {"jpg": jpeg(1), "txt": b"cat"}, "b": {"jpg": jpeg(2), suffix: value}}
    if suffix == "cls":
        assert "1" * 5000 in open_source(shards(tmp_path / "src", samples)).label_space  # a name, if a strange one
    elif b"ud800" in value:
        with pytest.raises(UserError, match=r"the label '\\ud800' is no Unicode text"):
            open_source(shards(tmp_path / "src", samples))
    else:
        source = open_source(shards(tmp_path / "src", samples))
        assert source.notes.warnings == {"label files that cannot be read": (1, [f"b.{suffix}"])}


def test_compressed_tars_in_a_tar_are_not_passed_over(tmp_path):
    write_tar(tmp_path / "a.tar", {"n1.tar.gz": b"x", "n2.tar.gz": b"x", "README": b""})
    with pytest.raises(
        UserError, match=r"a.tar holds 'n1.tar.gz', which is compressed.*; unpack what it holds: tar xf "
    ):
        open_source(tmp_path / "a.tar")


@pytest.mark.parametrize("value", [None, float("nan"), -1, "-1", [float("nan")], []])
def test_what_is_no_label(value):
    """JSON from pandas says NaN where a label is missing; it became the class "nan"."""
    assert ClassNames(None).labels(value, where="a.json") == ()
    assert ClassNames(["cat"]).labels(value, where="a.json") == ()
