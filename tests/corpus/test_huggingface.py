"""Hugging Face's Parquet files, written as its ``datasets`` writes them: schema, metadata and row groups."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaleprior.corpus import Corpus, open_source
from scaleprior.errors import UserError
from tests.corpus.pictures import jpeg
from tests.corpus.test_importers import contents

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, images: list[Any], labels: list[Any], names: Any = None, **columns: list[Any]) -> Path:
    """A file as ``Dataset.to_parquet`` gives it; ``names`` are the ClassLabel's, or a feature."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = IMAGE if not isinstance(images[0], bytes) else pa.binary()
    table = pa.table({"image": pa.array(images, kind), "label": labels, **columns})
    feature = {"names": names, "_type": "ClassLabel"} if isinstance(names, list) else names
    if feature:
        features = {"image": {"_type": "Image"}, "label": feature}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)
    return path


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": jpeg(start + k), "path": f"{k}.jpg"} for k in range(count)]


def labels_of(corpus: Corpus) -> dict[str, list[str]]:
    return {key: names for key, (names, _) in contents(corpus).items()}


def test_a_repository_as_it_is_cloned(tmp_path):
    src = tmp_path / "src"
    (src / ".git").mkdir(parents=True)
    (src / "README.md").write_text("")
    names = ["cat", "dog", "wolf"]
    write(src / "data" / "train-00000-of-00002.parquet", rows(5), [0, 1, 0, 1, 2], names)
    write(src / "data" / "train-00001-of-00002.parquet", rows(2, 5), [2, -1], names)
    write(src / "data" / "validation-00000-of-00001.parquet", rows(1, 9), [0], names)
    with pytest.raises(UserError, match=r"the 3 Parquet files are of the splits 'train', 'validation'; all"):
        Corpus.build(src, tmp_path / "i")
    corpus = Corpus.build(src, tmp_path / "i", split="train")
    files = ["train-00000-of-00002"] * 5 + ["train-00001-of-00002"] * 2
    keys = [f"{file}/{row:08d}" for file, row in zip(files, [*range(5), *range(2)])]
    labels = [["cat"], ["dog"], ["cat"], ["dog"], ["wolf"], ["wolf"], []]
    assert contents(corpus) == {key: (label, jpeg(k)) for k, (key, label) in enumerate(zip(keys, labels))}
    assert corpus.facts["source"]["kind"] == "huggingface"
    assert os.listdir(tmp_path / "i" / "shards") == ["shard-000000.tar"]
    # the index needs the Parquet files no more, and may move
    (tmp_path / "i").rename(tmp_path / "moved")
    for path in src.rglob("*.parquet"):
        path.unlink()
    assert len(contents(Corpus.open(tmp_path / "moved"))) == 7


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([0, 1, 1], None, [["0"], ["1"], ["1"]]),
        (["cat", "dog", None], None, [["cat"], ["dog"], []]),
        ([["cat", "pet"], ["dog"], []], None, [["cat", "pet"], ["dog"], []]),
        ([[0, 1], [1], [0]], {"feature": {"names": ["a", "b"]}, "length": -1}, [["a", "b"], ["b"], ["a"]]),
        ([[0, 1], [1], [0]], {"feature": [{"names": ["a", "b"]}]}, [["a", "b"], ["b"], ["a"]]),
    ],
)
@pytest.mark.parametrize("struct", [True, False])
def test_labels_and_images_of_all_forms(tmp_path, labels, names, expected, struct):
    images = rows(3) if struct else [jpeg(k) for k in range(3)]
    path = write(tmp_path / "some.name.parquet", images, labels, names)
    corpus = Corpus.build(path, tmp_path / "i", yes=True)
    assert contents(corpus) == {f"some.name/{k:08d}": (expected[k], jpeg(k)) for k in range(3)}


def test_columns_class_names_and_patterns(tmp_path):
    for k in range(2):
        write(tmp_path / f"{k}.parquet", rows(2, 2 * k), [0, 1], thumb=[jpeg(9)] * 2, fine=[1, 0], text=["a b", "c d"])
    assert labels_of(Corpus.build(tmp_path / "0.parquet", tmp_path / "out" / "a", label_column="text", yes=True)) == {
        "0/00000000": ["a b"],
        "0/00000001": ["c d"],
    }
    (tmp_path / "names.txt").write_text("x\ny\n")
    corpus = Corpus.build(
        f"{tmp_path}/{{0..1}}.parquet", tmp_path / "out" / "b", label_column="fine", class_names=tmp_path / "names.txt"
    )
    assert list(labels_of(corpus).values()).count(["y"]) == 2
    assert len(corpus) == 4
    with pytest.raises(UserError, match=r"has no column 'nope'; its columns are 'image', 'label', 'thumb'"):
        open_source(tmp_path / "0.parquet", label_column="nope")
    pq.write_table(pa.table({"image": pa.array(rows(1), IMAGE), "x": [1]}), tmp_path / "9.parquet")
    with pytest.raises(UserError, match=r"has no column of labels that is called as usual; its columns are"):
        open_source(tmp_path / "9.parquet")
    by_column = Corpus.build(tmp_path / "0.parquet", tmp_path / "out" / "c", file_column="image", yes=True)
    assert contents(by_column)["0/00000001"][1] == jpeg(1)


