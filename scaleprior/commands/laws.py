"""``scaleprior laws fit|compare|forecast``: what more pretraining data was worth, and what the next factor will be."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.ap_names import AP_NAMES
from scaleprior.commands.laws_output import about, identity, law_facts, notes
from scaleprior.errors import UserError
from scaleprior.terminal import say, say_json

if TYPE_CHECKING:
    from scaleprior.laws import Estimate, Law, LawBetween
    from scaleprior.laws.answers import Answers
    from scaleprior.laws.several import Laws
    from scaleprior.laws.table import Table

__all__ = ["register"]

_IN_UNITS = {"percent": "in percent", "fraction": "in fractions", "loss": "as an unbounded loss"}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``laws`` command."""
    parser = subparsers.add_parser("laws", help="fit, compare and forecast with scaling laws from a results.csv")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    fit = actions.add_parser("fit", help="fit a law per architecture and predict")
    _input_arguments(fit)
    fit.add_argument(
        "--predict", nargs="+", type=float, metavar="N", default=[], help="images to predict the metric at"
    )
    fit.add_argument("--form", default="auto", help=_NamingForms("auto (default), or one form: %(forms)s"))
    fit.add_argument("--out", type=Path, help="write a picture (.png, .svg, .pdf) or the laws as .json")
    fit.set_defaults(handler=_fit)

    compare = actions.add_parser("compare", help="do two architectures gain differently from data?")
    _input_arguments(compare)
    compare.add_argument(
        "names", nargs="*", metavar="NAME", help="the two to compare; may be left out if there are two"
    )
    compare.add_argument(
        "--at", nargs="+", type=float, metavar="N", default=[], help="images at which to compare the metric"
    )
    compare.add_argument("--out", type=Path, help="write the comparison as .json")
    compare.set_defaults(handler=_compare, later="names")

    forecast = actions.add_parser("forecast", help="images for a target metric, metric for a number of images")
    _input_arguments(forecast)
    forecast.add_argument("--target", nargs="+", type=float, metavar="METRIC", default=[], help="metric to reach")
    forecast.add_argument("--images", nargs="+", type=float, metavar="N", default=[], help="images to forecast at")
    forecast.add_argument(
        "--capacity", nargs="+", metavar="NAME=SIZE", default=[],
        help="parameters of architectures (R-50=25.6M R-101=44.5M): one without runs is forecast between the measured "
        "ones; a name alone if its parameters are documented (R-50, R-101, R-152)",
    )  # fmt: skip
    forecast.add_argument("--out", type=Path, help="write the forecast as .json")
    forecast.set_defaults(handler=_forecast)

    forms = actions.add_parser("forms", help="the forms a law may take: names, formulas, sources")
    forms.set_defaults(handler=_forms)


class _NamingForms(str):
    """A help text with ``%(forms)s``, the names of the known forms.

    They are looked up when the text is printed: every command builds this parser, and none should wait for numpy.
    """

    __slots__ = ()

    def __mod__(self, values: Any) -> str:
        from scaleprior.laws import known_forms

        return str(self) % {**values, "forms": ", ".join(known_forms())}


