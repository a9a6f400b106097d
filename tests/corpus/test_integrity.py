"""An index is held against its digests before anything learns from it, and an image against its checksum."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaleprior.checking import CheckReport
from scaleprior.corpus import Corpus, Fraction, ImageRow, LabelSpace, World, WorldSpec, build_index
from scaleprior.corpus.check import check_corpus
from scaleprior.corpus.integrity import check_rows
from scaleprior.errors import UserError
from tests.corpus.pictures import class_folders, jpeg, write_tar


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """Ten images of two classes, one turned, in folders; decoded, so with checksums."""
    return Corpus.build(class_folders(tmp_path / "src", {"cat": 6, "dog": 4}), tmp_path / "index")


def edit(corpus: Corpus, **columns: Callable[[list[Any]], list[Any]]) -> Corpus:
    """The index with columns rewritten, as a person with pandas would."""
    table = pq.read_table(corpus.parquet)
    for name, change in columns.items():
        values = pa.array(change(table.column(name).to_pylist()), type=table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), values)
    pq.write_table(table, corpus.parquet)
    return Corpus.open(corpus.path)


def tell(corpus: Corpus, **facts: Any) -> Corpus:
    """The index with other facts; None removes one."""
    kept = {name: value for name, value in {**corpus.facts, **facts}.items() if value is not None}
    (corpus.path / "corpus.json").write_text(json.dumps(kept))
    return Corpus.open(corpus.path)


def older(corpus: Corpus) -> Corpus:
    """As versions before this one wrote it."""
    table = pq.read_table(corpus.parquet)
    pq.write_table(table.drop_columns(["crc32"]), corpus.parquet)
    return tell(corpus, columns=None)


def test_an_index_as_it_was_built_passes(corpus):
    check_rows(corpus)
    corpus.fraction(images=4).save(corpus.path.parent / "four.parquet")
    check_rows(Corpus.open(corpus.path.parent / "four.parquet"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": lambda rows: [[1 - label for label in row] for row in rows]}, "the labels"),
        ({"labels": lambda rows: [[], *rows[1:]]}, "the labels"),
        ({"key": lambda rows: ["other.jpg", *rows[1:]]}, "the keys"),
        ({"hash": lambda rows: [0, *rows[1:]]}, "the hashes"),
        ({"size": lambda rows: [rows[0] - 1, *rows[1:]]}, "the sizes of the images"),
        ({"path": lambda rows: rows[::-1]}, "the paths of the images"),
        ({"offset": lambda rows: [1, *rows[1:]]}, "the places of the images"),
        ({"shard": lambda rows: ["a.tar", *rows[1:]]}, "the names of the shards"),
        ({"crc32": lambda rows: [0, *rows[1:]]}, "the checksums of the images"),
        (
            {"path": lambda rows: rows[::-1], "crc32": lambda rows: rows[::-1]},
            "the paths of the images and the checksums of the images",
        ),
    ],
)
def test_an_edited_column_is_named(corpus, changes, said):
    changed = edit(corpus, **changes)
    for remember in (True, False):
        with pytest.raises(
            UserError, match=rf"index is not what was indexed; changed are {said}( and .*)?; copy it again"
        ):
            check_rows(changed, remember=remember)


def test_rows_that_are_gone_or_new_are_counted(corpus):
    table = pq.read_table(corpus.parquet)
    pq.write_table(table.slice(1), corpus.parquet)
    with pytest.raises(UserError, match=r"holds 9 rows, corpus\.json says 10"):
        check_rows(Corpus.open(corpus.path))
    pq.write_table(pa.concat_tables([table, table.slice(9)]), corpus.parquet)
    with pytest.raises(UserError, match=r"its number of rows \(now 11, then 10\)"):
        check_rows(Corpus.open(corpus.path))


def test_exchanged_classes_are_an_edited_label_space(corpus):
    LabelSpace([("dog", "dog", ()), ("cat", "cat", ())]).save(corpus.path / "label_space.json")
    with pytest.raises(UserError, match="changed are the label space;"):
        check_rows(Corpus.open(corpus.path))


def test_an_older_index_is_held_against_its_fingerprint(corpus, caplog):
    check_rows(older(corpus))
    assert caplog.text.count("has no checksums of its images") == 1
    check_rows(Corpus.open(corpus.path))
    assert caplog.text.count("has no checksums of its images") == 1  # once
    changed = edit(corpus, labels=lambda rows: [[1 - label for label in row] for row in rows])
    with pytest.raises(UserError, match=r"by the fingerprint: now [0-9a-f]{12}, then [0-9a-f]{12}"):
        check_rows(changed)


def test_digests_that_were_edited_with_the_rows_meet_the_fingerprint(corpus):
    """The fingerprint is in the cards and runs that came of the index, so it is not one's own to edit."""
    changed = edit(corpus, labels=lambda rows: [[1 - label for label in row] for row in rows])
    columns = dict(corpus.facts["columns"])
    changed.fraction(images=10).save(corpus.path.parent / "all.parquet")
    columns["labels"] = Corpus.open(corpus.path.parent / "all.parquet").facts["columns"]["labels"]
    with pytest.raises(UserError, match="by the fingerprint"):
        check_rows(tell(changed, columns=columns))


