"""Pickles and torch files that ask for more than their bytes; assembled by hand, since no pickler writes them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable

__all__ = ["FILES", "int_of", "legacy", "opened", "text", "torch_zip"]

_PROTOCOL = b"\x80\x02"
_MASK = (1 << 64) - 1
_PRIMES = 11400714785074694791, 14029467366897019727, 2870177450012600261  # CPython's Objects/tupleobject.c


def text(value: str) -> bytes:
    """The instruction that puts it."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def int_of(value: int) -> bytes:
    """The instruction that puts it."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(raw)) + raw


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def made(module: str, name: str) -> bytes:
    """An object of a class that nobody knows."""
    return named(module, name) + b")\x81"


def opened(body: bytes) -> bytes:
    """A pickle of the object that ``body`` puts."""
    return _PROTOCOL + body + b"."


def torch_zip(body: bytes) -> bytes:
    """A torch file whose data.pkl is that pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", opened(body))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def legacy(content: bytes, keys: bytes = b"]") -> bytes:
    """A torch file of the older format, with those bodies of its third and fourth pickles."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    return magic + opened(b"M\xe9\x03") + opened(b"}") + opened(content) + opened(keys)


def laughs(levels: int, *, tuples: bool = False) -> bytes:
    """A list (or a tuple) of ten of ten ... : ``10 ** levels`` leaves, and texts of as many characters."""
    body = (b")" if tuples else b"]") + b"q\x000"
    for level in range(levels):
        held, number = (b"h" + bytes([level])) * 10, bytes([level + 1])
        body += b"(" + held + b"tq" + number + b"0" if tuples else b"]q" + number + b"(" + held + b"e0"
    return body + b"h" + bytes([levels])


def shared(first: bytes, again: bytes, count: int) -> bytes:
    """A list of ``again``, ``count`` times, behind an object that is remembered as number 0."""
    return first + b"q\x000](" + again * count + b"e"


def texts(count: int) -> bytes:
    return b"".join(text(f"{at:05}") for at in range(count))


def colliding(count: int) -> list[tuple[int, int]]:
    """Pairs of one hash: that of a tuple is known arithmetic, so the second number follows from the first."""
    first, second, third = _PRIMES
    inverses = pow(second, -1, 1 << 64), pow(first, -1, 1 << 64)

    def turned(lane: int, bits: int) -> int:
        return ((lane << bits) | (lane >> (64 - bits))) & _MASK

    made, at = [], 1
    target = None
    while len(made) < count:
        at += 1
        state = turned((third + at * second) & _MASK, 31) * first & _MASK
        if target is None:
            target = turned((state + 2 * second) & _MASK, 31) * first & _MASK
        needed = (turned(target * inverses[1] & _MASK, 33) - state) * inverses[0] & _MASK
        if needed < 1 << 60:
            made.append((at, needed))
    return made


def tuple_keys(count: int) -> bytes:
    pairs = b"".join(int_of(a) + int_of(b) + b"\x86N" for a, b in colliding(count))
    return b"}(" + pairs + b"u"


def module(count: int) -> bytes:
    """A network with ``count`` parts without tensors."""
    parts = b"".join(text(f"{at:05}") + made("torch.nn", "ReLU") + state(b"") for at in range(count))
    return made("torch.nn", "Sequential") + state(parts)


_PARTS = b"}(" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}("


def state(modules: bytes) -> bytes:
    """Give the object on top these modules, and no tensors."""
    return _PARTS + modules + b"uub"


def big_endian(count: int, raw: bytes = b"") -> bytes:
    """An array that has to be turned; of these bytes, or of new ones, which are remembered as number 9."""
    kind = named("numpy", "dtype") + b"(U\x02f4K\x00K\x01tR(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    raw = raw or b"T" + struct.pack("<i", 4 * count) + bytes(4 * count) + b"q\x09"
    empty = named("numpy.core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85U\x01b\x87R"
    return empty + b"(K\x01" + int_of(count) + b"\x85" + kind + b"\x89" + raw + b"tb"


def stored(count: int) -> bytes:
    """Descriptions of storages, each of all bytes of the file."""
    return (
        b"".join(
            b"("
            + text("storage")
            + named("torch", "FloatStorage")
            + text(str(at))
            + text("cpu")
            + int_of(1 << 62)
            + b"tQ0"
            for at in range(count)
        )
        + b"}"
    )


def called(module: str, name: str, argument: bytes, count: int) -> bytes:
    """Calls of something that copies its argument, one and the same, ``count`` times."""
    return named(module, name) + b"q\x010" + shared(argument + b"\x85", b"h\x01h\x00R", count)


def pairs(count: int) -> bytes:
    return b"(" + b"".join(text(f"{at:05}") + b"N\x86" for at in range(count)) + b"t"


def nones(count: int) -> bytes:
    return b"(" + b"N" * count + b"t"


def paths(count: int) -> bytes:
    """Objects below long keys: where each was is told."""
    body = made("a" * 150, "b" * 150) + b"q\x000](" + b"h\x00" * count + b"eq\x010"
    for level in range(12):
        body += b"}" + text("k" * 60) + b"h" + bytes([level + 1]) + b"sq" + bytes([level + 2]) + b"0"
    return body + b"](" + b"h\x0d" * 5 + b"e"


def wide_modules() -> bytes:
    """Modules that hold the one below ten times: 10 ** 12 paths."""
    body = made("torch.nn", "M") + state(b"") + b"q\x000"
    for level in range(12):
        held = b"".join(text(f"{at}") + b"h" + bytes([level]) for at in range(10))
        body += made("torch.nn", "M") + state(held) + b"q" + bytes([level + 1]) + b"0"
    return body + b"h\x0c"


def rebuilt(count: int) -> bytes:
    makers = named("torch.nn.parameter", "Parameter") + b"q\x010"
    makers += named("torch._tensor", "_rebuild_from_type_v2") + b"q\x020"
    return makers + shared(b"h\x01N" + nones(count) + b"\x87", b"h\x02h\x00R", count)


def shared_texts(count: int) -> bytes:
    """A tuple as a key whose text is ``count`` times that of its one member."""
    return b"}((" + text("x" * count) + b"q\x00" + b"h\x00" * count + b"tNu"


def settings(name: str, value: bytes) -> bytes:
    """A checkpoint with arguments, one of them odd."""
    return b"}(" + text("args") + b"}(" + text(name) + value + b"uu"


def timm_settings(value: bytes) -> bytes:
    """Arguments of timm's train.py, all but the model odd."""
    names = "mean std crop_pct interpolation bn_eps reprob remode sched model_ema num_classes img_size model_kwargs"
    odd = b"".join(text(name) + value for name in names.split())
    return b"}(" + text("args") + b"}(" + text("model") + text("resnet18") + odd + b"uu"