def _input_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, metavar="RESULTS.csv", help="one row per finished run")
    parser.add_argument(
        "--x", default="images", metavar="COLUMN", help="column of pretraining images (default: images)"
    )
    parser.add_argument("--y", default="ap", metavar="COLUMN", help="column of the metric (default: ap)")
    parser.add_argument(
        "--group", metavar="COLUMN,...", help="one law per value of these columns (default: arch if present)"
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE,...",
        help="only rows with such a value; repeatable. Rows that differ in detector, schedule, data set, engine, "
        "recipe and the like are several laws: this chooses among them",
    )  # fmt: skip
    parser.add_argument(
        "--across", metavar="COLUMN,...", default="", help="one law all the same where rows differ in these columns"
    )
    parser.add_argument(
        "--seed-column", default="seed", metavar="COLUMN", help="runs that share a seed (default: seed)"
    )
    parser.add_argument("--kind", choices=("score", "error"), default="score", help="score: more is better (default)")
    parser.add_argument(
        "--unit",
        choices=("auto", "fraction", "percent", "loss"),
        default="auto",
        help="of the metric; auto (default) takes AP and AR for percent where a value above 1 shows it, and asks where "
        "none does; others are fractions if all are at most 1",
    )
    parser.add_argument("--level", type=float, default=0.9, help="nominal coverage of intervals (default: 0.9)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _read(args: argparse.Namespace) -> Table:
    from scaleprior.laws.table import read_table

    return read_table(
        args.results, x=args.x, y=args.y, group=args.group, seed=args.seed_column, where=_where(args.where),
        across=args.across,
    )  # fmt: skip


def _where(words: list[str]) -> dict[str, str]:
    """Column -> values with commas between; a column that is named twice has the values of both."""
    chosen: dict[str, str] = {}
    for word in words:
        column, equals, value = word.partition("=")
        if not (column.strip() and equals and value.strip()):
            raise UserError(f"--where {word!r} is no COLUMN=VALUE", hint="such as --where max_iter=90000")
        before = chosen.get(column.strip())
        chosen[column.strip()] = value.strip() if before is None else f"{before},{value.strip()}"
    return chosen


def _laws(args: argparse.Namespace, table: Table, *, forms: str = "auto", names: list[str] | None = None) -> Laws:
    from scaleprior.laws import fit_table

    return fit_table(
        table, names=names, kind=args.kind, forms=forms, seed=args.seed, unit=args.unit, level=args.level
    )  # fmt: skip


def _width(table: Table) -> int:
    return max([14, *(len(name) + 2 for name in table.series)])


def _out_suffix(path: Path | None, allowed: tuple[str, ...]) -> str:
    if path is None:
        return ""
    if path.suffix.lower() not in allowed:
        raise UserError(
            f"--out {path}: unknown kind of file {path.suffix!r}", hint=f"end its name in {', '.join(allowed)}"
        )
    return path.suffix.lower()


def _finish(args: argparse.Namespace, result: dict[str, Any], lines: list[str]) -> None:
    """Write --out as JSON if asked for, and print the result for machines or for people."""
    from scaleprior.files import write_json

    if args.out is not None and args.out.suffix.lower() == ".json":
        write_json(args.out, result)
    if args.json:
        say_json(result)
    else:
        say(*lines)


def _interval(estimate: Estimate, law: Law, sign: str = "") -> str:
    from scaleprior.laws.words import decimals

    style = f"{sign}.{decimals(law)}f"
    return f"{estimate.value:{style}} [{estimate.low:{style}}, {estimate.high:{style}}]"


def _fit(args: argparse.Namespace) -> None:
    from scaleprior.laws import get_form
    from scaleprior.laws.words import decimals, percent, shared_notes, shared_reasons

    suffix = _out_suffix(args.out, (".png", ".svg", ".pdf", ".json"))
    if args.form != "auto":
        get_form(args.form)  # a wrong name is not to be blamed on the file
    table = _read(args)
    laws = _laws(args, table, forms=args.form)
    result: dict[str, Any] = {"laws": {}, **about(table, laws)}
    covering, wide = f"{percent(args.level)} interval", _width(table)
    lines = [
        f"{table.metric} {_IN_UNITS[result['unit']]}, gains with the {covering} of the law", "",
        f"{'law':<{wide}}{'runs':>6}{'rungs':>7}{'gain per decade':>26}  form",
    ]  # fmt: skip
    for name, law in laws.items():
        gain = _interval(law.per_decade, law)
        lines.append(f"{name:<{wide}}{law.data.n.size:>6}{law.data.sizes.size:>7}{gain:>26}  {law.form}")
        described = {"identity": identity(table, name), **law.to_dict(), **law_facts(law)}
        described["predictions"] = _predictions(law, args.predict)
        result["laws"][name] = described
    if args.predict:
        lines += ["", f"{'law':<{wide}}{'images':>16}{table.metric:>10}   {covering} of a new run"]
        for name, law in laws.items():
            style = f".{decimals(law)}f"
            for row in result["laws"][name]["predictions"]:
                interval = f"{row['low']:{style}} to {row['high']:{style}}"
                lines.append(f"{name:<{wide}}{row['images']:>16,.0f}{row['mean']:>10{style}}   {interval}")
    lines += ["", *shared_reasons(laws), *shared_notes(laws), *notes(table, laws)]
    if suffix and suffix != ".json":
        _save_picture(args.out, laws, table.metric, max(args.predict, default=0.0))
        lines.append(f"Picture: {args.out}")
    _finish(args, result, lines)


def _forms(args: argparse.Namespace) -> None:
    from scaleprior.laws.forms import forms_table

    say(*forms_table().split("\n"))


def _predictions(law: Answers, images: list[float]) -> list[dict[str, float]]:
    if not images:
        return []
    mean, low, high = law.predict(images)
    return [
        {"images": float(n), "mean": float(m), "low": float(a), "high": float(b)}
        for n, m, a, b in zip(images, mean, low, high)
    ]


def _save_picture(path: Path, laws: dict[str, Law], ylabel: str, until: float) -> None:
    from scaleprior.files import atomic_path
    from scaleprior.laws.pictures import save_laws

    with atomic_path(path) as temporary:
        save_laws(
            temporary,
            laws,
            ylabel=AP_NAMES.get(ylabel, ylabel),
            until=until or None,
            file_format=path.suffix.lower()[1:],
        )


def _compare(args: argparse.Namespace) -> None:
    from scaleprior.laws import compare_laws, differences

    _out_suffix(args.out, (".json",))
    table = _read(args)
    laws = _laws(args, table, names=_two_names(args, table))
    names = list(laws)
    if len(names) != 2:
        raise _not_two(args, table, names)
    law = laws[names[0]]
    found = compare_laws(law, laws[names[1]], at=tuple(args.at), names=(names[0], names[1]))
    lines = [f"{names[0]} minus {names[1]}", f"  gain per decade   {_interval(found.per_decade, law, '+')}"]
    lines += [f"  {table.metric} at {n:,.0f} images   {_interval(e, law, '+')}" for n, e in found.at.items()]
    if found.paired:
        lines.append(f"  paired by {found.paired} seeds (correlation of their noise {found.correlation:+.2f})")
    differ = differences(table.series[names[0]], table.series[names[1]])
    lines += [found.verdict, *_more_than_one(differ), *notes(table, laws)]
    result = {
        "names": names,
        **found.to_dict(),
        "identities": [identity(table, name) for name in names],
        "laws": {name: law_facts(law) for name, law in laws.items()},
        "differ": {column: list(values) for column, values in differ.items()},
        **about(table, laws),
    }
    _finish(args, result, lines)


def _two_names(args: argparse.Namespace, table: Table) -> list[str] | None:
    """The names of the two laws that were asked for, as the file spells them; None where none was."""
    from scaleprior.laws.ladders import series_called

    names = [series_called(table, name) for name in args.names]
    if names and (len(names) != 2 or len(set(names)) != 2):
        raise _not_two(args, table, names)
    return names or None


def _not_two(args: argparse.Namespace, table: Table, names: Iterable[str]) -> UserError:
    known = ", ".join(shlex.quote(name) for name in table.series if name not in table.too_few) or "no law"
    return UserError(
        f"cannot compare {', '.join(names) or 'nothing'}: {args.results} has {known}", hint="name exactly two of them"
    )


def _more_than_one(differ: dict[str, tuple[str, str]]) -> list[str]:
    """What two laws differ in beside the first thing, which the comparison is about, and what follows from that."""
    first, *others = differ
    said = " and ".join(
        f"{column} ({differ[column][0]} against {differ[column][1]})"
        for column in others
        if column != "detector_settings" or "detector" not in differ
    )
    return [f"They differ in {said}, too: the difference is not that of {first} alone."] if said else []


def _forecast(args: argparse.Namespace) -> None:
    from scaleprior.laws.words import decimals, needs, number_key, shared_notes, shared_reasons

    _out_suffix(args.out, (".json",))
    if not args.target and not args.images:
        raise UserError("nothing to forecast", hint="give --target METRIC or --images N")
    table = _read(args)
    laws = _laws(args, table)
    between, capacities = _between(args.capacity, laws)
    result: dict[str, Any] = {"forecasts": {}, **about(table, laws)}
    lines, wide = [], max([_width(table), *(len(name) + 2 for name in between)])
    for name, law in {**laws, **between}.items():
        rows = {number_key(t): law.images_for(t).to_dict() for t in args.target}
        asked = {"images_for": rows, "predictions": _predictions(law, args.images), "why": law.why}
        if name in laws:
            result["forecasts"][name] = {"identity": identity(table, name), **law_facts(laws[name]), **asked}
        else:
            result.setdefault("between", {})[name] = {**between[name].to_dict(), **asked}
        for target in args.target:
            lines.append(f"{name:<{wide}}{table.metric} {target:g} {needs(law.images_for(target), law, target)}")
        style = f".{decimals(law)}f"
        for row in asked["predictions"]:
            lines.append(
                f"{name:<{wide}}{row['images']:,.0f} images give {table.metric} {row['mean']:{style}} "
                f"({row['low']:{style}} to {row['high']:{style}})"
            )
    lines += ["", *shared_reasons(laws), *shared_notes(laws)]
    lines += [*(f"{name}: {law.why}" for name, law in between.items()), *capacities, *notes(table, laws)]
    _finish(args, result, lines)


def _between(words: list[str], laws: Laws) -> tuple[dict[str, LawBetween], list[str]]:
    """The laws of architectures without runs that --capacity names, and what is said of capacities."""
    from scaleprior.laws import law_between
    from scaleprior.laws.capacities import capacities, in_words

    if not words:
        return {}, []
    known, asked, defaults = capacities(words, laws)
    if not asked:
        raise UserError(
            f"--capacity names only architectures with a law: {', '.join(laws)}",
            hint="name one without runs, such as R-101=44.5M",
        )
    return {n: law_between(laws, known, size) for n, size in asked.items()}, [f"{in_words(known, asked, defaults)}."]
