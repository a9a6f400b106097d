"""``fit_table``: from a results file to the laws of its ladders."""

from __future__ import annotations

from collections.abc import Sequence

from scaleprior.errors import UserError
from scaleprior.laws.choosing import in_words
from scaleprior.laws.fit import FormChoice, fit_law
from scaleprior.laws.grouping import listed
from scaleprior.laws.law import Law
from scaleprior.laws.table import Table
from scaleprior.wording import parameter

__all__ = ["fit_table"]


def fit_table(
    table: Table,
    *,
    kind: str = "score",
    forms: FormChoice | Sequence[FormChoice] = "auto",
    seed: int = 0,
    unit: str = "auto",
    level: float = 0.9,
) -> dict[str, Law]:
    """Fit a law to each of the table's series that has enough rungs; ``table.too_few`` says why others have none.

    Args:
        table: of ``read_table``.
        kind, forms, seed, unit, level: as for :func:`fit_law`.

    Raises:
        UserError: a series that no law can be fitted to, or none with enough rungs; says what splits the rows.
    """
    too_few = table.too_few if len(table.series) > 1 else {}  # fit_law says it of a single one
    if too_few and len(too_few) == len(table.series):
        raise _none_left(table)
    laws = {}
    for name, rows in table.series.items():
        if name in too_few:
            continue
        try:
            laws[name] = fit_law(
                *(rows.images, rows.metric),
                kind=kind,
                groups=rows.seeds,
                forms=forms,
                seed=seed,
                unit=unit,
                level=level,
            )
        except UserError as e:
            where = f"{', '.join(table.group) or 'all rows'} {name}"
            raise UserError(f"{table.source}, {where}: {e.wording.marked}") from e
    return laws


def _none_left(table: Table) -> UserError:
    """The error that says what splits the rows, and the words that choose among them or draw one law of them."""
    short = "; ".join(f"{name}: {why}" for name, why in table.too_few.items())
    if not table.differ:
        return UserError(f"{table.source} has too few rungs for a law: {short}", hint="finish more cells of the ladder")
    splits = [
        f"{name} in {', '.join(f'{c} ({listed(values)})' for c, values in columns.items())}"
        for name, columns in table.differ.items()
    ]
    columns = {c: values for of_group in table.differ.values() for c, values in of_group.items()}
    column, values = next(iter(columns.items()))
    return UserError(
        f"{table.source}: rows differ in what no law may mix, and no part is left with enough rungs. Differ: "
        f"{'; '.join(splits)}. Parts: {short}",
        hint=f"choose rows with {in_words(column, values[0])}, or, where the difference is known not to matter, draw "
        f"one law with {parameter('across', ','.join(columns))}",
    )
