"""Checkpoints of a run in progress, cheap enough for every step, and readable without executing anything.

A checkpoint is a safetensors file: tensors under running numbers, and in the header's metadata, under
``scaleprior.state``, the nested state as JSON with each tensor replaced by its number. Bytes go from the tensors'
memory straight to the file, and are not flushed to the disk: a killed process loses nothing, a power cut may.

The file under its final name is always complete. Two files take turns: the new state overwrites the older file, which
is then renamed to the final name, and the file it replaces waits as ``.NAME.spare``. Overwriting pages that exist
costs a tenth of making new ones (measured: 0.3 ms against 3 ms for 13 MB), and a file without new blocks also escapes
ext4's flush on rename (7 ms).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaleprior.errors import FailureError, UserError
from scaleprior.training.seeds import seed_everything

__all__ = ["load_checkpoint", "remove_checkpoint", "restore_rng", "rng_state", "save_checkpoint", "seed_everything"]

_STATE_KEY = "scaleprior.state"
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_SEGMENTS = 512  # buffers handed to one writev; POSIX guarantees 16, Linux takes 1024


def save_checkpoint(path: str | Path, state: dict[Any, Any]) -> None:
    """Write ``state`` atomically.

    Args:
        state: nested dicts (keys str or int), lists and tuples of tensors, numbers, strings, bools and None.

    Raises:
        TypeError: a value of another type.
        FailureError: the disk is full, the folder read-only.
    """
    tensors: list[Tensor] = []
    tree = _encode(state, tensors)
    # Put together as text: dumping a dict for each of a ResNet's 500 tensors would take longer than writing them.
    entries, end = [f'"__metadata__":{json.dumps({_STATE_KEY: json.dumps(tree)})}'], 0
    for number, tensor in enumerate(tensors):
        begin, end = end, end + tensor.numel() * tensor.element_size()
        kind, shape = _DTYPES[tensor.dtype], list(tensor.shape)
        entries.append(f'"{number}":{{"dtype":"{kind}","shape":{shape},"data_offsets":[{begin},{end}]}}')
    text = f"{{{','.join(entries)}}}".encode()
    text += b" " * (-len(text) % 8)
    buffers = [_bytes_of(tensor) for tensor in tensors if tensor.numel()]
    _replace(Path(path), [memoryview(struct.pack("<Q", len(text)) + text), *buffers])


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor, not copied; valid while the tensor lives."""
    # Through ctypes: reshaping, viewing as bytes and converting to NumPy would cost 1 ms for a ResNet's 500 tensors.
    size = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B")


def remove_checkpoint(path: str | Path) -> None:
    """Remove a checkpoint and the file that takes turns with it; nothing there is fine."""
    for each in (Path(path), *_companions(Path(path))):
        each.unlink(missing_ok=True)


def _companions(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.spare"), path.with_name(f".{path.name}.old")


def _replace(path: Path, buffers: list[memoryview]) -> None:
    spare, old = _companions(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        old.unlink(missing_ok=True)
        # A spare with a second name (somebody's hard-link backup) is not ours to overwrite.
        if spare.exists() and spare.stat().st_nlink > 1:
            spare.unlink()
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            _write_all(descriptor, buffers)
            os.ftruncate(descriptor, sum(map(len, buffers)))
        finally:
            os.close(descriptor)
        # The second name keeps the replaced file for the next turn; without hard links it is just made anew.
        with contextlib.suppress(OSError):
            os.link(path, old)
        os.replace(spare, path)
        with contextlib.suppress(OSError):
            os.rename(old, spare)
    except OSError as e:
        spare.unlink(missing_ok=True)
        raise FailureError(f"cannot write {path}: {e.strerror or e}", hint="free space and run again") from e


def _write_all(descriptor: int, buffers: list[memoryview]) -> None:
    for start in range(0, len(buffers), _SEGMENTS):
        pending = buffers[start : start + _SEGMENTS]
        while pending:
            written = os.writev(descriptor, pending)
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if pending and written:
                pending[0] = pending[0][written:]


def load_checkpoint(path: str | Path) -> dict[Any, Any]:
    """The state as it was saved, tensors on the CPU.

    Raises:
        UserError: no such file, or not a checkpoint of ours.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise UserError(f"checkpoint not found: {path}", hint="check the path")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_STATE_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if text is None:
            raise UserError(f"{path} is not a checkpoint of scaleprior", hint="give the file that a run wrote")
        return _decode(json.loads(text), tensors)
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as e:
        raise UserError(f"checkpoint {path} cannot be read: {e}", hint="it is damaged; start the run anew") from e


def _encode(value: Any, tensors: list[Tensor]) -> Any:
    """JSON form: containers as [kind, items], tensors as ["tensor", number], scalars as they are."""
    if isinstance(value, Tensor):
        tensors.append(value if value.is_contiguous() and value.is_cpu else value.detach().cpu().contiguous())
        return ["tensor", len(tensors) - 1]
    if isinstance(value, dict):
        if not all(type(key) is str or type(key) is int for key in value):
            raise TypeError(f"checkpoint keys are str or int, got {list(value)!r}")
        return ["dict", [[key, _encode(item, tensors)] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [_encode(item, tensors) for item in value]]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"cannot save a {type(value).__name__} in a checkpoint")


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, list):
        return node
    kind, content = node
    if kind == "tensor":
        return tensors[str(content)]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items: Iterator[Any] = (_decode(item, tensors) for item in content)
    return tuple(items) if kind == "tuple" else list(items)


def rng_state() -> dict[str, Any]:
    """State of Python's and torch's generators (CPU and all GPUs), for a checkpoint."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    version, words, gauss = random.getstate()
    return {"python": [version, torch.tensor(words), gauss], "torch": torch.get_rng_state(), "cuda": cuda}


def restore_rng(state: dict[str, Any]) -> None:
    """Undo :func:`rng_state`. GPU states are taken only where as many GPUs are there."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
