"""What an untrusted file may ask of this process, and the error that says what it asked for beyond that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scaleprior.errors import UserError
from scaleprior.wording import shown

__all__ = ["FLOATS", "LIMITS", "Budget", "Limits", "RefusedFileError", "check_name", "check_shape"]

_GIB = 1 << 30
FLOATS = "take weights in float16, bfloat16, float32 or float64"
"""What to do about weights of other types."""


class RefusedFileError(UserError):
    """A file that is not opened further, because of what it holds.

    Attributes:
        reason: one of "code" (it would run some), "size" (it asks for more than the limits, or than it holds),
            "duplicate" (two tensors of one name), "path" (a name that leads out of the file), "numbers" (NaN or
            infinity), "damaged" (not what its format says).
    """

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} [refused: {reason}]", hint=hint or "get the file again from a source you trust")
        self.reason = reason


class Budget:
    """How much a file may ask for in all, of what it asks for piece by piece, again and again.

    Args:
        allowed: in all.
        what: follows "the file" in the message, with ``{}`` for ``allowed``.
    """

    def __init__(self, allowed: int, what: str) -> None:
        self.left, self._said = allowed, f"the file {what.format(f'{allowed:,}')}"

    def spend(self, count: int) -> None:
        """Raises RefusedFileError: this is more than is left."""
        self.left -= count
        if self.left < 0:
            raise RefusedFileError("size", self._said)


@dataclass(frozen=True)
class Limits:
    """Upper bounds on a weights file. The defaults leave room for detectors and for BiT R152x4 (3.7 GB).

    Attributes:
        file_bytes: size of the file.
        keys: tensors (and other leaves) in the file.
        tensor_elements: numbers in one tensor.
        header_bytes: a safetensors or JSON header.
        pickle_steps: instructions of a pickle; a tensor takes about 35.
        depth: nesting of containers.
        name_length: characters of a tensor's name.
        shards: files that an index names; the largest models have a tenth of that.
    """

    file_bytes: int = 16 * _GIB
    keys: int = 50_000
    tensor_elements: int = 1 << 30
    header_bytes: int = 16 << 20
    pickle_steps: int = 2_000_000
    depth: int = 16
    name_length: int = 256
    shards: int = 1000

    def check_file(self, size: int, where: str) -> None:
        """Raises RefusedFileError when a file of ``size`` bytes is too large."""
        if size > self.file_bytes:
            raise RefusedFileError("size", f"{where} has {size:,} bytes, at most {self.file_bytes:,} are read")

    def check_keys(self, count: int, where: str) -> None:
        """Raises RefusedFileError when a file has too many entries."""
        if count > self.keys:
            raise RefusedFileError("size", f"{where} has {count:,} entries, at most {self.keys:,} are read")


LIMITS = Limits()
"""What is read unless a caller says otherwise."""


def check_shape(shape: Sequence[object], itemsize: int, held: int, name: str, where: str, limits: Limits) -> int:
    """Bytes that a tensor of this shape takes, after checking the claim against what the file holds of it.

    Args:
        shape: as the file gives it; nothing about it is believed.
        held: bytes that the file really stores for this tensor.

    Raises:
        RefusedFileError: not a shape, beyond the limits, or more than the file stores.
    """
    sides = [n for n in shape[:9] if type(n) is int and 0 <= n < 1 << 63]
    if len(shape) > 8 or len(sides) < len(shape):
        raise RefusedFileError("damaged", f"{where}: {name} has the impossible shape {shown(shape)}")
    elements = math.prod(sides)
    if elements > limits.tensor_elements:
        raise RefusedFileError(
            "size", f"{where}: {name} claims {elements:,} numbers, at most {limits.tensor_elements:,} are read"
        )
    if elements * itemsize > held:
        raise RefusedFileError(
            "size", f"{where}: {name} claims {elements * itemsize:,} bytes but the file stores {held:,} for it"
        )
    return elements * itemsize


def check_name(name: object, where: str, limits: Limits = LIMITS) -> str:
    """The name of a tensor or an archive member, if it is a plain one.

    Raises:
        RefusedFileError: not text, too long, with control characters, or with steps of a path ("..", a leading "/").
    """
    if not isinstance(name, str) or not name or len(name) > limits.name_length or not name.isprintable():
        raise RefusedFileError("path", f"{where}: a tensor is named {shown(name)}")
    if name.startswith(("/", "\\", "~")) or "\\" in name or ".." in name.split("/") or name[1:2] == ":":
        raise RefusedFileError("path", f"{where}: the name {shown(name)} leads out of the file")
    return name
