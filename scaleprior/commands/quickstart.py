"""``scaleprior quickstart``: a real study on a synthetic world, small enough for a laptop."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.terminal import say

if TYPE_CHECKING:
    from scaleprior.pretrain.costs.bare_step import BareStep
    from scaleprior.study import StudySpec

__all__ = ["register"]

_SPEC = "studies/quickstart.yaml"
_DEEPEST = "R-152"  # of its architectures: the one whose step says how fast a machine is


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``quickstart`` parser."""
    parser = subparsers.add_parser(
        "quickstart", help="a real experiment in about five minutes: two depths, three fractions, one report"
    )
    parser.add_argument("--out", type=Path, default=Path("quickstart"), help="folder to write to (default: quickstart)")
    parser.add_argument("--jobs", type=int, metavar="N", help="cells at a time (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(handler=_quickstart)


def _quickstart(args: argparse.Namespace) -> int:
    from scaleprior.commands.study import run_and_report
    from scaleprior.study import load_spec

    spec = load_spec(_SPEC)
    bare = _bare_step(spec)
    if not args.json:
        batch = f"{bare.images} images of {bare.pixels} pixels"
        say(f"a bare training step of {_DEEPEST} here ({batch}, 1 thread): {bare.seconds:.3f} s", flush=True)
    command = f"scaleprior quickstart --out {args.out}"
    return run_and_report(spec, args.out, jobs=args.jobs, as_json=args.json, command=command, bare=bare)


def _bare_step(spec: StudySpec) -> BareStep:
    """A step of the study's deepest network, as the study pretrains it, with nothing around it."""
    from scaleprior.config import load_config
    from scaleprior.pretrain.costs.bare_step import time_bare_step

    assert spec.pretrain is not None
    words = (*spec.pretrain.overrides, *spec.architectures[_DEEPEST])
    return time_bare_step(load_config(spec.pretrain.config, words).cfg, threads=spec.threads)