def several(count: int) -> bytes:
    """One storage described in many ways."""
    described = (
        b"(" + text("storage") + named("torch", "ByteStorage") + text("0") + text("cpu") + int_of(at) + b"tQ0"
        for at in range(count)
    )
    return b"".join(described) + b"}"


BODIES: dict[str, Callable[[int], bytes]] = {
    # references: what is made anew at each of them has no end
    "size_copied.pth": lambda n: called("torch", "Size", b"](" + b"N" * n + b"e", n),
    "set_copied.pkl": lambda n: called("builtins", "set", b"(" + texts(n) + b"t", n),
    "pairs_copied.pkl": lambda n: called("collections", "OrderedDict", pairs(n), n),
    "pairs_shared.pkl": lambda n: called("collections", "OrderedDict", nones(n) + b"q\x020(" + b"h\x02" * n + b"t", 1),
    "encoded.pkl": lambda n: called("_codecs", "encode", text("x" * 10 * n), n),
    "star.pth": lambda n: named("torch.nn.parameter", "Parameter") + b"q\x010" + shared(nones(n), b"h\x01h\x00R", n),
    "rebuilt.pth": rebuilt,
    "keywords.pkl": lambda n: (
        made("a", "b") + b"q\x01}q\x02K\x01K\x01s00" + shared(nones(n), b"h\x01h\x00h\x02\x92", n)
    ),
    "turned.pkl": lambda n: shared(big_endian(n), b"h\x00", n),
    "turned_anew.pkl": lambda n: b"](" + big_endian(n) + big_endian(n, b"h\x09") * 9 + b"e",
    "decoded.pkl": lambda n: shared(b"T" + struct.pack("<i", 4096) + b"x" * 4096, b"h\x00", 5 * n),
    "modules.pth": lambda n: shared(module(n // 10), b"h\x00", n),
    "objects.pkl": lambda n: shared(made("a", "b") + b"}(" + texts(n // 2 * 2) + b"ub", b"h\x00", n),
    "slots.pkl": lambda n: shared(made("a", "b") + b"N}(" + texts(n // 2 * 2) + b"u\x86b", b"h\x00", n),
    "arguments.pkl": lambda n: shared(named("a", "b") + nones(n) + b"R", b"h\x00", n),
    "paths.pkl": paths,
    "laughs.pkl": lambda n: laughs(12),
    "several.pth": several,
    # texts of values, for messages and names
    "rendered_key.pkl": shared_texts,
    "rendered_mean.pkl": lambda n: settings("mean", laughs(9)),
    "named.pkl": lambda n: laughs(9) + b"h\x09\x93",
    "stored.pth": lambda n: b"(" + laughs(9) + b"h\x09h\x09h\x09h\x09tQ",
    "shape.pth": lambda n: named("torch._utils", "_rebuild_tensor_v2") + b"(" + laughs(9) + b"h\x09h\x09h\x09tR",
    # keys: hashing and comparing
    "nested_key.pkl": lambda n: b"}(" + laughs(9, tuples=True) + b"Nu",
    "long_key.pkl": lambda n: shared(b"(" + texts(n) + b"t", b"}h\x00Ns", n),
    "colliding_keys.pkl": tuple_keys,
    "deep_key.pkl": lambda n: b"})" + b"\x85" * n + b"Ns",
    # many and deep
    "memo.pkl": lambda n: b"N" + b"".join(b"r" + struct.pack("<I", at) for at in range(5 * n)) + b"0}",
    "sets.pkl": lambda n: b"](" + b"\x8f" * 5 * n + b"e",
    "marks.pkl": lambda n: b"(" * 20 * n + b"N",
    "deep.pkl": lambda n: b"]" * n + b"a" * (n - 1),
    "deep_object.pkl": lambda n: made("a", "b") * n + b"b" * (n - 1),
    "deep_modules.pth": lambda n: (made("torch.nn", "M") + _PARTS + text("a")) * n + b"N" + b"uub" * n,
    "wide_modules.pth": lambda n: wide_modules(),
    # what parsers of numbers and texts do not take
    "digits.pkl": lambda n: b"I" + b"9" * 4300 + b"1\n",
    "digits_put.pkl": lambda n: b"Np" + b"9" * 4090 + b"\n",
    "large.pkl": lambda n: timm_settings(int_of(1 << 20_000)),
    "large_mean.pkl": lambda n: settings("mean", int_of(1 << 20_000) * 3 + b"\x87"),
    "large_key.pkl": lambda n: b"}" + int_of(1 << 20_000) + b"Ns",
    "mixed.pkl": lambda n: timm_settings(b"}(K\x01N" + text("1") + b"Nu"),
    "nan.pkl": lambda n: timm_settings(b"G\x7f\xf8" + bytes(6)),
    "line.pkl": lambda n: b"V" + b"\\u0041" * n + b"\n",
    "surrogate.pkl": lambda n: b"}(" + text("\ud800") + text("\udfff") + b"u",
    "circle.pkl": lambda n: b"]q\x00h\x00a",
    "popped.pkl": lambda n: b"01",
}
"""Name -> the body of its pickle, given how often what costs is repeated."""


def _file(name: str, body: Callable[[int], bytes]) -> Callable[[int], bytes]:
    return lambda n: torch_zip(body(n)) if name.endswith(".pth") else opened(body(n))


FILES: dict[str, Callable[[int], bytes]] = {
    **{name: _file(name, body) for name, body in BODIES.items()},
    # the list of a file's storages is ten of ten ... lists
    "keys.pth": lambda n: legacy(b"}", laughs(9)),
}
"""Name -> what writes it."""
