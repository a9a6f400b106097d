"""``scaleprior study run|plan|status|report|publish``: whole studies."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scaleprior.errors import FailureError, UserError
from scaleprior.terminal import say, say_json
from scaleprior.wording import counted

if TYPE_CHECKING:
    from scaleprior.pretrain.costs.bare_step import BareStep
    from scaleprior.study import StudySpec

__all__ = ["register", "run_and_report"]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``study`` parser."""
    parser = subparsers.add_parser("study", help="run a whole study: pretrain, fine-tune, evaluate, fit, report")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    run = actions.add_parser("run", help="run what is missing of a study; run it again to go on")
    run.add_argument("spec", help="study spec (YAML); a name such as studies/quickstart.yaml finds a shipped one")
    run.add_argument("--out", type=Path, help="the study's folder (default: the spec's name)")
    run.add_argument("--jobs", type=int, metavar="N", help="cells at a time (default: as many as cores or GPUs allow)")
    run.add_argument(
        "--jobs-per-gpu",
        type=_per_gpu,
        metavar="N|auto",
        help="cells at a time on each GPU, in place of --jobs; auto: as many as its memory and its use leave room for",
    )
    run.add_argument("--engine", metavar="NAME", help="auto, torchvision, detectron2, ...: overrides the spec's engine")
    run.add_argument("--executor", metavar="NAME", help="what runs the cells: overrides the spec's executor")
    run.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look at all data, disk and memory first (see `scaleprior check`)",
    )
    run.add_argument(
        "--skip-missing", action="store_true", help="leave out the spec's backbones that are not here; run again later"
    )
    run.add_argument(
        "--backbones-of", type=Path, metavar="DIR", help="another study's folder, to share its pretrained backbones"
    )
    run.add_argument("--json", action="store_true", help="print the results as JSON")
    run.add_argument("opts", nargs="*", metavar="KEY VALUE", help="override keys of the spec: seeds '[0, 1]'")
    run.set_defaults(handler=_run)

    plan = actions.add_parser("plan", help="the grid of a study, what of it is missing, and its cost; runs nothing")
    plan.add_argument("spec", help="study spec (YAML), as `study run` takes it")
    plan.add_argument("--out", type=Path, help="the study's folder (default: the spec's name): what is done is counted")
    plan.add_argument("--engine", metavar="NAME", help="overrides the spec's engine")
    plan.add_argument(
        "--seconds-per-step",
        action="append",
        default=[],
        metavar="[ARCH=]S",
        help="seconds that you measured for a step of fine-tuning: of all architectures, or again for each",
    )
    plan.add_argument("--json", action="store_true", help="print everything as JSON")
    plan.add_argument("opts", nargs="*", metavar="KEY VALUE", help="override keys of the spec: seeds '[0, 1]'")
    plan.set_defaults(handler=_plan)

    status = actions.add_parser("status", help="where every cell is")
    status.add_argument("folder", type=Path, help="the study's folder")
    status.add_argument("--json", action="store_true", help="print the states as JSON")
    status.set_defaults(handler=_status)

    report = actions.add_parser("report", help="write results.csv, curve.png, report.md and report.html again")
    report.add_argument("folder", type=Path, help="the study's folder, or a published study's, or its results.csv")
    report.add_argument("--out", type=Path, help="where to write (default: the study's folder)")
    report.add_argument("--json", action="store_true", help="print the paths and the summary as JSON")
    report.set_defaults(handler=_report)

    publish = actions.add_parser(
        "publish",
        help="results, report and cards without weights and data, fit for a repository",
        description="Write what a study measured into a folder from which `study report` makes the same report again: "
        "results.csv, published.json, the cards of all backbones, report.md, curve.png.",
    )
    publish.add_argument("folder", type=Path, help="the study's folder")
    publish.add_argument("out", type=Path, metavar="OUT", help="where to; may hold an earlier publication")
    publish.add_argument(
        "--fact",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="a further row of the report's settings, such as 'machine=one H100'; may be given again",
    )
    publish.add_argument("--json", action="store_true", help="print what was written as JSON")
    publish.set_defaults(handler=_publish)


def _per_gpu(word: str) -> int | str:
    """A number where it is one; what else it may be, and how large, is for the executor to say."""
    try:
        return int(word)
    except ValueError:
        return word


def _run(args: argparse.Namespace) -> int:
    from scaleprior.study import load_spec

    logging.getLogger("scaleprior.study.executors").setLevel(logging.INFO)  # how many cells a GPU was found to hold
    spec = load_spec(args.spec, args.opts)
    out = args.out or Path(spec.name)
    return run_and_report(
        spec,
        out,
        jobs=args.jobs,
        jobs_per_gpu=args.jobs_per_gpu,
        engine=args.engine,
        executor=args.executor,
        check=args.check,
        skip_missing=args.skip_missing,
        backbones_of=args.backbones_of,
        as_json=args.json,
    )


