"""Checkpoints of a run in progress: durable, checked, and readable without executing anything.

A checkpoint is a safetensors file with one long tensor for each type of numbers, and in the header's metadata, under
``scaleprior.checkpoint``, a hash of all the rest and the nested state as JSON: in place of each tensor its type, where
it begins there, and its shape. Tensors that were on a GPU lie apart from those of the same type on the CPU.
Joining the tensors costs less than handing 1,400 of them to safetensors, which does 20 us of work in Python for each.

The file under its final name is always complete and on the disk: it is written beside it, flushed and renamed.
The hash tells a damaged file from a good one. Equal states make equal files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaleprior.errors import FailureError, UserError
from scaleprior.files import system_error, write_tensors
from scaleprior.training.memory import is_out_of_memory

__all__ = ["DamagedCheckpoint", "lay_out_as_weights", "load_checkpoint", "restore_rng", "rng_state", "save_checkpoint"]

_KEY = "scaleprior.checkpoint"
_OLD_KEY = "scaleprior.state"  # of the files in which each tensor lay under its number; they have no hash
_HASH = 64  # characters, before the JSON
_PIECE = 64 * 2**20  # bytes that are joined on a GPU at one time


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read.

    Attributes:
        reason: why, without its name.
    """

    reason: str = "it is not there"

    @classmethod
    def of(cls, path: str | Path, reason: str) -> DamagedCheckpoint:
        """Of the file at ``path``."""
        made = cls(f"checkpoint {path} cannot be read: {reason}", hint="it is damaged; start the run anew")
        made.reason = reason
        return made


def save_checkpoint(path: str | Path, state: dict[Any, Any]) -> None:
    """Write ``state`` atomically.

    Args:
        state: nested dicts (keys str or int), lists and tuples of tensors, numbers, strings, bools and None.

    Raises:
        TypeError: a value of another type.
        WriteError: the disk is full, the folder read-only.
    """
    parts: dict[str, list[Tensor]] = {}
    ends: dict[str, int] = {}

    def put(tensor: Tensor) -> list[Any]:
        kind = _kind(tensor)
        start = ends.get(kind, 0)
        ends[kind] = start + tensor.numel()
        parts.setdefault(kind, []).append(tensor.detach())
        return ["tensor", [kind, start, list(tensor.shape)]]

    text = json.dumps(_encode(state, put))
    joined = {kind: _join(tensors) for kind, tensors in parts.items()}
    write_tensors(path, joined, {_KEY: _sha256(text, joined) + text})


def load_checkpoint(path: str | Path) -> dict[Any, Any]:
    """The state as it was saved, tensors on the CPU.

    Raises:
        DamagedCheckpoint: no such file, not a checkpoint of ours, or one that is damaged.
        FailureError: the system does not let us read it now, which says nothing about what is in it.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise DamagedCheckpoint(f"checkpoint not found: {path}", hint="check the path")
    try:
        open(path, "rb").close()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        text = metadata.get(_OLD_KEY)
        if _KEY in metadata:
            digest, text = metadata[_KEY][:_HASH], metadata[_KEY][_HASH:]
            if digest != _sha256(text, stored):
                raise ValueError("its content differs from the hash in it")
        if text is None:
            raise ValueError("it is not a checkpoint of scaleprior")
        return _decode(json.loads(text), stored)
    # A file without a hash may hold anything; decoding it then fails in any way.
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError, RecursionError) as e:
        _refuse_passing(path, e)
        raise DamagedCheckpoint.of(path, " ".join(str(e).split()) or type(e).__name__) from e


def _refuse_passing(path: str | Path, error: Exception) -> None:
    """Raise what is no damage to the file: rights, descriptors or memory that are missing. The run must not begin anew
    for these, and in the end remove the file."""
    if is_out_of_memory(error):
        raise error
    number = system_error(error)
    if number not in (None, errno.EIO, errno.ENOENT):  # a disk that cannot read it; removed meanwhile
        said = os.strerror(number)
        raise FailureError(f"checkpoint {path} cannot be read now: {said}", hint="mend that, and run again") from error


def _kind(tensor: Tensor) -> str:
    """Under which name of the file a tensor is: its type of numbers and, unless that is the CPU, where it was."""
    kind = str(tensor.dtype).removeprefix("torch.")
    return kind if tensor.device.type == "cpu" else f"{kind}.{tensor.device}"


def _join(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers of tensors of one type and device, on the CPU."""
    if tensors[0].device.type == "cpu":
        return torch.cat([tensor.reshape(-1) for tensor in tensors])
    return _fetch(tensors)


def _fetch(tensors: Sequence[Tensor]) -> Tensor:
    """The same from a GPU, in pieces that are joined there: a transfer of each tensor would wait for the device a
    thousand times, and joining all at once would take as much of its memory again."""
    joined = torch.empty(sum(t.numel() for t in tensors), dtype=tensors[0].dtype)
    start = 0
    for piece in _pieces(tensors):
        there = torch.cat([tensor.reshape(-1) for tensor in piece])
        joined[start : start + len(there)].copy_(there)
        start += len(there)
    return joined


def _pieces(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """In their order, together up to ``_PIECE`` bytes, at least one at a time."""
    piece: list[Tensor] = []
    size = 0
    for tensor in tensors:
        own = tensor.numel() * tensor.element_size()
        if piece and size + own > _PIECE:
            yield piece
            piece, size = [], 0
        piece.append(tensor)
        size += own
    yield piece


def _sha256(text: str, joined: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for kind in sorted(joined):
        if kind.partition(".")[0] != str(joined[kind].dtype).removeprefix("torch."):
            raise ValueError(f"what is called {kind} has another type")
        digest.update(joined[kind].view(torch.uint8).numpy())
    return digest.hexdigest()


def _encode(value: Any, put: Callable[[Tensor], list[Any]]) -> Any:
    """JSON form: containers as [kind, items], tensors as what ``put`` gives, scalars as they are."""
    if isinstance(value, Tensor):
        return put(value)
    if isinstance(value, dict):
        if not all(type(key) is str or type(key) is int for key in value):
            raise TypeError(f"checkpoint keys are str or int, got {list(value)!r}")
        return ["dict", [[key, _encode(item, put)] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [_encode(item, put) for item in value]]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"cannot save a {type(value).__name__} in a checkpoint")


def _decode(node: Any, stored: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, list):
        return node
    kind, content = node
    if kind == "tensor":
        if isinstance(content, int):  # a file under the old key
            return stored[str(content)]
        kind, start, shape = content
        # A copy: aligned as torch aligns its own, and without the rest of the file behind it.
        return stored[kind][start : start + math.prod(shape)].reshape(shape).clone()
    if kind == "dict":
        return {key: _decode(item, stored) for key, item in content}
    items = [_decode(item, stored) for item in content]
    return tuple(items) if kind == "tuple" else items


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


def lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Have the numbers that a loaded optimiser keeps for each weight lie in memory as it does, as they once did.

    A checkpoint holds them in the order of their indices. Over weights in channels_last a fused optimiser would take
    each for another's (on a CPU), or refuse them (on a GPU), and the others would take the slow way.
    """
    for param, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == param.shape and value.stride() != param.stride():
                kept[name] = torch.empty_like(param, dtype=value.dtype).copy_(value)
