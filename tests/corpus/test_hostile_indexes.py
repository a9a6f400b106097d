"""Indexes whose facts, footers or rows are damaged or were made to cost: one line that says so, in bounded memory."""

from __future__ import annotations

import json
import os
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaleprior.corpus import ByteReader, Corpus, LabelSpace
from scaleprior.corpus.integrity import check_rows
from scaleprior.errors import UserError
from tests.corpus.pictures import class_folders


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("built")
    return Corpus.build(class_folders(folder / "src", {"cat": 3, "dog": 3}), folder / "index")


@pytest.fixture
def corpus(built, tmp_path) -> Corpus:
    """A copy of six images' index to damage."""
    return Corpus.open(shutil.copytree(built.path, tmp_path / "index"))


def use_all(corpus: Corpus) -> None:
    """Everything that reads an index."""
    fraction = corpus.fraction(images=min(6, len(corpus)))
    assert len(fraction.keys()) == len(fraction.hashes()) == len(fraction.labels()[1]) - 1 == 6
    fraction.absent()
    fraction.extents()
    fraction.read(0)
    fraction.save(corpus.path.parent / "saved.parquet")
    Corpus.open(corpus.path.parent / "saved.parquet").fraction(images=1).labels()
    corpus.statistics(sample=0)
    check_rows(corpus, remember=False)


WRONG: list[Any] = ["absent", None, 3, -1, 1.5, True, "x", "", "\ud800", "a\0b", [], {}, [[1]], {"a": 1}, 10**30]
FITTING = {  # of WRONG, what a field may be; "absent" for one that older indexes lack
    "name": ["x", "", "a\0b"],
    "salt": ["x", "", "a\0b"],
    "images": [3],
    "root": ["x"],
    "verified": [True],
    "turned": [3, "absent"],
    "columns": [{}, "absent"],
    "warnings": [{}, "absent"],
    "prefix_of": ["absent"],
}


@pytest.mark.parametrize(
    "field",
    [
        *("schema", "name", "salt", "images", "fingerprint", "root", "source", "label_space", "skipped", "verified"),
        *("turned", "columns", "warnings", "prefix_of"),
    ],
)
def test_every_field_of_the_facts_is_looked_at(corpus, field):
    file = corpus.path / "corpus.json"
    for value in WRONG:
        facts = {name: known for name, known in corpus.facts.items() if name != field}
        file.write_text(json.dumps(facts if value == "absent" else {**facts, field: value}))
        if any(value is fit or (value == fit and type(value) is type(fit)) for fit in FITTING.get(field, [])):
            assert Corpus.open(corpus.path).facts.get(field, "absent") == value
        else:
            with pytest.raises(UserError, match=rf"^{corpus.path} .*{field}.*; build the index again$"):
                Corpus.open(corpus.path)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", '{"schema": 1', "[" * 100_000, '{"schema": ' + "9" * 5000 + "}"]
)
def test_facts_that_are_none(corpus, text):
    (corpus.path / "corpus.json").write_text(text)
    with pytest.raises(UserError, match=str(corpus.path)) as caught:
        Corpus.open(corpus.path)
    assert len(str(caught.value)) < 500


def test_a_label_space_of_another_index(corpus):
    LabelSpace.flat(["one"]).save(corpus.path / "label_space.json")
    with pytest.raises(UserError, match=r"the label space of .* has 1 nodes, indexed were 2"):
        _ = corpus.label_space


def written(corpus: Corpus, rows: int, **columns: pa.Array) -> Corpus:
    """The index with ``rows`` rows, all alike but for the ``columns``."""
    table = pq.read_table(corpus.parquet)
    alike = pa.concat_tables([table.slice(0, 1)] * 1).take(pa.array(np.zeros(rows, dtype=np.int64)))
    for name, values in columns.items():
        alike = alike.set_column(alike.column_names.index(name), name, values)
    pq.write_table(alike, corpus.parquet, compression="zstd")
    (corpus.path / "corpus.json").write_text(json.dumps({**corpus.facts, "images": rows}))
    return Corpus.open(corpus.path)


def hashes(rows: int) -> pa.Array:
    return pa.array(np.random.default_rng(0).integers(0, 2**63, rows).astype(np.uint64))


def test_more_rows_than_a_file_can_hold_are_not_read(corpus):
    """A row has a hash, 8 bytes that nothing shortens: here half a million rows have 16 KB in all."""
    changed = written(corpus, 500_000)
    assert changed.parquet.stat().st_size < 20_000
    for read in (changed.fraction(images=1).labels, lambda: check_rows(changed)):
        with pytest.raises(
            UserError, match=r"cannot read the index .*: it claims 500,000 rows, in [\d,]+ bytes of file"
        ):
            read()


def test_lists_of_a_run_are_not_read(corpus):
    """One row whose labels are twelve million times the same."""
    labels = pa.ListArray.from_arrays([0, 12_000_000], pa.array(np.zeros(12_000_000, dtype=np.int32)))
    changed = written(corpus, 1, labels=labels)
    assert changed.parquet.stat().st_size < 20_000
    with pytest.raises(UserError, match="it claims 12,000,000 values in a column"):
        changed.fraction(images=1).keys()


