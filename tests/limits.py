"""Limits of the process that a test imposes on itself."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator


def leave_descriptors(count: int) -> None:
    """Let the process open ``count`` files more. The limit is on their numbers, of which the least free is taken."""
    free = [os.dup(0) for _ in range(count + 1)]
    for each in free:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@contextlib.contextmanager
def limits_kept(*kinds: int) -> Iterator[None]:
    """What the block does to limits of these ``kinds``, RLIMIT_NOFILE for one, ends with it."""
    before = {kind: resource.getrlimit(kind) for kind in kinds}
    try:
        yield
    finally:
        for kind, limit in before.items():
            resource.setrlimit(kind, limit)