def test_shards_are_complete_before_their_rows_are_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "scaleprior.corpus.shards.ShardWriter.__init__.__kwdefaults__", {"prefix": "s", "images_per_shard": 2}
    )
    images = [
        *rows(4),
        {"bytes": jpeg(4)[:-40], "path": None},
        {"bytes": b"text", "path": None},
        {"bytes": None, "path": None},
    ]
    path = write(tmp_path / "a.parquet", images, [k % 2 for k in range(7)])
    corpus = Corpus.build(path, tmp_path / "i", max_skipped=0.5)
    assert set(contents(corpus)) == {f"a/{k:08d}" for k in range(4)}
    assert {entry["key"] for entry in corpus.facts["skipped"]["files"]} == {"a/00000004", "a/00000005"}
    assert corpus.facts["warnings"] == {
        "rows without an image (left out)": {"count": 1, "examples": ["row 6 of a.parquet"]}
    }
    assert len(os.listdir(tmp_path / "i" / "shards")) == 3


def test_what_it_costs_is_said_and_does_not_begin_without_space(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "a.parquet", rows(3), [0, 1, 0])
    Corpus.build(path, tmp_path / "i")
    assert "images in Parquet cannot be read one by one: 3 images, 9.9" in caplog.text
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(100, 95, 5))
    with pytest.raises(UserError, match=r"\(3 images, 9.* kB\) are to be written beside .* has 5 bytes free"):
        Corpus.build(path, tmp_path / "j")
    assert not (tmp_path / "j").exists()


def test_images_that_are_only_paths_are_refused(tmp_path):
    images = [*rows(1), {"bytes": None, "path": "/home/me/1.jpg"}]
    path = write(tmp_path / "a.parquet", images, [0, 1])
    with pytest.raises(UserError, match=r"row 1 of .*a.parquet holds no image but the path '/home/me/1.jpg'"):
        Corpus.build(path, tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_bad_labels_show_in_the_message_and_no_message_shows_an_image(tmp_path):
    path = write(tmp_path / "a.parquet", rows(2), [0, 7], ["cat", "dog"])
    with pytest.raises(UserError, match=r"a.parquet, row 1, column 'label': label 7 is none of the 2 classes"):
        open_source(path)
    path = write(tmp_path / "b.parquet", rows(2), [jpeg(1, size=64), jpeg(2, size=64)])
    with pytest.raises(UserError, match=r"row 0, column 'label': the label is b'.*bytes\)") as e:
        open_source(path)
    assert len(str(e.value)) < 500
    with pytest.raises(UserError, match=r"images of .* lie in Parquet files; index them with Corpus.build"):
        next(open_source(write(tmp_path / "c.parquet", rows(2), [0, 1])).rows())


def test_a_table_in_parquet_is_no_images(tmp_path):
    """A column of file names and one of labels: an image's bytes are elsewhere."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "a.jpg").write_bytes(jpeg(1))
    pq.write_table(pa.table({"file": ["a.jpg"], "label": ["cat"], "md5": [b"\x01\x02"]}), src / "t.parquet")
    assert labels_of(Corpus.build(src / "t.parquet", tmp_path / "i", yes=True)) == {"a.jpg": ["cat"]}


def test_files_that_do_not_fit_together_or_are_damaged(tmp_path):
    write(tmp_path / "0.parquet", rows(2), [0, 1])
    other = write(tmp_path / "1.parquet", rows(2), ["a", "b"])
    with pytest.raises(UserError, match=r"column 'label' of .*1.parquet is string, in .*0.parquet it is int64"):
        open_source(tmp_path)
    pq.write_table(pa.table({"image": pa.array(rows(2), IMAGE)}), other)
    with pytest.raises(UserError, match=r"column 'label' of .*1.parquet is not there"):
        open_source(tmp_path)
    other.write_bytes(other.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"1.parquet cannot be read: .*; fetch it again"):
        open_source(tmp_path)
    whole = write(other, rows(2), [0, 1]).read_bytes()
    other.write_bytes(whole[:4] + b"\xff" * 300 + whole[304:])  # pages, behind a footer that is as it was
    with pytest.raises(UserError, match=r"1.parquet cannot be read"):
        Corpus.build(tmp_path, tmp_path / "out" / "i")
    assert not (tmp_path / "out" / "i").exists()


def test_a_download_that_is_not_complete_is_asked_about(tmp_path):
    for k in (0, 2):
        write(tmp_path / "src" / "data" / f"train-0000{k}-of-00003.parquet", rows(2, 2 * k), [0, 1], ["cat", "dog"])
    with pytest.raises(UserError, match=r"1 numbered file is not there, such as 'train-00001-of-00003.parquet'"):
        Corpus.build(tmp_path / "src", tmp_path / "i")
    chosen = f"{tmp_path}/src/data/train-*.parquet"  # these were meant
    assert len(Corpus.build(chosen, tmp_path / "i")) == 4
    write(tmp_path / "src" / "data" / "train-00001-of-00003.parquet", rows(2, 2), [0, 1], ["cat", "dog"])
    write(tmp_path / "src" / "data" / "test-00001-of-00002.parquet", rows(2, 2), [0, 1], ["cat", "dog"])
    assert len(Corpus.build(tmp_path / "src", tmp_path / "j", split="train")) == 6


def test_what_git_lfs_leaves_is_called_by_its_name(tmp_path):
    (tmp_path / "src" / "data").mkdir(parents=True)
    (tmp_path / "src" / "data" / "train-00000-of-00001.parquet").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(UserError, match=r"parquet is a Git LFS pointer, not the file itself; fetch it: git lfs pull"):
        open_source(tmp_path / "src")