def test_a_long_text_is_not_written_out_for_each_row(corpus):
    """A megabyte, once in the file, for 2,000 rows: 2 GB as a column of texts."""
    long = pa.DictionaryArray.from_arrays(np.zeros(2000, dtype=np.int32), pa.array(["x" * 2**20]))
    changed = written(corpus, 2000, key=long, hash=hashes(2000))
    assert changed.parquet.stat().st_size < 100_000
    for read in (changed.fraction(images=2000).keys, lambda: check_rows(changed)):
        with pytest.raises(UserError, match=r"column key unpacks to 1\.95 GiB in 2,000 rows"):
            read()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["labels"]), "it has no column labels"),
        (lambda t: t.set_column(2, "labels", pa.array([[1.5]] * 6)), "its column labels is list<.*double>, not"),
        (lambda t: t.set_column(2, "labels", pa.array([["a"]] * 6)), "its column labels is list<.*string>, not"),
        (lambda t: t.set_column(2, "labels", pa.array([[5]] * 6, pa.list_(pa.int32()))), r"labels outside \[0, 2\)"),
        (lambda t: t.set_column(2, "labels", pa.array([[-1]] * 6, pa.list_(pa.int32()))), r"labels outside \[0, 2\)"),
        (lambda t: t.set_column(2, "labels", pa.array([None] * 6, pa.list_(pa.int32()))), "column labels lacks values"),
        (
            lambda t: t.set_column(2, "labels", pa.array([[None]] * 6, pa.list_(pa.int32()))),
            "column labels lacks values",
        ),
        (lambda t: t.set_column(0, "key", pa.array([None] * 6, pa.string())), "column key lacks values"),
        (lambda t: t.set_column(0, "key", pa.array([b"\xff"] * 6)), "its column key is binary, not string"),
        (lambda t: t.append_column("key", t.column("key")), "it has 2 columns key"),
        (lambda t: t.set_column(6, "size", pa.array([2**63] * 6, pa.uint64())), "its column size is uint64, not int64"),
    ],
)
def test_columns_are_those_of_an_index(corpus, change, said):
    pq.write_table(change(pq.read_table(corpus.parquet)), corpus.parquet)
    with pytest.raises(UserError, match=f"cannot read the index .*{said}.*; build the index again"):
        use_all(Corpus.open(corpus.path))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("path", "../secret", "does not lie below"),
        ("path", "/etc/passwd", "does not lie below"),
        ("shard", "a/../../b.tar", "does not lie below"),
        ("path", "a\0b", "which does not lie below"),
        ("path", "cat", "it is no regular file"),
        ("path", "pipe", "it is no regular file"),
        ("path", "zero", "it is no regular file"),
        ("path", "loop", "symbolic links"),
        ("size", 2**62, "ends at byte"),
        ("size", -1, "ends at byte"),
        ("offset", -5, "ends at byte"),
        ("offset", 2**62, "ends at byte|cannot read"),
    ],
)
def test_places_lie_below_the_root_and_within_files(corpus, tmp_path, column, value, said):
    root = tmp_path / "src"
    shutil.copytree(corpus.root, root)
    os.mkfifo(root / "pipe")
    os.symlink("/dev/zero", root / "zero")
    os.symlink("loop", root / "loop")
    table = pq.read_table(corpus.parquet)
    at = table.column_names.index(column)
    values = pa.array([value] * 6, table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), values), corpus.parquet)
    fraction = Corpus.open(corpus.path, root=root).fraction(images=6)
    tracemalloc.start()
    with pytest.raises(UserError, match=said):
        fraction.read(0)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_a_reader_of_whole_paths_takes_them(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert ByteReader("").read(str(tmp_path / "a"), 1, 2) == b"bc"


def test_an_index_is_of_regular_files(corpus, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=r"is a (pipe|device)"):
            Corpus.open(place)
    corpus.parquet.unlink()
    os.symlink(tmp_path / "pipe", corpus.parquet)
    with pytest.raises(UserError, match="is a pipe"):
        corpus.fraction(images=1).labels()


def damaged(raw: bytes, seed: int) -> bytes:
    """A few bytes changed, mostly in the footer; some files cut."""
    draw = random.Random(seed)
    changed = bytearray(raw)
    footer = len(raw) - int.from_bytes(raw[-8:-4], "little") - 8
    for _ in range(draw.choice([1, 1, 2, 5])):
        at = draw.randrange(footer, len(raw)) if draw.random() < 0.6 else draw.randrange(len(raw))
        changed[at] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
    return bytes(changed[: draw.randrange(len(raw))] if draw.random() < 0.1 else changed)


@pytest.mark.parametrize("seed", [5, 17])
def test_damaged_bytes_are_one_line(corpus, seed):
    """Of the fuzz below; pyarrow's own reader of footers ends the process at some of them."""
    corpus.parquet.write_bytes(damaged(corpus.parquet.read_bytes(), seed))
    with pytest.raises(UserError, match=str(corpus.parquet)):
        use_all(Corpus.open(corpus.path))


@pytest.mark.slow
def test_damaged_indexes_are_refused_or_read(corpus):
    raw = corpus.parquet.read_bytes()
    refused = 0
    for seed in range(100, 250):
        corpus.parquet.write_bytes(damaged(raw, seed))
        try:
            use_all(Corpus.open(corpus.path))
        except UserError:
            refused += 1
    assert refused > 75
