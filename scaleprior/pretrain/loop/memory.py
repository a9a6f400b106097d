"""Out of memory in a step: one line that says which batch was too large, and how many images would fit."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaleprior.errors import ScalePriorError
from scaleprior.training.memory import OutOfMemory, causes, is_out_of_memory, memory_that_ran_out
from scaleprior.training.resources import bytes_in_words
from scaleprior.wording import counted, parameter

if TYPE_CHECKING:
    from scaleprior.pretrain.data.batches import LabelledBatch

__all__ = ["Memory", "fitting_images", "memory_errors", "memory_errors_elsewhere"]

_SPARE = 0.1  # of a GPU: memory comes in pieces, and the first update may add the optimiser's state


@dataclass(frozen=True)
class Memory:
    """Of the GPU that trains.

    Attributes:
        room: bytes that this process may take in all.
        taken: gives the most bytes in a pass forward and backward of so many images; raises torch's error where they
            do not fit either.
    """

    room: int
    taken: Callable[[int], int]


@contextlib.contextmanager
def memory_errors(
    step: int, batch: LabelledBatch, *, parts: int, memory: Callable[[LabelledBatch], Memory | None]
) -> Iterator[None]:
    """Around a step, which leaves what was saved before alone.

    Args:
        step: from 0. parts: in which the batch goes through the network.
        memory: asked for it once it has run out; None where nobody can tell, as on a CPU.

    Raises:
        OutOfMemory: memory ran out; with the batch and, where it can be found out, what would fit.
    """
    try:
        yield
        return
    except (RuntimeError, MemoryError) as e:
        said = _said(e)
        if said is None:
            raise
        whose = memory_that_ran_out(e) or "host"
        for each in causes(e):  # whoever waits for this block to end still holds the error, and so its frames' tensors
            traceback.clear_frames(each.__traceback__)
    height, width = batch.images.shape[1:3]
    what = f"memory ran out at step {step}, {counted(len(batch), 'images')} of {height}x{width} pixels"
    what += f" in {parts} parts" if parts > 1 else ""
    raise OutOfMemory(f"{what}: {said}", hint=_way_on(len(batch), parts, memory(batch)), memory=whose)


@contextlib.contextmanager
def memory_errors_elsewhere() -> Iterator[None]:
    """Around all of a run: what is built before its steps, decoded for them on a GPU, and measured after them.

    Raises:
        OutOfMemory: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        said = _said(e)
        if said is None:
            raise
        hint = f"free memory, where another process has some, and go on with {parameter('resume', True)}: "
        hint += "what was saved is whole; or take a smaller PRETRAIN.BATCH_SIZE or PRETRAIN.INPUT.SIZE"
        raise OutOfMemory(f"memory ran out: {said}", hint=hint, memory=memory_that_ran_out(e) or "host") from e


def _said(error: BaseException) -> str | None:
    """What was asked for in vain; None where memory did not run out."""
    ran_out = None if isinstance(error, ScalePriorError) else next(filter(is_out_of_memory, causes(error)), None)
    if ran_out is None:
        return None
    said = " ".join(str(ran_out).split()) or type(ran_out).__name__
    return said[said.find("Tried to allocate") :].split(". ")[0] if "Tried to allocate" in said else said[:160]


def _way_on(images: int, parts: int, memory: Memory | None) -> str:
    """What to do about it. Other settings are another run: its folder keeps what it has."""
    kept = f"the run's last checkpoint is whole, and {parameter('resume', True)} goes on from it where memory is free"
    probes = [] if memory is None else _probes(math.ceil(images / parts), memory.taken)
    fit = None if memory is None else fitting_images(probes, memory.room)
    if memory is None or fit is None:
        return f"take a larger PRETRAIN.ACCUMULATE, or a smaller PRETRAIN.BATCH_SIZE or PRETRAIN.INPUT.SIZE; {kept}"
    tried = " and ".join(str(count) for count, _ in probes)
    said = f"by estimate, from what {tried} images take, {counted(fit, 'images')} of this size at a time fit into "
    said += bytes_in_words(memory.room)
    if fit < 2:
        return f"{said}: take a smaller PRETRAIN.INPUT.SIZE; {kept}"
    smaller, parts = f"a PRETRAIN.BATCH_SIZE of {fit} a GPU", math.ceil(images / fit)
    if parts <= images // 2:  # a part of one image is refused: BN has no variance of one
        smaller = f"PRETRAIN.ACCUMULATE {parts}, or {smaller}"
    return f"{said}: take {smaller}; {kept}"


def _probes(images: int, taken: Callable[[int], int]) -> list[tuple[int, int]]:
    """(images, bytes) of two batches much smaller than one of ``images``; fewer where not even these fit."""
    found = []
    for count in sorted({max(images // 8, 2), max(images // 4, 4)}):
        try:
            found.append((count, taken(count)))
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            break
    return found


def fitting_images(probes: Sequence[tuple[int, int]], room: int) -> int | None:
    """How many images fit into nine tenths of ``room`` bytes, by a straight line through two (images, bytes).

    What takes no memory per image is the line's value at none: weights, gradients, the optimiser's state. None: the
    probes give no line, or one that does not rise.
    """
    if len(probes) < 2:
        return None
    (fewer, less), (more, most) = probes[0], probes[-1]
    each = (most - less) / (more - fewer)
    if each <= 0:
        return None
    return max(math.floor(((1 - _SPARE) * room - (less - each * fewer)) / each), 0)
