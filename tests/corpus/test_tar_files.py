"""Listing tars: where bytes lie, links, absurd names and members, damage, compression."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from scaleprior.corpus import tar_members
from scaleprior.corpus.magic import unpacked, unpacking
from scaleprior.errors import UserError
from tests.corpus.pictures import write_tar


def listed(path: Path, **options: int) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
    """Bytes by name, and what was left out."""
    raw, left_out = path.read_bytes(), list[tuple[str, str]]()
    members = tar_members(path, left_out=lambda kind, name: left_out.append((kind, name)), **options)
    return {m.name: raw[m.offset : m.offset + m.size] for m in members}, left_out


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_they_are_said_to(tmp_path, style):
    path = tmp_path / "a.tar"
    # over 100 characters: every style stores it differently
    long = "/".join(["folder" * 5] * 4) + "/ä.jpg"
    contents = {"./one.jpg": b"1" * 700, "empty": b"", long: b"long name"}
    write_tar(path, contents, style=style)
    assert listed(path) == ({name.removeprefix("./"): data for name, data in contents.items()}, [])


def test_links_lead_to_the_bytes_of_their_target(tmp_path):
    """As GNU tar unpacks them."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "early", kind=tarfile.SYMTYPE, link="d/one.jpg")  # before what it leads to
        add(tar, "d/one.jpg", b"1" * 700)
        add(tar, "./two.jpg", b"2" * 10)
        add(tar, "d/hard.jpg", kind=tarfile.LNKTYPE, link="./two.jpg")
        add(tar, "d/soft.jpg", kind=tarfile.SYMTYPE, link="../two.jpg")
        add(tar, "d/chain.jpg", kind=tarfile.SYMTYPE, link="soft.jpg")
        add(tar, "d/outside.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add(tar, "d/above.jpg", kind=tarfile.SYMTYPE, link="../../x.jpg")
        add(tar, "loop.jpg", kind=tarfile.SYMTYPE, link="loop.jpg")
        add(tar, "gone.jpg", kind=tarfile.LNKTYPE, link="none.jpg")
    found, left_out = listed(tmp_path / "a.tar")
    dead = ("d/outside.jpg", "d/above.jpg", "loop.jpg", "gone.jpg")
    assert left_out == [("links in tars that lead to no file in their tar", name) for name in dead]
    (tmp_path / "out").mkdir()
    subprocess.run(
        ["tar", "xf", tmp_path / "a.tar", "-C", tmp_path / "out", *(f"--exclude={name}" for name in dead)], check=True
    )
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert found == {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in files}
    assert len(found) == 6


def test_what_is_no_file_is_left_out_and_told(tmp_path):
    kinds = {"pipe.jpg": tarfile.FIFOTYPE, "disk.jpg": tarfile.CHRTYPE, "sparse.jpg": tarfile.GNUTYPE_SPARSE}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "folder", kind=tarfile.DIRTYPE)
        for name, kind in kinds.items():
            add(tar, name, kind=kind)
        add(tar, "x.jpg", b"x")
    found, left_out = listed(tmp_path / "a.tar")
    assert found == {"x.jpg": b"x"}
    assert left_out == [("sparse files, devices and pipes in tars", name) for name in kinds]


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_are_not_utf8_are_left_out_and_told(tmp_path, style):
    names = ["caf\udce9.jpg", "/absolute.jpg", "../above.jpg", "d/" * 60 + "\udce9.jpg", "ok.jpg"]
    write_tar(tmp_path / "a.tar", dict.fromkeys(names, b"x"), style=style)
    found, left_out = listed(tmp_path / "a.tar")
    assert list(found) == ["/absolute.jpg", "../above.jpg", "ok.jpg"]  # reading them touches no such path
    assert left_out == [("names in tars that are not UTF-8", name) for name in (names[0], names[3])]


def test_a_name_with_a_nul(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"path": "a\0b.jpg"}
        tar.addfile(info)
    assert listed(tmp_path / "a.tar") == ({}, [("names in tars with a NUL", "a\0b.jpg")])


