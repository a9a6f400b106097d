"""Where a backbone goes in a model: every trunk in it that has the backbone's tensors, whatever it is wrapped in.

A name of the model matches the canonical name that is its longest dotted suffix, so one file fills ``backbone.``,
``backbone.bottom_up.``, ``student.backbone.`` and, for C4, ``roi_heads.res5.``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from scaleprior.backbones.trunks.family import TrunkSpec

__all__ = ["TrunkPlace", "dotted", "find_trunks", "paths_above"]


@dataclass(frozen=True)
class TrunkPlace:
    """One trunk in a model.

    Attributes:
        path: of the module that holds the stem, "" where that is the model itself.
        prefixes: what stands before the canonical names in the model: of the stem, and of C4's res5 in the heads.
        filled: name in the model -> canonical name.
    """

    path: str
    prefixes: tuple[str, ...]
    filled: Mapping[str, str]

    def overlaps(self, path: str) -> bool:
        """Whether the module at ``path`` is the trunk, is in it or is around it."""
        return not self.path or f"{path}.".startswith(f"{self.path}.") or self.is_below(path)

    def is_below(self, path: str) -> bool:
        """Whether the trunk is in the module at ``path``, or is it."""
        return not path or f"{self.path}.".startswith(f"{path}.")


def find_trunks(names: Collection[str], canonical: Collection[str], arch: TrunkSpec) -> list[TrunkPlace]:
    """The trunks in a model, in the order in which they stand there.

    Args:
        names: of the model's tensors.
        canonical: of the tensors of a backbone file.
        arch: the file's.
    """
    part_of = arch.family.part_of
    found = {name: source for name in names if (source := _longest_suffix(name, canonical)) is not None}
    # A trunk is where its stem is; a name such as "norm.weight" (BiT's last) also ends names of other layers. What
    # stands apart from the stem is C4's res5 in the heads, and its names are its own.
    stems = dict.fromkeys(_prefix(name, source) for name, source in found.items() if part_of(source) == "stem")
    by_prefix: dict[str, dict[str, str]] = {}
    for name, source in found.items():
        prefix = _prefix(name, source)
        if prefix in stems or source.startswith("res"):
            by_prefix.setdefault(prefix, {})[name] = source
    of_trunk: dict[str, list[str]] = {stem: [stem] for stem in stems}
    for prefix in by_prefix:
        if prefix not in stems:
            nearest = max(stems, key=lambda stem: _common(stem, prefix), default=prefix)
            of_trunk.setdefault(nearest, []).append(prefix)
    return [
        TrunkPlace(
            first.removesuffix("."),
            tuple(prefixes),
            {name: source for prefix in prefixes for name, source in by_prefix[prefix].items()},
        )
        for first, prefixes in of_trunk.items()
    ]


def paths_above(path: str) -> Iterator[str]:
    """``path``, and the modules around it from the inside out: "a.b", "a", ""."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def dotted(*parts: str) -> str:
    """``model``, ``backbone.stages`` -> ``model.backbone.stages``, as a LazyConfig names them: without the names that
    wrappers of DDP's and of torch.compile's put in."""
    names = ".".join(part for part in parts if part).split(".")
    return ".".join(name for name in names if name not in ("module", "_orig_mod"))


def _prefix(name: str, source: str) -> str:
    return name[: len(name) - len(source)]


def _common(one: str, other: str) -> int:
    """How many dotted parts two prefixes begin with together."""
    parts = zip(one.split("."), other.split("."))
    return next((n for n, (a, b) in enumerate(parts) if a != b), min(one.count("."), other.count(".")))


def _longest_suffix(name: str, canonical: Collection[str]) -> str | None:
    while name not in canonical:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name
