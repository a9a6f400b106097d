"""Building indexes and cutting fractions: exact nested prefixes, whatever the order of the input."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from scaleprior.corpus import (
    Corpus,
    ImageRow,
    LabelSpace,
    build_index,
    hash64,
    index as index_module,
    verification as verification_module,
)
from scaleprior.errors import FailureError, UserError
from tests.corpus.pictures import class_folders, jpeg, plain_rows

SPACE = LabelSpace([("top", "top", []), ("a", "a", ["top"]), ("b", "b", ["top"])])
FIXED = {"label_space": SPACE, "root": "/nowhere", "source": {"kind": "test"}}

parts = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda part: part not in (".", "..")
)
keys = st.lists(st.lists(parts, min_size=1, max_size=2).map("/".join), min_size=1, max_size=40, unique=True)


@settings(max_examples=15, deadline=None)
@given(keys=keys, salt=st.sampled_from(["", "x"]), data=st.data())
def test_fractions_are_exact_nested_prefixes_of_any_input_order(keys, salt, data):
    rows = plain_rows(keys, [data.draw(st.sampled_from([("a",), ("b", "a"), ()])) for _ in keys])
    shuffled = data.draw(st.permutations(rows))
    with tempfile.TemporaryDirectory() as folder:
        first = build_index(rows, Path(folder) / "first", verify=False, salt=salt, **FIXED)
        second = build_index(iter(shuffled), Path(folder) / "second", verify=False, salt=salt, **FIXED)
        assert first.fingerprint == second.fingerprint
        expected = sorted(keys, key=lambda key: (int(hash64([key], salt)[0]), key))
        wanted = {row.key: sorted(SPACE.index(label) for label in row.labels) for row in rows}
        for count in {1, data.draw(st.integers(1, len(keys))), len(keys)}:
            fraction = second.fraction(images=count)
            assert len(fraction) == fraction.images == count
            assert fraction.keys() == expected[:count]
            labels, offsets = fraction.labels()
            found = [labels[start:end].tolist() for start, end in itertools.pairwise(offsets)]
            assert found == [wanted[k] for k in expected[:count]]
            assert fraction.hashes().tolist() == hash64(expected[:count], salt).tolist()


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Corpus:
    """1,000 rows in several batches and row groups, in random order."""
    rows = plain_rows([f"{k:04d}.jpg" for k in range(1000)], [("a",) if k % 3 else ("b",) for k in range(1000)])
    random.Random(0).shuffle(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_GROUP_ROWS", 64)
        patch.setattr(verification_module, "_BATCH_ROWS", 300)
        return build_index(rows, tmp_path_factory.mktemp("many") / "index", verify=False, name="many", **FIXED)


def test_small_row_groups_change_nothing(many, tmp_path):
    rows = plain_rows([f"{k:04d}.jpg" for k in range(1000)], [("a",) if k % 3 else ("b",) for k in range(1000)])
    whole = build_index(rows, tmp_path / "whole", verify=False, **FIXED)
    assert pq.read_metadata(many.parquet).num_row_groups == 16
    assert whole.fingerprint == many.fingerprint
    assert whole.fraction(images=333).keys() == many.fraction(images=333).keys()
    assert sorted(os.listdir(tmp_path / "whole")) == ["corpus.json", "index.parquet", "label_space.json"]


def test_a_prefix_reads_only_its_row_groups(many, monkeypatch):
    seen = []
    real = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", lambda s, g, **k: seen.append(list(g)) or real(s, g, **k))
    assert len(many.fraction(images=65).keys()) == 65
    assert seen == [[0, 1]]


def test_opening_reads_no_rows(many, monkeypatch):
    monkeypatch.setattr(pq.ParquetFile, "__init__", lambda *_, **__: pytest.fail("rows were opened"))
    corpus = Corpus.open(many.path)
    assert len(corpus) == 1000
    assert corpus.fraction(ratio=0.5).images == 500


@pytest.mark.parametrize(("ratio", "images"), [(0.29, 290), (0.1, 100), (1.0, 1000), (0.0014, 1), (0.0016, 2)])
def test_ratio_is_rounded_to_the_nearest_image(many, ratio, images):
    fraction = many.fraction(ratio=ratio)
    assert fraction.images == images
    assert fraction.ratio == images / 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 1001}, "1001 images does not fit corpus 'many' of 1000 images; ask for 1 to 1000"),
        ({"images": 0}, "0 images does not fit"),
        ({"images": 1.5}, "1.5 images does not fit"),
        ({"images": True}, "True images does not fit"),
        ({"ratio": 0.0}, "ratio 0.0 of 'many'"),
        ({"ratio": 1.01}, "ratio 1.01 of 'many'"),
        ({"ratio": float("nan")}, "ratio nan of 'many'"),
        ({"ratio": 0.0001}, "ratio 0.0001 does not fit"),
        ({}, "exactly one"),
        ({"images": 1, "ratio": 0.5}, "exactly one"),
    ],
)
def test_impossible_fractions(many, arguments, message):
    with pytest.raises(UserError, match=message):
        many.fraction(**arguments)


def test_saved_fraction_opens_as_a_corpus_with_the_same_identity(many, tmp_path):
    fraction = many.fraction(images=200)
    fraction.save(tmp_path / "f.parquet")
    again = Corpus.open(tmp_path / "f.parquet")
    assert (len(again), again.fingerprint, again.name) == (200, fraction.fingerprint, "many")
    assert again.label_space.fingerprint == SPACE.fingerprint
    assert again.fraction(images=50).keys() == many.fraction(images=50).keys()
    assert again.fraction(images=50).fingerprint == many.fraction(images=50).fingerprint
    assert many.fraction(images=1000).fingerprint == many.fingerprint
    again.fraction(images=100).save(tmp_path / "g.parquet")
    assert Corpus.open(tmp_path / "g.parquet").fingerprint == many.fraction(images=100).fingerprint


def test_fingerprint_sees_labels_salt_and_sizes(tmp_path):
    rows = plain_rows(["x", "y"])
    variants = [
        (rows, {}),
        (plain_rows(["x", "y"], [("a",), ("b",)]), {}),
        (rows, {"salt": "s"}),
        ([row._replace(size=9) for row in rows], {}),
        (plain_rows(["x", "z"]), {}),
    ]
    prints = {
        build_index(r, tmp_path / str(k), verify=False, **o, **FIXED).fingerprint for k, (r, o) in enumerate(variants)
    }
    assert len(prints) == len(variants)


def test_duplicate_keys_are_named_even_across_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "_GROUP_ROWS", 1)
    with pytest.raises(UserError, match=r"duplicate key 'b.jpg'"):
        build_index(plain_rows(["a.jpg", "b.jpg", "c.jpg", "b.jpg"]), tmp_path / "i", verify=False, **FIXED)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("key", ["/abs.jpg", "../up.jpg", "a//b.jpg", "", "./a.jpg", "a\0b", "bad\udc80.jpg"])
def test_keys_are_relative_paths(tmp_path, key):
    with pytest.raises(UserError, match=r"is not a relative path|is not UTF-8"):
        build_index(plain_rows([key]), tmp_path / "i", verify=False, **FIXED)


def test_foreign_label_names_the_image(tmp_path):
    with pytest.raises(UserError, match=r"image 'x.jpg': label 'zebra' is not in the label space"):
        build_index(plain_rows(["x.jpg"], [("zebra",)]), tmp_path / "i", verify=False, **FIXED)
    assert os.listdir(tmp_path) == []


def test_no_rows(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        build_index([], tmp_path / "i", **FIXED)


def folder_rows(root: Path) -> list[ImageRow]:
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return [ImageRow(p, ("a",), "", p, 0, (root / p).stat().st_size) for p in paths]


def test_unusable_images_are_skipped_counted_and_listed(tmp_path):
    root = class_folders(tmp_path / "src", {"a": 38})
    (root / "a" / "cut.jpg").write_bytes(jpeg(99)[:-40])
    (root / "a" / "note.txt").write_text("hello")
    corpus = build_index(folder_rows(root), tmp_path / "i", **{**FIXED, "root": root})
    skipped = corpus.facts["skipped"]
    assert len(corpus) == 38
    assert skipped["count"] == 2
    assert {entry["key"] for entry in skipped["files"]} == {"a/cut.jpg", "a/note.txt"}
    assert skipped["reasons"] == {"corrupt or truncated JPEG": 1, "not an image of a known format": 1}
    assert not {"a/cut.jpg", "a/note.txt"} & set(corpus.fraction(ratio=1.0).keys())
    with pytest.raises(UserError, match=r"2 of 40 images \(5.0%\) cannot be used, accepted are 4.0%.*a/cut.jpg"):
        build_index(folder_rows(root), tmp_path / "j", max_skipped=0.04, **{**FIXED, "root": root})
    assert sorted(os.listdir(tmp_path)) == ["i", "src"]


def test_vanished_image_is_skipped_as_unreadable(tmp_path):
    root = class_folders(tmp_path / "src", {"a": 3})
    rows = [*folder_rows(root), ImageRow("a/gone.jpg", ("a",), "", "a/gone.jpg", 0, 10)]
    corpus = build_index(rows, tmp_path / "i", max_skipped=0.5, **{**FIXED, "root": root})
    assert corpus.facts["skipped"]["reasons"] == {"unreadable": 1}


def test_reading_gives_the_bytes_and_pickling_stays_small(tmp_path):
    root = class_folders(tmp_path / "src", {"a": 4, "b": 3})
    corpus = build_index(folder_rows(root), tmp_path / "i", **{**FIXED, "root": root})
    fraction = corpus.fraction(images=7)
    for k, key in enumerate(fraction.keys()):
        assert fraction.read(k) == (root / key).read_bytes()
    copy = pickle.loads(pickle.dumps(fraction))
    assert copy.read(3) == fraction.read(3)
    assert copy.fingerprint == fraction.fingerprint
    assert len(pickle.dumps(fraction)) < 2000
    for bad in (-1, 7):
        with pytest.raises(IndexError, match=f"image {bad} of a fraction of 7"):
            fraction.read(bad)


def test_moved_images_are_found_with_root(tmp_path):
    root = class_folders(tmp_path / "src", {"a": 2})
    build_index(folder_rows(root), tmp_path / "i", **{**FIXED, "root": root})
    root.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"cannot read .*src"):
        Corpus.open(tmp_path / "i").fraction(images=1).read(0)
    assert Corpus.open(tmp_path / "i", root=tmp_path / "moved").fraction(images=1).read(0)[:2] == b"\xff\xd8"


def test_overwriting_must_be_asked_for_and_spares_other_folders(tmp_path):
    out = tmp_path / "i"
    build_index(plain_rows(["x"]), out, verify=False, **FIXED)
    with pytest.raises(UserError, match=r"already holds an index.*overwrite=True"):
        build_index(plain_rows(["y"]), out, verify=False, **FIXED)
    assert build_index(plain_rows(["y"]), out, verify=False, overwrite=True, **FIXED).fraction(images=1).keys() == ["y"]
    with pytest.raises(UserError, match="duplicate key"):
        build_index(plain_rows(["z", "z"]), out, verify=False, overwrite=True, **FIXED)
    assert Corpus.open(out).fraction(images=1).keys() == ["y"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    with pytest.raises(UserError, match="exists and is not"):
        build_index(plain_rows(["y"]), tmp_path / "precious", verify=False, overwrite=True, **FIXED)
    assert sorted(os.listdir(tmp_path)) == ["i", "precious"]


def test_empty_folder_is_a_place_to_build(tmp_path):
    (tmp_path / "i").mkdir()
    assert len(build_index(plain_rows(["x"]), tmp_path / "i", verify=False, **FIXED)) == 1


@pytest.mark.parametrize("call", [1, 2])
def test_disk_full_leaves_nothing(tmp_path, monkeypatch, call):
    """The first Parquet file of a build holds the unsorted rows, the second the index."""
    calls = []
    real = pq.ParquetWriter.close

    def close(self):
        calls.append(1)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        real(self)

    monkeypatch.setattr(pq.ParquetWriter, "close", close)
    with pytest.raises(FailureError, match=r"cannot write .*No space left on device"):
        build_index(plain_rows(["x", "y"]), tmp_path / "i", verify=False, **FIXED)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / ".i.abc.building"
    left.mkdir()
    (left / ".building").touch()
    (left / "index.parquet").write_text("half")
    build_index(plain_rows(["x"]), tmp_path / "i", verify=False, **FIXED)
    assert os.listdir(tmp_path) == ["i"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no corpus index at"), (b"junk", "is not a Parquet file"), ("folder", "corpus index not found")],
)
def test_opening_something_else(tmp_path, content, message):
    path = tmp_path / "x"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Corpus.open(path)


def test_opening_another_schema(tmp_path):
    build_index(plain_rows(["x"]), tmp_path / "i", verify=False, **FIXED)
    text = (tmp_path / "i" / "corpus.json").read_text().replace('"schema": 1', '"schema": 99')
    (tmp_path / "i" / "corpus.json").write_text(text)
    with pytest.raises(UserError, match="index schema 99, this version reads 1"):
        Corpus.open(tmp_path / "i")


def test_index_that_lost_rows_is_noticed(many, tmp_path):
    build_index(plain_rows(["x"]), tmp_path / "i", verify=False, **FIXED)
    text = (tmp_path / "i" / "corpus.json").read_text().replace('"images": 1', '"images": 5')
    (tmp_path / "i" / "corpus.json").write_text(text)
    with pytest.raises(UserError, match=r"holds 1 rows, corpus.json says 5"):
        Corpus.open(tmp_path / "i").fraction(images=3).keys()


def test_sort_spills_below_its_memory_limit(tmp_path):
    """200,000 rows are several times what the sort may hold; the result is the same as in memory."""
    rows = plain_rows([f"folder/{k:032d}.jpg" for k in range(200_000)])
    small = build_index(rows, tmp_path / "small", verify=False, memory_limit="48MB", **FIXED)
    assert np.all(np.diff(small.fraction(ratio=1.0).hashes().astype(np.float64)) >= 0)
    assert len(small) == 200_000


def absent_rows() -> list[ImageRow]:
    present = {"1.jpg": ((), ("a", "b")), "2.jpg": (("a",), ("b",)), "3.jpg": (("b",), ("top", "b")), "4.jpg": ((), ())}
    return [ImageRow(key, labels, "", key, 0, 1, absent) for key, (labels, absent) in present.items()]


def test_absent_labels_are_a_column_that_only_their_indexes_have(tmp_path):
    with_some = build_index(absent_rows(), tmp_path / "some", verify=False, **FIXED)
    fraction = with_some.fraction(ratio=1.0)
    labels, offsets = fraction.absent()
    found = {key: labels[offsets[k] : offsets[k + 1]].tolist() for k, key in enumerate(fraction.keys())}
    # 3.jpg has b, which contradicts both "no b" and "no top"
    assert found == {"1.jpg": [1, 2], "2.jpg": [2], "3.jpg": [], "4.jpg": []}
    assert with_some.facts["absent"] == {"labels": 3, "contradicted": 2}
    assert fraction.has_absent

    rows = [row._replace(absent=()) for row in absent_rows()]
    without = build_index(rows, tmp_path / "none", verify=False, **FIXED)
    assert pq.read_schema(without.parquet).names == index_module.INDEX_SCHEMA.names
    assert "absent" not in without.facts
    empty, offsets = without.fraction(images=3).absent()
    assert (empty.tolist(), offsets.tolist(), without.fraction(images=3).has_absent) == ([], [0, 0, 0, 0], False)
    assert without.fingerprint != with_some.fingerprint


def test_the_fingerprint_is_the_one_of_before_and_sees_absent_labels(tmp_path):
    rows = [row._replace(absent=()) for row in absent_rows()]
    plain = build_index(rows, tmp_path / "plain", verify=False, **FIXED)
    # as the version without absent labels wrote it
    assert plain.fingerprint == "5571c85f31ad6795c91526d4a61a453ed271cbd891ef123e0dc6a44338a2bfd7"
    prints = {plain.fingerprint}
    for k, absent in enumerate([("b",), ("a",), ("a", "b")]):
        changed = [rows[0]._replace(absent=absent), *rows[1:]]
        prints.add(build_index(changed, tmp_path / str(k), verify=False, **FIXED).fingerprint)
    other = [rows[1]._replace(absent=("b",)) if k == 1 else row for k, row in enumerate(rows)]
    prints.add(build_index(reversed(other), tmp_path / "other", verify=False, **FIXED).fingerprint)
    assert len(prints) == 5


def test_a_saved_fraction_keeps_absent_labels(tmp_path):
    corpus = build_index(absent_rows(), tmp_path / "index", verify=False, **FIXED)
    corpus.fraction(images=2).save(tmp_path / "f.parquet")
    saved = Corpus.open(tmp_path / "f.parquet").fraction(images=2)
    for mine, theirs in zip(saved.absent(), corpus.fraction(images=2).absent()):
        assert mine.tolist() == theirs.tolist()
    assert saved.fingerprint == corpus.fraction(images=2).fingerprint


def test_a_foreign_absent_label_names_the_image(tmp_path):
    with pytest.raises(UserError, match=r"image 'x.jpg': label 'cow' is not in the label space"):
        build_index([ImageRow("x.jpg", (), "", "x.jpg", 0, 1, ("cow",))], tmp_path / "i", verify=False, **FIXED)
