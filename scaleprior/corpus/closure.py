"""The ancestors of every node of a hierarchy, a directed acyclic graph, in time and memory that are bounded.

Shapes: C nodes, numbered 0..C-1. How many ancestors they have in all is for some graphs quadratic in C: a chain of
20,000 nodes has 200 million. Hierarchies of meanings are broad and have few.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scaleprior.errors import UserError
from scaleprior.wording import printable

__all__ = ["ancestor_closure", "children_of"]

_MOST = 1 << 25
"""Ancestors that are gathered in all: 128 MiB of numbers in the end, 0.4 GiB on the way (measured). The 1,000,000
labels that an importer takes at most may have 30 each."""
_SHOWN = 8  # nodes of a cycle that are named; more steps are counted


def children_of(parents: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each node the nodes that have it as a direct parent, ascending."""
    children: list[list[int]] = [[] for _ in parents]
    for node, above in enumerate(parents):
        for parent in above:
            children[parent].append(node)
    return children


def ancestor_closure(
    parents: Sequence[Sequence[int]], children: Sequence[Sequence[int]], ids: Sequence[str], *, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ancestors of each node including itself, ascending, as CSR: int32 [A] and int64 [C + 1].

    Args:
        parents, children: of each node, without repetition.
        ids: of the nodes, and ``where`` they are from, for messages.

    Raises:
        UserError: a cycle; names the ids along it. More ancestors than any hierarchy of meanings has.
    """
    order = _from_the_top(parents, children)
    if len(order) < len(parents):
        path = " -> ".join(_cycle(parents, set(range(len(parents))).difference(order), ids))
        raise UserError(
            f"{where}: the hierarchy has a cycle: {path} (each is-a the next)", hint="remove one of these parents"
        )
    rank = [0] * len(order)
    for place, node in enumerate(order):
        rank[node] = place
    closures: list[list[int]] = [[] for _ in parents]
    gathered = 0
    for node in order:
        found = {node}
        # the lowest first: a parent that is above another one adds nothing, as most of a complete graph's are
        for parent in sorted(parents[node], key=rank.__getitem__, reverse=True):
            if parent not in found:
                gathered += len(closures[parent])
                if gathered > _MOST:
                    raise UserError(
                        f"{where}: the {len(ids):,} nodes have more than {_MOST:,} ancestors in all, which no "
                        f"hierarchy of meanings has (counted up to {printable(ids[node][:100])!r})",
                        hint="leave out the parents that are grandparents already, and chains",
                    )
                found.update(closures[parent])
        closures[node] = sorted(found)
    counts = [len(closure) for closure in closures]
    flat = np.fromiter((a for closure in closures for a in closure), dtype=np.int32, count=sum(counts))
    return flat, np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _from_the_top(parents: Sequence[Sequence[int]], children: Sequence[Sequence[int]]) -> list[int]:
    """Kahn's topological order; without the nodes of cycles and those below them."""
    waiting = [len(above) for above in parents]
    ready = [node for node, count in enumerate(waiting) if count == 0]
    for node in ready:  # grows while it is read
        for child in children[node]:
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)
    return ready


def _cycle(parents: Sequence[Sequence[int]], stuck: set[int], ids: Sequence[str]) -> list[str]:
    """Ids along one cycle, first repeated last. Every stuck node has a stuck parent, so walking up must repeat."""
    walk: dict[int, int] = {}  # node -> its place
    node = min(stuck)
    while node not in walk:
        walk[node] = len(walk)
        node = next(parent for parent in parents[node] if parent in stuck)
    named = [ids[each][:100] for each in list(walk)[walk[node] :]]
    if len(named) > _SHOWN:
        named = [*named[: _SHOWN - 1], f"({len(named) - _SHOWN:,} more)", named[-1]]
    return [*named, ids[node][:100]]
