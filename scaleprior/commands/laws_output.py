"""What ``scaleprior laws`` says of the rows it read and the laws it fitted: in words, and as fields of ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from scaleprior.wording import counted

if TYPE_CHECKING:
    from scaleprior.laws import Law
    from scaleprior.laws.several import Laws
    from scaleprior.laws.table import Table

__all__ = ["about", "identity", "law_facts", "notes"]


def about(table: Table, laws: Laws) -> dict[str, Any]:
    """What a result says of all that was read: the metric and its unit, the level, and what is in no law and why."""
    from scaleprior.laws.table import LeftOut

    some = next(iter(laws.values()))
    reasons = {name: "too few rungs" if name in table.too_few else "no law" for name in laws.left_out}
    used = {*laws, *chain.from_iterable(laws.together)}
    unfitted = [
        LeftOut(reasons.get(name, "not asked for"), name, tuple(series.lines))
        for name, series in table.series.items()
        if name not in used
    ]
    return {
        "metric": table.metric,
        "kind": some.kind,
        "unit": _unit(some),
        "level": some.level,
        "left_out": table.from_scratch,
        "too_few": table.too_few,
        "not_fitted": {name: why.flags for name, why in laws.left_out.items()},
        "rows_left_out": [one.to_dict() for one in (*table.left_out, *unfitted)],
        "fitted_together": [list(names) for names in laws.together],
        "notes": [note.flags for note in table.notes] + _merged(laws),
    }


def law_facts(law: Law) -> dict[str, Any]:
    """What a law was fitted to: its kind, unit and scale, the measured range, and the runs and seeds of each rung."""
    data = law.data
    rungs = [
        {
            "images": float(n),
            "runs": int((data.n == n).sum()),
            "seeds": [str(data.group_labels[g]) for g in data.group[data.n == n] if g >= 0],
        }
        for n in data.sizes
    ]
    return {
        "kind": law.kind,
        "unit": _unit(law),
        "scale": data.scale,
        "level": law.level,
        "range": {"from": float(data.sizes[0]), "to": float(data.sizes[-1])},
        "rungs": rungs,
        "seeds": [str(label) for label in data.group_labels],
        "merged": data.merged,
        "notes": list(law.notes),
    }


def identity(table: Table, name: str) -> dict[str, Any]:
    """Identity column -> what the law's rows say in it, None for unknown; a list where it was drawn across several."""
    from scaleprior.laws.grouping import UNKNOWN

    said = {c: [None if v == UNKNOWN else v for v in values] for c, values in table.series[name].identity.items()}
    return {c: values[0] if len(values) == 1 else values for c, values in said.items()}


def notes(table: Table, laws: Laws) -> list[str]:
    """A line for each thing that is to be known of the rows: what was split, merged and left out."""
    lines = [f"{note.flags}." for note in table.notes] + [f"{note}." for note in _merged(laws)]
    lines += [f"Fitted together: {_named(names, laws)}." for names in laws.together]
    lines += [f"Left out: {name}: {why.flags}." for name, why in laws.left_out.items()]
    if table.from_scratch:
        means = ", ".join(f"{name} {sum(v) / len(v):.2f}" for name, v in table.from_scratch.items())
        runs = sum(map(len, table.from_scratch.values()))
        lines.append(f"Left out: {runs} from-scratch run(s) (0 images; mean {means}).")
    return lines


def _named(names: Sequence[str], laws: Mapping[str, Law]) -> str:
    """The laws of one fit; those that were not asked for lent what they know."""
    lenders = [name for name in names if name not in laws]
    asked = ", ".join(name for name in names if name in laws)
    return f"{asked}, with {', '.join(lenders)}" if lenders else asked


def _merged(laws: Mapping[str, Law]) -> list[str]:
    return [
        f"{name}: {counted(law.data.merged, 'rows')} merged with another of the same images, metric and seed, whose "
        "weight grows"
        for name, law in laws.items()
        if law.data.merged
    ]


def _unit(law: Law) -> str:
    """ "fraction", "percent" or "loss"."""
    if not law.data.bounded:
        return "loss"
    return "percent" if law.data.scale == 100.0 else "fraction"
