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
from scaleprior.wording import parameter, printable, shown

__all__ = ["Names", "bare", "collect"]

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put into names, also in the middle; nobody's own modules are
called so. DataParallel's ``module.`` is a prefix like any other, since it is also a word of people's own."""
_STATE = (
    "save a state_dict; pieces of a distributed checkpoint are joined by "
    "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER w.pth`"
)
_MOST = 12  # entries of a tree that an error lists
_LONGEST = 4  # of the keys around a tensor together, times the longest name
_Chain = tuple[Any, Any] | None  # (the chain around, a key)


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
    longest = _LONGEST * limits.name_length
    if _inside(content.tree) is None:
        kind = content.tree.name if isinstance(content.tree, Placeholder) else type(content.tree).__name__
        raise UserError(f"{where} holds a {kind}, not named tensors", hint=_STATE)
    # Where a value lies is a chain of keys, made a name for tensors alone: a dict may be in a million of places.
    waiting: list[tuple[_Chain, Any]] = [(None, content.tree)]
    while waiting:
        chain, value = waiting.pop()
        for key, inner in reversed(_entries(value)):
            if isinstance(inner, (Tensor, np.ndarray)) or _inside(inner) is not None:
                waiting.append(((chain, key), inner))
        if isinstance(value, (Tensor, np.ndarray)) and chain is not None:
            home, key = ".".join(printable(part) for part in _unchained(chain[0])), _word(chain[1])
            if len(home) > longest:
                raise RefusedFileError("path", f"{where}: a tensor lies in a dict with the name {shown(home)}")
            _add(found, home, check_name(key, where, limits), value, where)
            limits.check_keys(len(found.tensors), where)
    return found


def _unchained(chain: _Chain) -> list[str]:
    keys: list[str] = []
    while chain is not None:
        chain, key = chain
        keys.append(_word(key))
    return keys[::-1]


def _word(key: Any) -> str:
    return key if isinstance(key, str) else shown(key)


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


def _entries(value: Any) -> list[tuple[Any, Any]]:
    inside = _inside(value)
    return list(inside.items() if isinstance(inside, Mapping) else enumerate(inside or ()))
