"""``--dry-run`` of the commands that pretrain: what a run, or a ladder of them, will cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.errors import UserError
from scaleprior.terminal import say, say_json
from scaleprior.wording import flag

if TYPE_CHECKING:
    from scaleprior.config import LoadedConfig

__all__ = ["add_dry_run", "tell_cost", "wants_dry_run"]


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command's parser."""
    group = parser.add_argument_group("what it will cost")
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, operations, steps, memory, disk and time, from a few steps that are thrown away; "
        "OUT is not touched",
    )
    group.add_argument(
        "--ladder",
        metavar="N,N,...|SPEC",
        help="with --dry-run: fractions whose cost is to be told, too, as numbers of images (1e3,1e4) or as a study "
        "spec has them",
    )
    group.add_argument(
        "--probe-steps",
        type=int,
        metavar="N",
        help="with --dry-run: steps to time (default 20); 0 = none, then no time is told",
    )


def wants_dry_run(args: argparse.Namespace) -> bool:
    """Whether the cost is asked for in place of a run.

    Raises:
        UserError: options that do not go together.
    """
    if args.dry_run:
        wrong = [flag(name) for name in ("resume", "eval_only") if getattr(args, name, False)]
        if wrong:
            raise UserError(f"--dry-run and {wrong[0]} were given", hint="take one of them")
    elif args.ladder or args.probe_steps is not None:
        raise UserError(f"{'--ladder' if args.ladder else '--probe-steps'} goes with --dry-run", hint="add --dry-run")
    return args.dry_run


def tell_cost(loaded: LoadedConfig, out: str | Path, args: argparse.Namespace, *, check: bool) -> None:
    """Print the cost of the run of ``loaded``; under torchrun process 0 does.

    Args:
        args: what the options of :func:`add_dry_run` were given, and ``json``.
    """
    from scaleprior.pretrain import dry_run
    from scaleprior.training.processes import place_in_group

    main = place_in_group()[0] == 0
    options: dict[str, Any] = {"ladder": _ladder(args.ladder), "check": check}
    if args.probe_steps is not None:
        options["probe_steps"] = args.probe_steps
    cost = dry_run(loaded, out, **options, progress=main)
    if main:
        if args.json:
            say_json(cost.to_dict(), indent=None)
        else:
            say(*cost.sentences())


def _ladder(text: str | None) -> tuple[int, ...]:
    """Numbers of images: written out, or those of a study spec.

    Raises:
        UserError: neither.
    """
    if not text:
        return ()
    if text.endswith((".yaml", ".yml")):
        from scaleprior.study import load_spec

        ladder = load_spec(text, {}).ladder
        if not ladder:
            raise UserError(f"study {text} has no ladder: its backbones exist already", hint="give numbers of images")
        return ladder
    try:
        numbers = [float(word) for word in text.split(",")]
        if not all(number.is_integer() and number >= 1 for number in numbers):
            raise ValueError
    except (ValueError, OverflowError) as e:
        hint = "give whole numbers, such as 1e3,1e4,1e5, or a study spec (.yaml)"
        raise UserError(f"--ladder is {text!r}", hint=hint) from e
    return tuple(map(int, numbers))
