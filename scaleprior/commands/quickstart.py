"""``scaleprior quickstart``: a real study on a synthetic world, small enough for a laptop."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["register"]

_SPEC = "studies/quickstart.yaml"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``quickstart`` parser."""
    parser = subparsers.add_parser(
        "quickstart", help="a real experiment in about five minutes: two depths, four fractions, one report"
    )
    parser.add_argument("--out", type=Path, default=Path("quickstart"), help="folder to write to (default: quickstart)")
    parser.add_argument("--jobs", type=int, metavar="N", help="cells at a time (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(handler=_quickstart)


def _quickstart(args: argparse.Namespace) -> int:
    from scaleprior.commands.study import run_and_report
    from scaleprior.study import load_spec

    command = f"scaleprior quickstart --out {args.out}"
    return run_and_report(load_spec(_SPEC), args.out, jobs=args.jobs, as_json=args.json, command=command)
