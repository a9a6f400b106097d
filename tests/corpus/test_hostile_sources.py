"""Sources with pipes, devices and loops in them, and archives and tables that were made to cost, hang or lead out."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaleprior.corpus import Corpus, open_source, parquet_files, tar_files, tar_members
from scaleprior.corpus.importers.class_names import ClassNames
from scaleprior.errors import FailureError, UserError
from tests.corpus.pictures import class_folders, jpeg, write_tar


@pytest.fixture
def src(tmp_path) -> Path:
    return class_folders(tmp_path / "src", {"cat": 2, "dog": 2})


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    tar.addfile(info, io.BytesIO(data))


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_zero(path: Path) -> None:
    os.symlink("/dev/zero", path)


def as_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have a hundred characters
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def as_loop(path: Path) -> None:
    os.symlink(path.name, path)


MAKE = pytest.mark.parametrize("make", [as_pipe, as_zero, as_socket, as_loop])


@MAKE
@pytest.mark.parametrize(
    "name",
    ["labels.csv", "labels.parquet", "other.csv", "x.csv.gz", "x.parquet", "x.tar", "hierarchy.json", "classes.txt"],
)
def test_what_lies_beside_the_classes_is_not_waited_for(src, tmp_path, make: Callable[[Path], None], name):
    """Pipes hung the build, by whatever name."""
    make(src / name)
    assert len(Corpus.build(src, tmp_path / "index", yes=True, verify=False)) == 4


@MAKE
def test_neither_is_what_lies_in_a_class(src, tmp_path, make: Callable[[Path], None]):
    make(src / "cat" / "x.jpg")
    make(src / "dog" / "without-suffix")
    corpus = Corpus.build(src, tmp_path / "index", max_skipped=0.5)
    assert len(corpus) == 4
    notes = corpus.facts["warnings"]
    kinds = {"entries that are neither files nor folders", "links that lead nowhere"}
    assert sum(notes[kind]["count"] for kind in kinds & set(notes)) == 2


@MAKE
def test_nor_is_it_read_as_what_it_is_given_for(src, make: Callable[[Path], None]):
    for name in ("table.csv", "table.parquet", "names.json", "h.json", "a.tar"):
        make(src / name)
    for options in ({"labels": src / "table.csv"}, {"labels": src / "table.parquet"}, {"hierarchy": src / "h.json"}):
        with pytest.raises(UserError, match=r"is a (pipe|device|socket)|symbolic links"):
            open_source(src, **options)
    with pytest.raises(UserError, match=r"class names .* is a (pipe|device|socket)|symbolic links"):
        ClassNames.read(src / "names.json", src)
    with pytest.raises(UserError, match=r"tar file .* is a (pipe|device|socket)|symbolic links"):
        list(tar_members(src / "a.tar"))


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_name_of_gigabytes_is_not_read(tmp_path, kind):
    """The file has them, as a hole: it takes no room, and reading it took the memory."""
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(header("x.jpg", kind, 1 << 33))
        file.truncate((1 << 33) + 4096)
    with pytest.raises(UserError, match=r"a\.tar is not a complete uncompressed tar: a header of 8,589,934,592 bytes"):
        list(tar_members(tmp_path / "a.tar"))


def test_a_member_that_claims_more_than_there_is(tmp_path):
    whole = header("a.jpg", tarfile.REGTYPE, 1) + b"a".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(whole + header("b.jpg", tarfile.REGTYPE, 1 << 40) + b"\0" * 1024)
    with pytest.raises(UserError, match=r"not a complete uncompressed tar: .*, after 'b\.jpg'"):
        list(tar_members(tmp_path / "a.tar"))


def test_headers_for_all_members_are_few(tmp_path):
    many = {f"k{k}": "v" for k in range(200)}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers=many) as tar:
        add(tar, "a.jpg", b"1")
    with pytest.raises(UserError, match="200 headers that are meant for all members"):
        list(tar_members(tmp_path / "a.tar"))


class Counted(dict[str, str]):
    looked_up = 0

    def __getitem__(self, name: str) -> str:
        self.looked_up += 1
        return super().__getitem__(name)


def test_a_long_chain_of_links_is_walked_once(tmp_path):
    """Each link was followed to the end of the chain: 20,000 of them took longer than anybody waited."""
    links = Counted({str(k): str(k + 1) for k in range(20_000)})
    assert set(tar_files._ends(links).values()) == {"20000"}
    assert links.looked_up == 20_000
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for k in range(200):
            add(tar, f"{k}.jpg", kind=tarfile.SYMTYPE, link=f"{k + 1}.jpg")
        add(tar, "200.jpg", b"end")
        add(tar, "loop.jpg", kind=tarfile.SYMTYPE, link="pool.jpg")
        add(tar, "pool.jpg", kind=tarfile.SYMTYPE, link="loop.jpg")
    left_out = []
    found = list(tar_members(tmp_path / "a.tar", left_out=lambda kind, name: left_out.append(name)))
    assert len({member.offset for member in found}) == 1
    assert len(found) == 201
    assert left_out == ["loop.jpg", "pool.jpg"]


def packed(members: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    """A tar of the members, and hard links to the first of them."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name, data in members.items():
            add(tar, name, data)
        for name in links:
            add(tar, name, kind=tarfile.LNKTYPE, link=next(iter(members)))
    return whole.getvalue()


