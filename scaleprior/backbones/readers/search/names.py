"""Every tensor of a file under one name: the keys of the dicts around it and its own, joined by dots."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from scaleprior.backbones.readers.containers import Content
from scaleprior.backbones.readers.limits import Limits, RefusedFileError, check_name
from scaleprior.backbones.readers.pickle import Placeholder
from scaleprior.errors import UserError
from scaleprior.wording import parameter, printable

__all__ = ["Names", "bare", "collect"]

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put into names, also in the middle; nobody's own modules are
called so. DataParallel's ``module.`` is a prefix like any other, since it is also a word of people's own."""
_STATE = (
    "save a state_dict; pieces of a distributed checkpoint are joined by "
    "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER w.pth`"
)
_MOST = 12  # entries of a tree that an error lists


def bare(name: str) -> str:
    """The name without what wrappers of torch put into it."""
    return _WRAPPERS.sub("", name) if "_mod" in name or "_wrapped" in name else name


@dataclass
class Names:
    """The tensors of a file, or of a part of it.

    Attributes:
        tensors: name -> array or tensor over the file, in the file's order.
        homes: name -> the name of the dict that it lies in, "" for the outermost.
        written: name -> as the file has it, where wrappers were taken out.
    """

    tensors: dict[str, Any]
    homes: dict[str, str]
    written: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.tensors)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.tensors)}

    def under(self, prefix: str) -> list[str]:
        """The names that begin with it, in the file's order."""
        if not prefix:
            return list(self.tensors)
        start = bisect_left(self._sorted, prefix)
        end = bisect_left(self._sorted, prefix[:-1] + chr(ord(prefix[-1]) + 1))
        return sorted(self._sorted[start:end], key=self._place.__getitem__)

    def as_written(self, name: str) -> str:
        """As the file has it."""
        return self.written.get(name, name)

    def within(self, state: str, where: str) -> Names:
        """Those of the dict that ``state`` (keys joined by dots) leads to.

        Raises:
            UserError: there is none; lists those that hold tensors.
        """
        state = bare(state).rstrip(".")
        kept = [name for name in self.under(f"{state}.") if f"{self.homes[name]}.".startswith(f"{state}.")]
        if not kept:
            dicts = sorted({home for home in self.homes.values() if home})
            raise UserError(
                f"{where} has no tensors in {parameter('state', state)}",
                hint=f"its dicts with tensors: {_list(dicts)}" if dicts else f"it is one dict: {self.tree()}",
            )
        return Names({n: self.tensors[n] for n in kept}, {n: self.homes[n] for n in kept},
                     {n: self.written[n] for n in kept if n in self.written})  # fmt: skip

    def tree(self) -> str:
        """The top of the tree for an error: names with their counts of tensors, single ones with their shapes."""
        return _list(_branches(list(self.tensors), self.tensors, 0)) or "no tensors"


def _list(words: list[str]) -> str:
    return ", ".join(words[:_MOST]) + (f", and {len(words) - _MOST} more" if len(words) > _MOST else "")


def _branches(names: list[str], tensors: Mapping[str, Any], start: int, depth: int = 0) -> list[str]:
    """One entry for each first word behind ``start``; of the outermost, and of a single one, also what it holds."""
    groups: dict[str, list[str]] = {}
    for name in names:
        end = min((at for at in (name.find(".", start), name.find("/", start)) if at >= 0), default=len(name))
        groups.setdefault(name[start:end], []).append(name)
    words = []
    for part, members in groups.items():
        if len(members) == 1:
            rest = members[0][start:]
            words.append(f"{rest} {list(tensors[members[0]].shape)}")
            continue
        open_ = depth < 8 and (depth == 0 or len(groups) == 1)
        inner = _branches(members, tensors, start + len(part) + 1, depth + 1) if open_ else []
        words.append(f"{part} ({len(members)} tensors{f': {_few(inner)}' if inner else ''})")
    return words


def _few(words: list[str]) -> str:
    return ", ".join(words[:6]) + (", ..." if len(words) > 6 else "")


def collect(content: Content, limits: Limits) -> Names:
    """Every tensor in nested dicts, lists (by number) and the placeholders of a pickle's objects.

    Raises:
        UserError: the file is no tree. RefusedFileError: too many tensors, two of one name, names that are no names.
    """
    where, found = str(content.path), Names({}, {})
    if _inside(content.tree) is None:
        kind = content.tree.name if isinstance(content.tree, Placeholder) else type(content.tree).__name__
        raise UserError(f"{where} holds a {kind}, not named tensors", hint=_STATE)
    waiting: list[tuple[str, Any]] = [("", content.tree)]
    while waiting:
        home, value = waiting.pop()
        for key, inner in reversed(_entries(value)):
            if isinstance(inner, (Tensor, np.ndarray)) or _inside(inner) is not None:
                waiting.append((f"{home}\0{key}", inner))
        if isinstance(value, (Tensor, np.ndarray)):
            *above, key = home.split("\0")[1:]
            if not home.isprintable():
                above = [printable(part) for part in above]
            _add(found, ".".join(above), check_name(key, where, limits), value, where)
            limits.check_keys(len(found.tensors), where)
    return found


def _add(found: Names, home: str, key: str, value: Any, where: str) -> None:
    written = f"{home}.{key}" if home else key
    name, home = bare(written), bare(f"{home}.").rstrip(".")
    if name != written and name in found.tensors:
        name = written  # the same module with and without its wrapper
    if name in found.tensors:
        raise RefusedFileError("duplicate", f"{where} holds {written} twice")
    found.tensors[name], found.homes[name] = value, home
    if name != written:
        found.written[name] = written


def _inside(value: Any) -> Any:
    """The dict or list that may hold tensors; of a placeholder its object's state."""
    value = value.content if isinstance(value, Placeholder) else value
    return value if isinstance(value, (Mapping, list, tuple)) else None


def _entries(value: Any) -> list[tuple[str, Any]]:
    inside = _inside(value)
    if isinstance(inside, Mapping):
        return [(str(key), inner) for key, inner in inside.items()]
    return [(str(at), inner) for at, inner in enumerate(inside or ())]
