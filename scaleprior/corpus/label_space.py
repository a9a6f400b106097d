"""The label space: classes, their names, and the is-a hierarchy, a directed acyclic graph.

Shapes: C nodes (leaves and inner nodes alike carry an index 0..C-1, in the order of the file), N images, M labels.
A batch of label sets is CSR: ``labels`` int32 [M] and ``offsets`` int64 [N + 1]; image n has
``labels[offsets[n]:offsets[n + 1]]``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scaleprior.corpus.closure import ancestor_closure, children_of
from scaleprior.corpus.hierarchy_files import load_hierarchy
from scaleprior.corpus.names import is_texts
from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.wording import shown

__all__ = ["LabelSpace"]

_SHOWN = 5  # ids named in one message
_LONG = 100  # characters; longer ids are not compared with another
_COMPARED = 25_000  # ids; ImageNet has 21,841


class LabelSpace:
    """Classes and their is-a hierarchy, with the ancestors of every node precomputed.

    Attributes:
        ids: the C node ids, in file order; a node's index is its place here.
        names: the C names for people (not unique: WordNet has two "food").
        parents: for each node the indices of its direct parents.
        leaves: int32, the indices of the classes without children, ascending.
        fingerprint: SHA-256 (hex) of ids, names, parents and leaves, in order.

    Args:
        nodes: (id, name, parent ids) of each node.
        leaves: ids of the leaves; by default every node without children. A smaller list is accepted (a hierarchy
            that covers more than the corpus), a node with children is not.
        where: what to call the source in messages, e.g. the path it was read from.

    Raises:
        UserError: a duplicate id, an unknown parent or leaf, a leaf with children, a cycle; each names the ids.
    """

    def __init__(
        self,
        nodes: Iterable[tuple[str, str, Sequence[str]]],
        *,
        leaves: Sequence[str] | None = None,
        where: str = "label space",
    ) -> None:
        rows = list(nodes)
        if not rows:
            raise UserError(f"{where} has no nodes", hint="a label space needs at least one class")
        self.ids: tuple[str, ...] = tuple(row[0] for row in rows)
        self.names: tuple[str, ...] = tuple(row[1] for row in rows)
        self._index = {node: i for i, node in enumerate(self.ids)}
        self._where = where
        if len(self._index) < len(rows):
            raise UserError(f"{where}: duplicate id {_listed(_repeated(self.ids))}", hint="give every node its own id")
        self.parents: tuple[tuple[int, ...], ...] = tuple(
            tuple(dict.fromkeys(self._parent(node, parent) for parent in parents)) for node, _, parents in rows
        )
        self._children = children_of(self.parents)
        self._roots = [node for node, above in enumerate(self.parents) if not above]
        self._closure, self._closure_offsets = ancestor_closure(self.parents, self._children, self.ids, where=where)
        self.leaves: np.ndarray = self._find_leaves(leaves)
        self.fingerprint: str = hashlib.sha256(
            json.dumps([self.ids, self.names, self.parents, self.leaves.tolist()]).encode("utf-8")
        ).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"LabelSpace({len(self)} nodes, {len(self.leaves)} leaves)"

    @classmethod
    def flat(cls, ids: Iterable[str]) -> LabelSpace:
        """A label space without hierarchy: every id is a leaf and its own name; sorted, so any order gives the same."""
        return cls((node, node, ()) for node in sorted(set(ids)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "label space") -> LabelSpace:
        """Read ``{"nodes": {id: {"name", "parents": [...]}}, "leaves": [...]}``; name and leaves may be left out."""
        nodes = data.get("nodes") if isinstance(data, Mapping) else None
        if not isinstance(nodes, Mapping):
            raise UserError(f'{where} has no object "nodes"', hint='expected {"nodes": {id: {"name", "parents"}}}')
        rows: list[tuple[str, str, list[str]]] = []
        for node, entry in nodes.items():
            parents = entry.get("parents", []) if isinstance(entry, Mapping) else None
            name = entry.get("name", node) if isinstance(entry, Mapping) else None
            # names may be numbers: of a hierarchy that was written by hand
            if not is_texts(parents) or not isinstance(name, (str, int)) or not is_texts([node, str(name)]):
                hint = 'expected {"name": str, "parents": [ids]}'
                raise UserError(f"{where}: node {shown(node)} is {shown(entry)}", hint=hint)
            rows.append((node, str(name), parents))
        leaves = data.get("leaves")
        if leaves is not None and not is_texts(leaves):
            raise UserError(f'{where}: "leaves" is {shown(leaves)}', hint="expected a list of ids")
        return cls(rows, leaves=leaves, where=where)

    @classmethod
    def load(cls, path: str | Path) -> LabelSpace:
        """Read a hierarchy file: our JSON, Open Images' hierarchy JSON, or a WordNet is-a list (``.txt``).

        Raises:
            UserError: missing or malformed file, or a hierarchy that is not a DAG; names the path and the ids.
        """
        return cls.from_dict(load_hierarchy(path), where=str(path))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that ``from_dict`` reads."""
        nodes = {
            node: {"name": name, "parents": [self.ids[parent] for parent in parents]}
            for node, name, parents in zip(self.ids, self.names, self.parents)
        }
        return {"nodes": nodes, "leaves": [self.ids[leaf] for leaf in self.leaves]}

    def save(self, path: str | Path) -> None:
        """Write the JSON form atomically."""
        write_json(path, self.to_dict())

    def index(self, label: str) -> int:
        """Index of the node with id ``label``.

        Raises:
            UserError: no node has this id; names nearby ids.
        """
        found = self._index.get(label)
        if found is None:
            near = _close_to(label, self.ids) or self.ids[:3]
            raise UserError(
                f"label {shown(label)} is not in the label space of {len(self)} nodes ({self._where})",
                hint=f"known ids look like {_listed(near)}; correct the label or add it to the hierarchy",
            )
        return found

    def __contains__(self, label: object) -> bool:
        return label in self._index

    def ancestors(self, node: int) -> np.ndarray:
        """Indices of all nodes above ``node``, without itself, ascending; int32."""
        start, stop = self._closure_offsets[self._checked(node)], self._closure_offsets[node + 1]
        closure = self._closure[start:stop]
        return closure[closure != node]

    def siblings(self, node: int) -> np.ndarray:
        """Indices of the nodes that share a direct parent with ``node`` (roots are siblings of each other)."""
        parents = self.parents[self._checked(node)]
        found = {child for parent in parents for child in self._children[parent]} if parents else set(self._roots)
        return np.array(sorted(found - {node}), dtype=np.int32)

    def expand(self, labels: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add every ancestor to each image's labels.

        Args:
            labels: integers [M] in [0, C).
            offsets: int64 [N + 1].

        Returns:
            int32 labels, ascending and unique in each row, and int64 offsets [N + 1].

        Raises:
            UserError: a label outside [0, C).
        """
        return self._spread(labels, offsets, self._closure, self._closure_offsets)

    def expand_absent(self, absent: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add every descendant to each image's absent labels: where there is no animal, there is no dog.

        Arguments, returns and errors are those of :meth:`expand`.
        """
        return self._spread(absent, offsets, *self._descendants)

    def settle_absent(
        self, labels: np.ndarray, offsets: np.ndarray, absent: np.ndarray, absent_offsets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Leave out the absent labels that a present one contradicts by being that label or below it: presence wins.

        What :meth:`expand` and :meth:`expand_absent` then add has no label in common: a present label below a
        remaining absent one would have that one among its ancestors.

        Args:
            labels, offsets: the present labels, CSR of N images, with or without ancestors.
            absent, absent_offsets: CSR of the same N images.

        Returns:
            int32 absent labels, ascending and unique in each row, and int64 offsets [N + 1].

        Raises:
            UserError: a label outside [0, C).
        """
        expanded, expanded_offsets = self.expand(labels, offsets)
        present = self._flat(expanded, expanded_offsets)
        return self._rows(np.setdiff1d(self._flat(self._inside(absent), absent_offsets), present), len(offsets) - 1)

    @cached_property
    def _descendants(self) -> tuple[np.ndarray, np.ndarray]:
        """Descendants including the node itself, ascending, as CSR: the closure turned round."""
        nodes = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self._closure_offsets))
        counts = np.bincount(self._closure, minlength=len(self))
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        return nodes[np.argsort(self._closure, kind="stable")], offsets

    def _spread(
        self, labels: np.ndarray, offsets: np.ndarray, closure: np.ndarray, closure_offsets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace each label by its row of ``closure``."""
        labels = self._inside(labels)
        offsets = np.asarray(offsets, dtype=np.int64)
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        starts = closure_offsets[labels]
        counts = closure_offsets[labels + 1] - starts
        # position k of the output belongs to label j and is element k - (first output of j) of j's closure
        first = np.cumsum(counts) - counts
        gather = np.repeat(starts - first, counts) + np.arange(counts.sum())
        flat = np.sort(np.repeat(rows, counts) * len(self) + closure[gather])
        # not np.unique, which since NumPy 2.3 hashes integers: 434,000 of them take it 0.15 s, and sorting 0.01 s
        return self._rows(flat[np.diff(flat, prepend=-1) > 0], len(offsets) - 1)

    def _inside(self, labels: np.ndarray) -> np.ndarray:
        labels = np.asarray(labels, dtype=np.int64)
        if labels.size and (labels.min() < 0 or labels.max() >= len(self)):
            bad = labels[(labels < 0) | (labels >= len(self))][0]
            raise UserError(f"label {bad} is outside the label space [0, {len(self)})", hint="use this corpus' labels")
        return labels

    def _flat(self, labels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """CSR as ``row * C + label``, int64 [M]."""
        return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * len(self) + labels

    def _rows(self, flat: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
        """The CSR of ascending ``row * C + label``."""
        per_row = np.bincount(flat // len(self), minlength=images)
        return (flat % len(self)).astype(np.int32), np.concatenate(([0], np.cumsum(per_row))).astype(np.int64)

    def _checked(self, node: int) -> int:
        if not 0 <= node < len(self):
            raise UserError(f"label {node} is outside the label space [0, {len(self)})", hint="use this corpus' labels")
        return node

    def _parent(self, node: str, parent: str) -> int:
        if parent not in self._index:
            raise UserError(
                f"{self._where}: node {shown(node)} has the unknown parent {shown(parent)}", hint="add the parent"
            )
        return self._index[parent]

    def _find_leaves(self, leaves: Sequence[str] | None) -> np.ndarray:
        if leaves is None:
            return np.array([node for node, below in enumerate(self._children) if not below], dtype=np.int32)
        unknown = [leaf for leaf in leaves if leaf not in self._index]
        if unknown:
            raise UserError(f"{self._where}: leaf {_listed(unknown)} is not a node", hint="add it to the nodes")
        repeated = _repeated(leaves)
        if repeated:
            raise UserError(f"{self._where}: duplicate leaf {_listed(repeated)}", hint="list each leaf once")
        inner = [leaf for leaf in leaves if self._children[self._index[leaf]]]
        if inner or not leaves:
            what = f"leaf {_listed(inner)} has children" if inner else "the list of leaves is empty"
            raise UserError(f"{self._where}: {what}", hint='leave "leaves" out to use every node without children')
        return np.sort(np.fromiter((self._index[leaf] for leaf in leaves), dtype=np.int32, count=len(leaves)))


def _repeated(ids: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [node for node in ids if node in seen or seen.add(node)]


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(map(shown, ids[:_SHOWN])) + more


def _close_to(label: str, ids: Sequence[str]) -> list[str]:
    """Ids that are spelled alike; of what is no id of a person's none, since the search multiplies the lengths."""
    import difflib

    if len(label) > _LONG:
        return []
    return difflib.get_close_matches(label, [node for node in ids[:_COMPARED] if len(node) <= _LONG], n=3)