def run_and_report(
    spec: StudySpec,
    out: Path,
    *,
    jobs: int | None,
    as_json: bool,
    jobs_per_gpu: int | Literal["auto"] | None = None,
    engine: str | None = None,
    executor: str | None = None,
    check: bool = True,
    skip_missing: bool = False,
    backbones_of: Path | None = None,
    command: str | None = None,
    bare: BareStep | None = None,
) -> int:
    """Run a study with a display on the terminal, write its report, print the table.

    Args:
        bare: a training step that was timed before; what the study took is also said in such steps.

    Returns:
        0 if every cell is done, 1 if some failed.
    """
    from scaleprior.study.report.page import build_report
    from scaleprior.study.report.terminal import StudyDisplay, print_summary
    from scaleprior.study.runner import run_study

    started = time.monotonic()
    with StudyDisplay() as display:
        outcome = run_study(
            spec,
            out,
            jobs=jobs,
            jobs_per_gpu=jobs_per_gpu,
            engine=engine,
            executor=executor,
            check=check,
            skip_missing=skip_missing,
            backbones_of=backbones_of,
            show=display.cells,
            prepare_progress=display.prepare,
        )
    if not any(cell.state == "done" for cell in outcome.view.cells):
        errors = "; ".join(sorted({cell.error for cell in outcome.view.cells}))
        raise FailureError(f"every cell of {out} failed: {errors}", hint="repair the cause and run again")
    report = build_report(outcome.view, command=command)
    page = report.write(out)
    elapsed = time.monotonic() - started
    if as_json:
        timed = {} if bare is None else {"wall_seconds": round(elapsed, 1), "bare_step": bare.to_dict()}
        say_json({**report.to_dict(), "report": str(page), "ran": outcome.ran, **timed})
    else:
        print_summary(report, page, ran=outcome.ran, elapsed=elapsed, step=None if bare is None else bare.seconds)
    return 1 if report.missing else 0


def _plan(args: argparse.Namespace) -> int:
    from scaleprior.study import load_spec, plan_study
    from scaleprior.study.report.plan_table import print_plan

    spec = load_spec(args.spec, args.opts)
    seconds = _seconds_per_step(args.seconds_per_step, list(spec.architectures))
    plan = plan_study(spec, args.out or Path(spec.name), engine=args.engine, seconds_per_step=seconds)
    if args.json:
        say_json(plan.to_dict())
    else:
        print_plan(plan)
    return 0


def _seconds_per_step(words: list[str], architectures: list[str]) -> dict[str, float]:
    """``S`` for all architectures, ``ARCH=S`` for one, which wins.

    Raises:
        UserError: no number.
    """
    common, own = dict[str, float](), dict[str, float]()
    for word in words:
        arch, _, number = word.rpartition("=")
        try:
            seconds = float(number)
        except ValueError as e:
            raise UserError(f"--seconds-per-step is {word!r}", hint="give S, or ARCHITECTURE=S, in seconds") from e
        if arch:
            own[arch] = seconds
        else:
            common = dict.fromkeys(architectures, seconds)
    return common | own


def _status(args: argparse.Namespace) -> int:
    from scaleprior.study.report.terminal import print_status
    from scaleprior.study.status import study_status

    view = study_status(args.folder)
    if args.json:
        say_json({"name": view.name, "cells": [status.to_dict() for status in view.cells]})
    else:
        print_status(view)
    return 0


def _report(args: argparse.Namespace) -> int:
    from scaleprior.study.report.page import build_report
    from scaleprior.study.report.terminal import print_summary
    from scaleprior.study.status import study_status

    view = study_status(args.folder)
    report = build_report(view)
    page = report.write(args.out or view.folder)
    if args.json:
        say_json({**report.to_dict(), "report": str(page)})
    else:
        print_summary(report, page)
    return 0


def _publish(args: argparse.Namespace) -> int:
    from scaleprior.study.publish import publish_study

    made = publish_study(args.folder, args.out, facts=dict(_fact(words) for words in args.fact))
    if args.json:
        say_json({"folder": str(made.folder), "cards": made.cards, "notes": list(made.notes)})
        return 0
    for note in made.notes:
        say(f"note: {note}")
    say(f"published: {made.folder / 'report.md'}, {counted(made.cards, 'cards')} beside it")
    return 0


def _fact(words: str) -> tuple[str, str]:
    name, equals, text = words.partition("=")
    if not (equals and name.strip() and text.strip()):
        raise UserError(f"--fact is {words!r}", hint="give NAME=TEXT")
    return name.strip(), text.strip()