def test_tars_in_tars_have_an_end(tmp_path):
    inner = packed({"x.jpg": jpeg(0), "y.jpg": jpeg(1)})
    for depth in range(9):
        inner = packed({f"c{depth}.tar": inner})
    (tmp_path / "a.tar").write_bytes(inner)
    with pytest.raises(UserError, match=r"a\.tar holds tars in tars, more than 8 deep"):
        open_source(tmp_path)


def test_links_to_a_tar_in_a_tar_do_not_multiply_it(tmp_path):
    """Six levels of ten names of one tar: a million images in a file of 17 KB."""
    inner = packed({"x.jpg": jpeg(0)})
    for level in range(6):
        inner = packed({f"c{level}.tar": inner}, tuple(f"c{level}-{k}.tar" for k in range(9)))
    (tmp_path / "a.tar").write_bytes(inner)
    source = open_source(tmp_path)
    assert source.total == 1
    assert source.notes.warnings["links to a tar in a tar that is read already (left out)"][0] == 6 * 9


def test_names_that_lead_out_of_a_tar_become_no_keys(tmp_path):
    names = ["../x.jpg", "/abs/y.jpg", "a/../../z.jpg", "./.././q.jpg", "dog/../../../w.jpg"]
    write_tar(tmp_path / "a.tar", {name: jpeg(0) for name in [*names, "cat/a.jpg", "dog/b.jpg"]})
    for split in (None, "a"):
        with contextlib.suppress(UserError):
            source = open_source(tmp_path, split=split)
            keys = [row.key for row in source.rows()]
            assert not [key for key in keys if key[0] == "/" or ".." in key.split("/")]
    corpus = Corpus.build(tmp_path, tmp_path.parent / f"{tmp_path.name}-i", yes=True)
    assert sorted(corpus.fraction(images=len(corpus)).keys()) == ["a/abs/y.jpg", "a/cat/a.jpg", "a/dog/b.jpg"]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../x.jpg"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_name_nothing_outside(tmp_path, name, suffix):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg(0))
    (tmp_path / "x.jpg").write_bytes(jpeg(1))
    (tmp_path / "in" / "a").mkdir()
    table = tmp_path / "in" / f"labels.{suffix}"
    if suffix == "csv":
        table.write_text(f"file,label\n{name},cat\n")
    else:
        pq.write_table(pa.table({"file": [name], "label": ["cat"]}), table)
    with pytest.raises(UserError, match=r"secret|passwd|x\.jpg"):
        Corpus.build(tmp_path / "in", tmp_path / "index", yes=True)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"' + "9" * 5000 + '": "a"}', "no list of names"),
        ('{"0": 1' + "0" * 5000 + "}", "cannot be read"),
        ('["a", 3]', "no list of names"),
        ('["\\ud800"]', "no list of names"),
        ("3", "no list of names"),
        ('{"0": ["a"]}', "no list of names"),
        ("", "not JSON"),
    ],
)
def test_class_names_of_wrong_types(tmp_path, text, said):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(UserError, match=rf"class names .*{said}") as caught:
        ClassNames.read(tmp_path / "names.json", tmp_path)
    assert len(str(caught.value)) < 500


def test_a_gzip_of_nothing_a_million_times_is_not_unpacked(src, monkeypatch):
    from scaleprior.corpus.importers.tables import reading

    monkeypatch.setattr(reading, "_UNPACKED", (1 << 20, 200))
    (src / "t.csv.gz").write_bytes(gzip.compress(b"file,label\n" + b"\n" * (8 << 20)))
    with pytest.raises(UserError, match=r"t\.csv\.gz unpacks to more than .* MiB, from [\d,]+ bytes"):
        open_source(src, labels=src / "t.csv.gz")