def test_a_saved_fraction_has_digests_of_its_own_rows(corpus, caplog):
    path = corpus.path.parent / "four.parquet"
    corpus.fraction(images=4).save(path)
    table = pq.read_table(path)
    at = table.column_names.index("labels")
    turned = [[1 - label for label in row] for row in table.column("labels").to_pylist()]
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(turned, table.schema.field(at).type)), path)
    with pytest.raises(UserError, match=r"four\.parquet is not what was indexed; changed are the labels; copy"):
        check_rows(Corpus.open(path))
    facts = json.loads(table.schema.metadata[b"scaleprior.corpus"])
    del facts["columns"]  # as versions before this one wrote it
    metadata = {**table.schema.metadata, b"scaleprior.corpus": json.dumps(facts).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    for _ in range(2):
        check_rows(Corpus.open(path))
    assert caplog.text.count("was saved by an earlier version: whether its rows have changed cannot be told") == 1


def test_what_passed_is_not_read_again_until_it_is_touched(corpus, monkeypatch):
    check_rows(corpus)
    read = []
    real = Fraction.batches
    monkeypatch.setattr(Fraction, "batches", lambda self, *a, **k: read.append(1) or real(self, *a, **k))
    check_rows(Corpus.open(corpus.path))
    assert read == []
    before = os.stat(corpus.parquet)
    raw = corpus.parquet.read_bytes()
    corpus.parquet.write_bytes(raw)
    os.utime(corpus.parquet, ns=(before.st_atime_ns, before.st_mtime_ns))  # ctime tells
    check_rows(Corpus.open(corpus.path))
    assert read == [1]
    check_rows(Corpus.open(corpus.path), remember=False)
    assert read == [1, 1]


def test_other_facts_are_not_what_passed(corpus):
    check_rows(corpus)
    with pytest.raises(UserError, match="by the fingerprint"):
        check_rows(tell(corpus, salt="other"))


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"marks": 3}', "[" * 100_000])
def test_what_is_remembered_may_be_damaged(corpus, home, kept):
    check_rows(corpus)
    (file,) = (home / "checks").iterdir()
    file.write_text(kept)
    check_rows(corpus)
    assert json.loads(file.read_text())["marks"]


def test_nowhere_to_remember_is_no_error(corpus, monkeypatch):
    monkeypatch.setenv("SCALEPRIOR_HOME", "/dev/null/home")
    check_rows(corpus)


def test_the_check_before_a_run_says_it(corpus):
    changed = edit(corpus, labels=lambda rows: [[1 - label for label in row] for row in rows])
    (finding,) = check_corpus(changed.fraction(images=2)).findings
    assert finding.kind == "index_changed"
    assert finding.stops


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_a_changed_image_is_refused_by_name_when_it_is_read(corpus):
    fraction = corpus.fraction(images=10)
    file = corpus.root / fraction.keys()[3]
    flip(file, 200)
    assert len(fraction.read(2)) == (corpus.root / fraction.keys()[2]).stat().st_size
    with pytest.raises(UserError, match=rf"{file}: the .* bytes from 0 on are not those that were indexed"):
        fraction.read(3)
    with pytest.raises(UserError, match="not those that were indexed"):
        fraction.decode(3)


