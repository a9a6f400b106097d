"""Zip archives (torch's, NumPy's) whose directory or members ask for more than their bytes, or lie."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

__all__ = ["FILES", "archive"]


def npy(shape: str = "(1,)", kind: str = "<f4", body: bytes = bytes(4)) -> bytes:
    """An array with these claims."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body


def long_npy(shape: str = "(1,)", kind: str = "'<f4'") -> bytes:
    """An array of format 2.0, whose header may be long."""
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text.encode()


def packed(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def archive(
    members: list[tuple[bytes, int, int, int]], body: bytes = b"", *, extra: bytes = b"", count: int | None = None
) -> bytes:
    """A zip file whose directory has (name, size, packed size, place) of each member, whatever is there."""
    head = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, zlib.crc32(body), len(body), len(body), 5, 0)
    data = head + b"a.npy" + body
    entries: list[bytes] = []
    for name, size, held, at in members:
        sizes = (zlib.crc32(body), held, size, len(name), len(extra))
        fields = struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, *sizes, 0, 0, 0, 0, at)
        entries.append(b"PK\x01\x02" + fields + name + extra)
    directory = b"".join(entries)
    many = min(len(members), 0xFFFF) if count is None else count
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, many, many, len(directory), len(data), 0)
    return data + directory + end


def twice(count: int) -> bytes:
    """An archive whose last name is there twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in [*(f"{at}.npy" for at in range(count)), "z.npy", "z.npy"]:
            made.writestr(name, b"")
    return buffer.getvalue()


def zip64(size: int, count: int) -> bytes:
    """An end of 64 bits that claims a directory of that size."""
    data = b"PK\x03\x04" + bytes(26)
    end = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, len(data))
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(data), 1)
    return (
        data + end + locator + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    )


def one(array: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of this array."""
    return packed({"a.npy": array}, method)


def members(count: int, size: int = 0, held: int = 0) -> list[tuple[bytes, int, int, int]]:
    """That many, all in one place."""
    return [(b"%d.npy" % at, size, held, 0) for at in range(count)]


_ONE = npy()
_SIZE = len(_ONE)
FILES: dict[str, Callable[[int], bytes]] = {
    "members.npz": lambda n: archive(members(15 * n)),
    "twice.npz": lambda n: twice(n // 2),
    "extras.npz": lambda n: archive(members(20), extra=b"\xfe\xca\x00\x00" * 16_000),
    "same_place.npz": lambda n: archive(members(n, _SIZE, _SIZE), _ONE + bytes(300 * n)),
    "same_bytes.npz": lambda n: archive(members(n, 1000 + _SIZE, 0), npy("(251,)", body=bytes(1004))),
    "beyond.npz": lambda n: archive([(b"a.npy", 1 << 31, 1 << 31, 0)], _ONE),
    "behind.npz": lambda n: archive([(b"a.npy", _SIZE, _SIZE, 0xFFFFFFF0)], _ONE),
    "zip64.npz": lambda n: zip64(1 << 40, 1 << 34),
    "zip64_members.npz": lambda n: zip64(0, 1 << 34),
    "count.npz": lambda n: archive(members(1, _SIZE, _SIZE), _ONE, count=0xFFFE),
    "null.npz": lambda n: archive([(b"a\0b.npy", _SIZE, _SIZE, 0)], _ONE),
    "short_extra.npz": lambda n: archive(members(1, _SIZE, _SIZE), _ONE, extra=b"\x01\x00\xff\xff"),
    "zip64_extra.npz": lambda n: archive(members(1, 0xFFFFFFFF, 0xFFFFFFFF), _ONE, extra=b"\x01\x00\x02\x00ab"),
    "digits.npz": lambda n: one(long_npy(f"({'9' * 5000},)")),
    "large.npz": lambda n: one(long_npy(f"({'9' * 4200}, 1)")),
    "float.npz": lambda n: one(npy("(1.5,)")),
    "text.npz": lambda n: one(npy("'1'")),
    "kinds.npz": lambda n: one(long_npy(kind="[" + "('a', '<f4')," * 500 + "]")),
    "deep_kind.npz": lambda n: one(long_npy(kind="[('a'," * 90 + "'<f4'" + ")]" * 90)),
    "deep.npz": lambda n: one(long_npy("(" * 4000 + ")" * 4000)),
    "long_header.npz": lambda n: one(long_npy(" " * 300_000)),
    "header_length.npz": lambda n: one(b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFFF)),
    "packed_header_length.npz": lambda n: one(
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFFF) + bytes(1 << 19), zipfile.ZIP_DEFLATED
    ),
    "no_kind.npz": lambda n: one(long_npy(kind="[]")),
    "keys.npz": lambda n: one(long_npy(kind="'<f4', 1: 2")),
    "wide_kind.npz": lambda n: one(npy(kind="<V2147483647")),
    "sides.npz": lambda n: packed({f"{at}.npy": long_npy("(" + "1," * 4000 + ")") for at in range(n // 100)}),
    "bomb.npz": lambda n: one(npy("(2621440,)", body=bytes(10 << 20)), zipfile.ZIP_DEFLATED),
}
"""Name -> what writes it, given how often what costs is repeated."""
