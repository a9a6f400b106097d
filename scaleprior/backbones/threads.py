"""Work on many tensors in a few threads: hashing, checking, copying and writing leave the interpreter's lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_groups", "workers"]

S = TypeVar("S")
T = TypeVar("T")

_GROUP = 4 << 20  # bytes of tensors handed over at once; a thread call for each of 775 small ones would cost more


def workers() -> int:
    """Threads worth starting here: one for each core that this process may use, 4 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def map_groups(
    function: Callable[[list[str], S], Mapping[str, T]], sizes: Mapping[str, int], make: Callable[[], S]
) -> dict[str, T]:
    """What ``function(names, own)`` gives for all names together, called with runs of some megabytes, in their order.

    Args:
        sizes: name -> bytes.
        make: called once in each thread for what only this thread uses, ``own``.
    """
    local = threading.local()

    def begin() -> None:
        local.own = make()

    with ThreadPoolExecutor(workers(), initializer=begin) as pool:
        done = pool.map(lambda names: function(names, local.own), _groups(sizes))
        return {name: value for part in done for name, value in part.items()}


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for name, more in sizes.items():
        group.append(name)
        size += more
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
