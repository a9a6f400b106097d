"""Work on many tensors in a few threads: hashing, summing and copying leave the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["groups", "map_tensors", "workers"]

T = TypeVar("T")

_GROUP = 4 << 20  # bytes of tensors handed over at once; a thread call for each of 775 small ones would cost more


def workers() -> int:
    """Threads worth starting here: one for each core that this process may use, 4 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def groups(names: Iterable[str], tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """``names`` in their order, in runs of some megabytes."""
    group: list[str] = []
    size = 0
    for name in names:
        group.append(name)
        size += tensors[name].numel() * tensors[name].element_size()
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def map_tensors(function: Callable[[str, Tensor], T], tensors: Mapping[str, Tensor]) -> dict[str, T]:
    """``function(name, tensor)`` of every tensor, by name."""

    def run(group: list[str]) -> dict[str, T]:
        return {name: function(name, tensors[name]) for name in group}

    with ThreadPoolExecutor(workers()) as pool:
        return {name: value for part in pool.map(run, groups(tensors, tensors)) for name, value in part.items()}
