"""Whole files of every kind, changed at random: each ends in an error for people or in values; memory stays bounded.

And nothing of them runs: an audit hook, which sees what the interpreter does underneath, hears of no program.
"""

from __future__ import annotations

import argparse
import io
import math
import pickle
import pickletools
import random
import struct
import sys
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from scaleprior.backbones import read_backbone
from scaleprior.backbones.readers.containers import open_container
from scaleprior.backbones.readers.pickle import Placeholder
from scaleprior.errors import UserError
from tests.backbones.readers.malicious import peak

CASES = 60
GROWTH = 64  # MiB
_INSTRUCTIONS = [code.code.encode("latin1") for code in pickletools.opcodes]
_TRACE = "module_that_leaves_a_trace"
_HEARD: list[str] | None = None
_PROGRAMS = (
    "pickle.find_class", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "code.", "pty.",
    "webbrowser.", "urllib.",
)  # fmt: skip
_HARMLESS = ("os.stat", "os.listdir", "os.scandir", "os.path", "os.fspath", "os.lstat")


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _HEARD is not None and event.startswith(_PROGRAMS) and not event.startswith(_HARMLESS):
        _HEARD.append(f"{event} {str(arguments)[:80]}")


@contextmanager
def programs() -> Iterator[list[str]]:
    """What is run, imported, started or removed meanwhile."""
    global _HEARD
    if not getattr(sys, "_scaleprior_hears", False):
        sys.addaudithook(_hear)  # which cannot be taken away again
        sys._scaleprior_hears = True  # pyright: ignore[reportAttributeAccessIssue]
    _HEARD = []
    try:
        yield _HEARD
    finally:
        _HEARD = None


def torch_file(content: Any, *, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def written_here() -> type:
    """A class of a module that could be imported when its objects are read, and would leave a trace."""
    module = types.ModuleType(_TRACE)
    exec("class Settings:\n    pass", module.__dict__)
    sys.modules[_TRACE] = module
    return module.Settings


def checkpoint() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "own": written_here()(),
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), betas=(0.9, 0.99)),
        "optimiser": torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1),
        "net": nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "array": np.arange(6, dtype=np.float32),
        "state_dict": {"conv1.weight": torch.randn(4, 3, 7, 7), "bn1.weight": torch.ones(4)[1:]},
    }


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))), buffer)
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"resnet/a/kernel": np.arange(9.0), "b": np.ones((2, 3), np.float32)})
    return buffer.getvalue()


def pickled(protocol: int) -> Callable[[], bytes]:
    held = {"args": argparse.Namespace(a=[1]), "blobs": {"conv1_w": np.ones((2, 3), np.float32), "b": np.float64(1)}}
    return lambda: pickle.dumps({**held, "objects": np.array([None, "a"], dtype=object)}, protocol=protocol)


WRITERS: dict[str, Callable[[], bytes]] = {
    "zip": lambda: torch_file(checkpoint()),
    "legacy": lambda: torch_file(checkpoint(), old=True),
    "torchscript": scripted,
    "pickle 0": pickled(0),
    "pickle 2": pickled(2),
    "pickle 4": pickled(4),
    "safetensors": lambda: save_safetensors({"a": torch.ones(2, 3), "b": torch.arange(4)}, {"note": "x"}),
    "npz": arrays,
}


def change(data: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, put in, taken away, repeated; or the rest cut off."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, length = rng.randrange(len(made) or 1), rng.choice((1, 1, 2, 8, 64))
        way = rng.randrange(7)
        if way == 0:
            made[at : at + 1] = bytes([rng.randrange(256)])
        elif way == 1:
            made[at : at + 1] = rng.choice(_INSTRUCTIONS)
        elif way == 2:
            made[at:at] = rng.choice(_INSTRUCTIONS)
        elif way == 3:
            del made[at : at + length]
        elif way == 4:
            made[at:at] = made[at : at + length]
        elif way == 5:
            made[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)))
        elif rng.random() < 0.2:
            del made[at:]
    return bytes(made)


def changed_member(data: bytes, rng: random.Random) -> bytes:
    """A zip archive whose pickle or first array is changed and whose checksums are in order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for member in source.infolist():
            content, name = source.read(member), member.filename
            target.writestr(name, change(content, rng) if name.endswith(("data.pkl", ".npy")) else content)
    return buffer.getvalue()


def changed_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header is as long as it says it is."""
    length = struct.unpack("<Q", data[:8])[0]
    header = change(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def look(value: Any, depth: int = 0) -> None:
    """Go through all values and read every number."""
    assert depth < 200
    if isinstance(value, (Tensor, np.ndarray)):
        assert math.prod(value.shape) <= 1 << 20
        np.asarray(value).tobytes() if isinstance(value, np.ndarray) else value.flatten().tolist()
    elif isinstance(value, Placeholder):
        assert isinstance(value.name, str)
        look(value.content, depth + 1)
    elif isinstance(value, dict):
        for part in value.values():
            look(part, depth + 1)
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            look(part, depth + 1)
    else:
        assert value is None or isinstance(value, (str, bytes, int, float, memoryview)), type(value)


def from_now_on() -> None:
    """Let peak memory begin with what is held now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WRITERS)
def test_changed_files_end_in_errors_for_people_or_in_values(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = WRITERS[kind](), tmp_path / "w"
    sys.modules.pop(_TRACE, None)
    (tmp_path / f"{_TRACE}.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path.write_bytes(data)
    look(open_container(path).tree)
    rng = random.Random(zlib.crc32(kind.encode()))
    again = {"safetensors": changed_header}.get(kind, changed_member if data[:2] == b"PK" else change)
    cases = [(change if n % 3 == 0 else again)(data, rng) for n in range(CASES)]
    read = refused = 0
    nameless = []
    from_now_on()
    before = peak()
    with programs() as heard:
        for n, case in enumerate(cases):
            path.write_bytes(case)
            try:
                look(open_container(path).tree)
                read += 1
            except UserError as e:
                refused += 1
                nameless += [f"case {n}: {e}"] if str(path) not in str(e) else []
            with suppress(UserError):
                read_backbone(path)
    assert heard == []
    assert _TRACE not in sys.modules
    assert not (tmp_path / "trace").exists()
    assert nameless == []
    assert (peak() - before) / 1024 < GROWTH
    assert read
    assert refused > CASES // 10


def test_the_audit_hook_hears_programs(tmp_path: Path) -> None:
    """The control: what the fuzz test would hear if Python's own reader read."""
    code = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R."
    with programs() as heard:
        pickle.loads(code)
    assert [event.split()[0] for event in heard][-2:] == ["pickle.find_class", "os.system"]
