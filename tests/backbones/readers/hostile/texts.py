"""JSON that asks for more than its bytes: safetensors headers, indexes of shards, cards."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

__all__ = ["FILES", "card", "header"]

_DEEP = 100_000  # beyond what any parser nests
_DIGITS = "9" * 5000


def header(text: str, body: bytes = bytes(8)) -> bytes:
    """A safetensors file."""
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw + body


def entry(shape: str = "2", offsets: str = "0,8", dtype: str = '"F32"') -> str:
    return f'{{"dtype":{dtype},"shape":[{shape}],"data_offsets":[{offsets}]}}'


def card(**changes: Any) -> bytes:
    """A file with no tensors and this card: what it would say, and what is changed."""
    said = {
        "schema": 1, "name": "a", "arch": {"depth": 18}, "pixel_mean": [1.0, 2.0, 3.0], "pixel_std": [1.0, 1.0, 1.0],
        "channel_order": "RGB",
    }  # fmt: skip
    return _carded(json.dumps({**said, **changes}))


def _carded(text: str) -> bytes:
    return header(json.dumps({"__metadata__": {"scaleprior.card": text}}), b"")


def _index(*shards: Any) -> bytes:
    return json.dumps({"weight_map": {f"t{at}": shard for at, shard in enumerate(shards)}}).encode()


def _nested(levels: int = 400) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def _entries(count: int, entry_at: Callable[[int], str]) -> str:
    return ",".join(f'"t{at}":{entry_at(at)}' for at in range(count))


def _twice(count: int) -> str:
    """An object whose last name is there twice."""
    return "{" + _entries(count, lambda at: "1") + ',"z":1,"z":2}'


def _one(text: str) -> bytes:
    return header(f'{{"a":{text}}}')


_LISTS = "[" * _DEEP + "]" * _DEEP
FILES: dict[str, Callable[[int], bytes]] = {
    "repeated.safetensors": lambda n: header(_twice(10 * n)),
    "repeated_within.safetensors": lambda n: _one(_twice(10 * n)),
    "length.safetensors": lambda n: struct.pack("<Q", (1 << 39) + 5) + b'{"a":1}',
    "negative_length.safetensors": lambda n: struct.pack("<q", -5) + b'{"a":1}',
    "overlap.safetensors": lambda n: header(
        "{" + _entries(n, lambda at: entry("1", f"{at},{at + 4}")) + "}", bytes(n + 4)
    ),
    "same_span.safetensors": lambda n: header("{" + _entries(n, lambda at: entry()) + "}"),
    "many.safetensors": lambda n: header("{" + _entries(10 * n, lambda at: entry("0", "0,0")) + "}"),
    "dtype.safetensors": lambda n: _one(entry(dtype="[]")),
    "dtype_object.safetensors": lambda n: _one(entry(dtype="{}")),
    "digits.safetensors": lambda n: _one(entry(_DIGITS)),
    "large_side.safetensors": lambda n: _one(entry(",".join(["9" * 4000] * 8))),
    "large_offset.safetensors": lambda n: _one(entry("2", "0," + "9" * 4000)),
    "sides.safetensors": lambda n: _one(entry(",".join(["1"] * 10 * n))),
    "wrong_size.safetensors": lambda n: _one(entry("1")),
    "deep.safetensors": lambda n: _one(_LISTS),
    "deep_objects.safetensors": lambda n: header('{"a":' * _DEEP + "1" + "}" * _DEEP),
    "nested_type.safetensors": lambda n: header(json.dumps({"a": {"dtype": _nested()}})),
    "nested_entry.safetensors": lambda n: header(json.dumps({"a": _nested()})),
    "metadata_list.safetensors": lambda n: header(f'{{"__metadata__":[1],"a":{entry()}}}'),
    "metadata_nested.safetensors": lambda n: header(f'{{"__metadata__":{{"a":{{"b":1}}}},"a":{entry()}}}'),
    "surrogate.safetensors": lambda n: header(f'{{"\\ud800":{entry()}}}'),
    "not_utf8.safetensors": lambda n: struct.pack("<Q", 8) + b'{"\xff":1}' + bytes(8),
    "infinite.safetensors": lambda n: _one(entry("Infinity")),
    "escape.index.json": lambda n: _index("../secret.safetensors"),
    "absolute.index.json": lambda n: _index("/etc/passwd"),
    "itself.index.json": lambda n: _index("itself.index.json"),
    "number.index.json": lambda n: _index(1),
    "nothing.index.json": lambda n: _index(None, "a"),
    "list.index.json": lambda n: _index([]),
    "null.index.json": lambda n: _index("a\0b"),
    "dot.index.json": lambda n: _index("."),
    "long.index.json": lambda n: _index("a" * 10 * n),
    "pipe.index.json": lambda n: _index("pipe"),
    "shards.index.json": lambda n: _index(*(f"{at}.safetensors" for at in range(2 * n))),
    "repeated.index.json": lambda n: f'{{"weight_map":{_twice(10 * n)}}}'.encode(),
    "many.index.json": lambda n: _index(*["a"] * 10 * n),
    "deep.index.json": lambda n: f'{{"weight_map":{_LISTS}}}'.encode(),
    "digits.index.json": lambda n: f'{{"weight_map":{{"a":{_DIGITS}}}}}'.encode(),
    "not_utf8.index.json": lambda n: b'{"weight_map":{"\xff":"a"}}',
}
"""Name -> what writes it, given how often what costs is repeated."""

CARDS: dict[str, Callable[[int], bytes]] = {
    "deep": lambda n: _carded(f'{{"name":{_LISTS}}}'),
    "digits": lambda n: _carded(f'{{"schema":{_DIGITS}}}'),
    "list": lambda n: _carded("[]"),
    "nested": lambda n: card(name=_nested()),
    "images": lambda n: card(images=10**4200),
    "epochs": lambda n: card(epochs=10**4200),
    "mean": lambda n: card(pixel_mean=[10**4200, 1, 1]),
    "long_mean": lambda n: card(pixel_mean=[1.0] * 10 * n),
    "order": lambda n: card(channel_order=[]),
    "schema": lambda n: card(schema=[]),
    "family": lambda n: card(arch={"family": []}),
    "family_text": lambda n: card(arch={"family": "x" * 10 * n}),
    "model": lambda n: card(arch={"family": "timm", "model": []}),
    "depth": lambda n: card(arch={"depth": []}),
    "depth_nested": lambda n: card(arch={"depth": {"a": _nested()}}),
    "norm": lambda n: card(arch={"norm": {}}),
    "width": lambda n: card(arch={"res2_out_channels": 10**4200}),
    "stride": lambda n: card(arch={"depth": 50, "stride_in_1x1": _nested()}),
    "arch_fields": lambda n: card(arch={f"f{at}": 1 for at in range(n)}),
    "fields": lambda n: card(**{f"f{at}": 1 for at in range(n)}),
    "facts": lambda n: card(schema=3, facts={"norm": {"from": [], "where": "a"}}),
    "facts_nested": lambda n: card(schema=3, facts={"norm": _nested()}),
    "facts_list": lambda n: card(schema=3, facts=[1]),
    "repeated": lambda n: card(norm=_nested()),
    "eps": lambda n: card(norm_eps=10**4200),
    "text": lambda n: card(name="\x1b[31m\n../a" + "x" * 10 * n),
    "hash": lambda n: card(tensors_sha256="\ud800"),
    "absent": lambda n: card(),
}
"""What is wrong with a card -> what writes a file with it."""
