"""Where images are: names as people's JSON files have them, and tars as people make them."""

from __future__ import annotations

import gzip
import io
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scaleprior.detect.data.image_root import ImageRoot, open_root
from scaleprior.errors import UserError

NFC, NFD = "ni\u00f1o", "nin\u0303o"


def folder_root(tmp_path: Path, files: dict[str, bytes]) -> ImageRoot:
    for name, data in files.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(data)
    return open_root(tmp_path / "f")


def tar_root(tmp_path: Path, files: dict[str, bytes]) -> ImageRoot:
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return open_root(tmp_path / "f.tar")


both = pytest.mark.parametrize("make", [folder_root, tar_root])
Make = Callable[[Path, dict[str, bytes]], ImageRoot]


@both
@pytest.mark.parametrize(
    ("stored", "asked", "kind"),
    [
        ("images/a.jpg", "images\\a.jpg", "names written with back-slashes"),
        ("images/a.jpg", ".\\images\\a.jpg", "names written with back-slashes"),
        (f"{NFD}.jpg", f"{NFC}.jpg", "names in another Unicode normalisation"),
        (f"x/{NFC}.jpg", f"x/{NFD}.jpg", "names in another Unicode normalisation"),
        (f"x/{NFD}.jpg", f"x\\{NFC}.jpg", "names written with back-slashes"),
    ],
)
def test_another_spelling_means_the_only_file_of_that_name(
    tmp_path: Path, make: Make, stored: str, asked: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = make(tmp_path, {stored: b"it", "other.jpg": b"other"})
    assert root.read(asked) == b"it"
    with caplog.at_level(logging.WARNING):
        assert root.missing([asked, "other.jpg", "none.jpg"]) == ["none.jpg"]
    assert f"1 {kind} were matched" in caplog.text
    place = root.place(asked)
    assert place is not None
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        assert file.read(2) == b"it"


@both
def test_what_is_written_exactly_wins(tmp_path: Path, make: Make) -> None:
    root = make(tmp_path, {f"{NFC}.jpg": b"C", f"{NFD}.jpg": b"D", "a\\b.jpg": b"back", "a/b.jpg": b"forward"})
    assert [root.read(name) for name in (f"{NFC}.jpg", f"{NFD}.jpg", "a\\b.jpg", "a/b.jpg")] == [
        b"C",
        b"D",
        b"back",
        b"forward",
    ]


@both
def test_another_case_is_pointed_out_and_not_taken(tmp_path: Path, make: Make) -> None:
    root = make(tmp_path, {"x/A.JPG": b"it"})
    assert root.missing(["x/A.jpg"]) == ["x/A.jpg"]
    assert root.near("x/A.jpg").endswith("A.JPG' (names in another case)")
    assert root.near("y.jpg") == ""


@both
@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg", "\ud800/a.jpg"])
def test_names_that_no_file_can_have_are_missing(tmp_path: Path, make: Make, name: str) -> None:
    root = make(tmp_path, {"a.jpg": b"it"})
    assert root.missing([name]) == [name]
    assert root.place(name) is None
    assert root.near(name) == ""
    with pytest.raises(UserError, match="image"):
        root.read(name)


def test_a_linked_member_is_its_target_and_a_dead_one_is_explained(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        for name, kind, link in (("a.jpg", tarfile.REGTYPE, ""), ("b.jpg", tarfile.LNKTYPE, "a.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 0 if link else 2
            tar.addfile(info, io.BytesIO(b"it"))
        info = tarfile.TarInfo("gone.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/elsewhere"
        tar.addfile(info)
    root = open_root(tmp_path / "f.tar")
    assert root.read("b.jpg") == b"it"
    assert root.missing(["b.jpg", "gone.jpg"]) == ["gone.jpg"]
    assert root.near("gone.jpg") == "links in tars that lead to no file in their tar"


def test_members_that_nobody_asks_for_harm_nobody(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        for name in ("caf\udce9.jpg", "twice.jpg", "twice.jpg", "a.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"it"))
    root = open_root(tmp_path / "f.tar")
    assert root.read("a.jpg") == b"it"
    with pytest.raises(UserError, match=r"image 'twice.jpg' occurs twice in the tars \(f.tar\)"):
        root.read("twice.jpg")


@pytest.mark.parametrize("name", ["f.tar.gz", "f.tar", "f-*.tar"])
def test_a_compressed_tar_is_refused_with_the_command_that_unpacks_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name.replace("*", "1")).write_bytes(gzip.compress(b"x"))
    with pytest.raises(UserError, match=r"is compressed, and images are read from their place.*; unpack it: gunzip -"):
        open_root(tmp_path / name)