def test_one_giant_cell_is_an_error_that_shows_its_start(src):
    for text in ("file,label\ncat/0.jpg," + "x" * 5_000_000, 'file,label\ncat/0.jpg,"' + "x" * 5_000_000):
        (src / "t.csv").write_text(text)
        with pytest.raises(UserError, match=r"t\.csv") as caught:
            Corpus.build(src, src.parent / "index", labels=src / "t.csv", yes=True)
        assert len(str(caught.value)) < 1000


def test_parquet_tables_that_expand_are_not_read(src, monkeypatch):
    """Half a million rows in some kilobytes; the floor below which any file may is lowered for the test's sake."""
    defaults = {**parquet_files.read_footer.__kwdefaults__, "rows": 0}
    monkeypatch.setattr(parquet_files.read_footer, "__kwdefaults__", defaults)
    rows = pa.DictionaryArray.from_arrays(np.zeros(500_000, dtype=np.int8), pa.array(["cat/0.jpg"]))
    pq.write_table(pa.table({"file": rows, "label": rows}), src / "t.parquet")
    assert (src / "t.parquet").stat().st_size < 10_000
    with pytest.raises(UserError, match=r"t\.parquet cannot be read as a table: it claims 500,000 rows"):
        open_source(src, labels=src / "t.parquet")


def test_images_in_parquet_that_expand_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "_BYTES", (1 << 20, 200))
    image = jpeg(0) + b"\0" * (8 << 20)
    pq.write_table(pa.table({"image": [{"bytes": image}], "label": [0]}), tmp_path / "t.parquet", compression="zstd")
    with pytest.raises(UserError, match=r"t\.parquet cannot be read.*: it claims 8 MiB unpacked, in [\d,]+ bytes"):
        open_source(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, ""),
        ("9" * 5000, ""),
        ("{}", ""),
        ("null", ""),
        ('{"label": {"a": [[[1]]]}}', "is {'a'"),
        ('{"label": "\\ud800"}', "'.ud800' is no Unicode text"),
    ],
)
def test_labels_of_shards_of_wrong_types(tmp_path, text, said):
    members = {"0.jpg": jpeg(0), "0.json": text.encode(), "1.jpg": jpeg(1), "1.json": b'{"label": "a"}'}
    write_tar(tmp_path / "a.tar", {**members, "2.jpg": jpeg(2), "2.json": b'{"label": "b"}'})
    if said:
        with pytest.raises(UserError, match=rf"0\.json: the label {said}") as caught:
            open_source(tmp_path)
        assert len(str(caught.value)) < 500
    else:
        assert open_source(tmp_path).total == 3


def mutated(raw: bytes, draw: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(changed))
        kind = draw.randrange(4)
        if kind == 0:
            changed[at] = draw.choice(b"\x00\xff\x80/.0179,;\"'[]{}\n\\")
        elif kind == 1:
            changed[at] = draw.randrange(256)
        elif kind == 2:
            del changed[at : at + draw.randint(1, 40)]
        else:
            changed[at:at] = changed[at : at + draw.randint(1, 600)]
        changed = changed or bytearray(b" ")
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tar", "shard.tar", "labels.csv", "labels.parquet", "images.parquet"])
def test_damaged_sources_are_refused_or_read(src, tmp_path, name):
    """Every importer on files that were whole once: an index, or one line that names the source."""
    where = src if name.startswith("labels") else tmp_path / "other"
    where.mkdir(exist_ok=True)
    if name == "a.tar":
        write_tar(where / name, {f"c{k % 2}/{k}.jpg": jpeg(k) for k in range(4)}, style=tarfile.PAX_FORMAT)
    elif name == "shard.tar":
        label = json.dumps({"label": "a"}).encode()
        write_tar(where / name, {f"{k}.{s}": d for k in range(3) for s, d in (("jpg", jpeg(k)), ("json", label))})
    elif name == "labels.csv":
        (where / name).write_text("file,label,split\n" + "".join(f"cat/{k}.jpg,a;b,train\n" for k in range(2)))
    elif name == "labels.parquet":
        pq.write_table(pa.table({"file": ["cat/0.jpg", "dog/0.jpg"], "label": [["a"], ["b"]]}), where / name)
    else:
        pq.write_table(pa.table({"image": [{"bytes": jpeg(k)} for k in range(2)], "label": ["a", "b"]}), where / name)
    raw, draw = (where / name).read_bytes(), random.Random(name)
    for k in range(25):
        (where / name).write_bytes(mutated(raw, draw))
        with contextlib.suppress(UserError, FailureError):
            Corpus.build(where, tmp_path / f"index{k}", yes=True, max_skipped=1.0)