def test_images_in_shards_have_checksums_of_their_own(tmp_path):
    images = {f"{k}.jpg": jpeg(k) for k in range(4)}
    write_tar(tmp_path / "a.tar", images)
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{k}.jpg,c{k % 2}\n" for k in range(4)))
    corpus = Corpus.build(tmp_path, tmp_path.parent / f"{tmp_path.name}-index")
    fraction = corpus.fraction(images=4)
    stored = pq.read_table(corpus.parquet, columns=["key", "crc32"]).to_pydict()
    assert dict(zip(stored["key"], stored["crc32"])) == {name: zlib.crc32(data) for name, data in images.items()}
    raw = (tmp_path / "a.tar").read_bytes()
    flip(tmp_path / "a.tar", raw.index(images["2.jpg"]) + 100)
    bad = fraction.keys().index("2.jpg")
    assert [n for n in range(4) if n != bad and fraction.read(n) != images[fraction.keys()[n]]] == []
    with pytest.raises(UserError, match=r"a\.tar: the .* not those that were indexed"):
        fraction.read(bad)
    report = corpus.verify()
    assert [finding.kind for finding in report.findings] == ["image_changed"]
    assert report.findings[0].count == 1
    assert not report.ok


def test_an_index_without_decoding_or_an_older_one_has_none(corpus, tmp_path):
    old = older(corpus).fraction(images=10)
    flip(corpus.root / old.keys()[0], 100)
    assert old.read(0)
    report = Corpus.open(corpus.path).verify()
    assert report.ok
    assert [finding.kind for finding in report.findings] == ["no_checksums"]
    blind = Corpus.build(corpus.root, tmp_path / "blind", verify=False)
    assert "crc32" not in blind.fraction(images=1).columns
    assert blind.fingerprint == corpus.fingerprint


def test_rows_of_which_some_were_not_read_have_no_checksums(tmp_path):
    rows = [ImageRow(f"{k}.jpg", ("a",), "", f"{k}.jpg", 0, 1, checksum=k or None) for k in range(3)]
    facts = {"label_space": LabelSpace.flat(["a"]), "root": "/nowhere", "source": {"kind": "test"}, "verify": False}
    assert "crc32" not in build_index(rows, tmp_path / "some", **facts).fraction(images=3).columns
    assert "crc32" in build_index(rows[1:], tmp_path / "all", **facts).fraction(images=2).columns


def test_a_world_has_checksums_of_what_it_writes(tmp_path):
    corpus = Corpus.open(World(WorldSpec(), seed=0).write_corpus(tmp_path / "world", 5, image_size=16))
    assert corpus.verify() == CheckReport(facts={"corpus": corpus.verify().facts["corpus"]})
    flip(corpus.path / "shards" / "shard-000000.tar", 600)
    assert [finding.count for finding in corpus.verify().findings] == [1]


def test_verify_names_all_that_is_wrong(corpus):
    assert corpus.verify().findings == []
    keys = corpus.fraction(images=10).keys()
    flip(corpus.root / keys[0], 150)
    (corpus.root / keys[1]).unlink()
    check_rows(corpus)  # remembered, and not believed below
    changed = edit(corpus, labels=lambda rows: [[1 - label for label in row] for row in rows])
    calls = []
    report = changed.verify(progress=lambda *call: calls.append(call))
    assert {finding.kind: finding.count for finding in report.findings} == {"index_changed": 1, "image_changed": 2}
    assert {keys[0] in example for example in report.findings[1].examples} == {True, False}
    assert calls == [(10, 10, {})]


def test_a_large_index_is_read_a_group_at_a_time(tmp_path, monkeypatch):
    """However the rows are grouped, the digests are the same; the same rows in another order have others."""
    from scaleprior.corpus import index

    rows = [ImageRow(f"{k:04d}.jpg", ("a",), "s.tar", f"{k}", k, k, checksum=k) for k in np.arange(1000).tolist()]
    facts = {"label_space": LabelSpace.flat(["a"]), "root": "/nowhere", "source": {"kind": "test"}, "verify": False}
    whole = build_index(rows, tmp_path / "whole", **facts)
    monkeypatch.setattr(index, "_GROUP_ROWS", 64)
    grouped = build_index(rows, tmp_path / "grouped", **facts)
    assert pq.read_metadata(grouped.parquet).num_row_groups == 16
    assert grouped.facts["columns"] == whole.facts["columns"]
    check_rows(grouped)