def test_a_tar_in_a_tar_is_listed_at_its_place(tmp_path):
    write_tar(tmp_path / "in.tar", {"one.jpg": b"1" * 3000, "two.jpg": b"2"})
    inner = (tmp_path / "in.tar").read_bytes()
    write_tar(tmp_path / "out.tar", {"first": b"0" * 100, "in.tar": inner, "last": b"9" * 100})
    place = next(m for m in tar_members(tmp_path / "out.tar") if m.name == "in.tar")
    found, _ = listed(tmp_path / "out.tar", start=place.offset, size=place.size)
    assert found == {"one.jpg": b"1" * 3000, "two.jpg": b"2"}
    with pytest.raises(UserError, match=r"out.tar is not a complete uncompressed tar"):
        listed(tmp_path / "out.tar", start=place.offset, size=2000)  # its bytes end inside the first member


def test_damaged_tars(tmp_path):
    write_tar(tmp_path / "a.tar", {"one": b"1" * 5000, "two": b"2" * 5000})
    whole = (tmp_path / "a.tar").read_bytes()
    second = 512 + 5120  # the header of "two"
    damaged = {
        "cut.tar": whole[:7000],
        "text.tar": b"hello",
        "nothing.tar": b"",
        "header.tar": whole[:second] + b"?" * 512 + whole[second + 512 :],  # tarfile takes it for the end
        "half.tar": whole[: second + 200],
        "joined.tar": whole + whole,
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name} is not a complete uncompressed tar"):
            list(tar_members(tmp_path / name))
    with pytest.raises(UserError, match="tar file not found"):
        list(tar_members(tmp_path / "absent.tar"))


def test_any_damage_is_a_clear_error_or_none(tmp_path):
    """300 tars with a few bytes changed: each is read to some end, or refused in our words."""
    refused: list[str] = []
    for style in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        write_tar(tmp_path / "a.tar", {"d/" * 60 + "\xe4.jpg": b"1" * 600, "b.jpg": b"2" * 20}, style=style)
        whole = (tmp_path / "a.tar").read_bytes()
        draw, headers = random.Random(style), len(whole.rstrip(b"\0")) // 512 * 512
        for _ in range(100):
            data = bytearray(whole)
            for _ in range(draw.randint(1, 4)):
                data[draw.randrange(headers)] = draw.randrange(256)
            for at in range(0, headers, 512):  # checksums that fit, or every damage would end there
                if data[at + 257 : at + 262] == b"ustar":
                    data[at + 148 : at + 156] = b" " * 8
                    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
            (tmp_path / "b.tar").write_bytes(data)
            try:
                list(tar_members(tmp_path / "b.tar"))
            except UserError as e:
                refused.append(str(e))
    assert 20 < len(refused) < 300
    assert all("b.tar" in message for message in refused)


PACKED = {"a.tar.gz": gzip, "a.tgz": gzip, "a b.tar": gzip, "a.tar.xz": lzma, "a.txz": lzma, "a.tar.bz2": bz2}


@pytest.mark.parametrize("name", PACKED)
def test_the_command_for_a_compressed_tar_unpacks_it(tmp_path, name):
    write_tar(tmp_path / "plain.tar", {"one.jpg": b"1"})
    path = tmp_path / name
    path.write_bytes(PACKED[name].compress((tmp_path / "plain.tar").read_bytes()))
    with pytest.raises(UserError, match=r"is compressed, and images are read from their place in a file; unpack") as e:
        list(tar_members(path))
    command = unpacking(path)
    assert str(e.value).endswith(command)
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"no {command.split()[0]} here")
    subprocess.run(command, shell=True, check=True)
    assert path.exists()
    assert listed(unpacked(path))[0] == {"one.jpg": b"1"}


@pytest.mark.parametrize(
    ("name", "start", "command"),
    [
        ("a.tar.zst", b"\x28\xb5\x2f\xfd", "zstd -d {}/a.tar.zst"),
        ("a.zip", b"PK\x03\x04", "unzip {}/a.zip -d {}/a"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "7z x {}/a.7z -o{}/a"),
    ],
)
def test_other_archives_are_told_by_their_first_bytes(tmp_path, name, start, command):
    (tmp_path / name).write_bytes(start)
    assert unpacking(tmp_path / name) == command.replace("{}", str(tmp_path))
