"""``scaleprior check``: everything that would stop a run, said at once, before anything is spent."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.errors import UserError
from scaleprior.terminal import say, say_json

if TYPE_CHECKING:
    from scaleprior.checking import CheckReport

__all__ = ["register"]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``check`` parser."""
    parser = subparsers.add_parser(
        "check",
        help="look at data, at a config's run or at a study: all that is wrong, at once",
        description="Read annotations and the headers of all images, hold the sets against each other, ask for the "
        "files of corpora, the space on the disk and the memory; all that is wrong is said at once. Exit code 2 if "
        "anything would stop a run.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--data",
        nargs="+",
        action="append",
        metavar=("INDEX", "IMAGES"),
        help="a corpus' index, or COCO.json IMAGES; again for more: the first set is to train on, the others to "
        "evaluate on",
    )
    what.add_argument("--config-file", metavar="FILE", help="YAML of a fine-tuning or a pretraining run")
    what.add_argument("--study", metavar="SPEC", help="study spec (YAML)")
    parser.add_argument("--weights", metavar="W", help="backbone to start from (default: MODEL.WEIGHTS)")
    parser.add_argument("--engine", default="auto", metavar="NAME", help="auto (default), torchvision, detectron2, ...")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder that the run would write to")
    parser.add_argument(
        "--drop-bad",
        choices=("none", "annotations", "images"),
        help="look at what would be left if annotations that cannot be used, or images with such, were left out",
    )
    parser.add_argument(
        "--html",
        action="append",
        type=Path,
        metavar="PAGE",
        help="also write a page of the first --data, with plots and samples; again for the next",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys to override, of the config or of the spec")
    parser.set_defaults(handler=_check)


def _check(args: argparse.Namespace) -> int:
    from scaleprior.config import load_config
    from scaleprior.detect import get_engine
    from scaleprior.detect.data.names import names_of_files
    from scaleprior.preflight import check
    from scaleprior.study import Study, load_spec

    pages = args.html or []
    if len(pages) > len(args.data or []):
        given = f"{len(args.data)} --data" if args.data else "no --data"
        raise UserError(f"there are {len(pages)} --html for {given}", hint="a page is of the --data in its place")
    if args.data:
        if args.opts:
            raise UserError(f"there are no keys to override in data: {' '.join(args.opts)}", hint="leave them out")
        data = [_data(words) for words in args.data]
        report = check(data=data, drop_bad=args.drop_bad, progress=True)
        names = iter(names_of_files([each[0] for each in data if not isinstance(each, str)]))
        for each, page in zip(data, pages):
            with report.collecting("corpus" if isinstance(each, str) else "annotations"):
                _write_page(each, page, name="" if isinstance(each, str) else next(names))
    elif args.study:
        study = Study(load_spec(args.study, args.opts))
        report = check(study=study, out=args.out, engine=args.engine, drop_bad=args.drop_bad, progress=True)
    else:
        defaults = get_engine(args.engine).default_config()
        loaded = load_config(args.config_file, args.opts, defaults=defaults)
        options = {"weights": args.weights, "engine": args.engine, "drop_bad": args.drop_bad}
        report = check(loaded, args.out, **options, progress=True)
    if args.json:
        say_json(report.to_dict())
    else:
        print_report(report)
    return 0 if report.ok else 2


def _data(words: list[str]) -> str | tuple[str, str]:
    """An index, or a set's JSON and images.

    Raises:
        UserError: more words than that.
    """
    if len(words) > 2:
        raise UserError(f"--data has {' '.join(words)}", hint="give an index, or COCO.json IMAGES, and --data again")
    return words[0] if len(words) == 1 else (words[0], words[1])


def _write_page(data: str | tuple[str, str], page: Path, *, name: str) -> None:
    """The page of an index or a set; of a set, of what can be used.

    Raises:
        UserError: it cannot be read at all.
    """
    if isinstance(data, str):
        from scaleprior.corpus import Corpus

        Corpus.open(data).write_page(page)
        return
    from scaleprior.detect import load_coco, write_detection_page

    annotations, root = data
    # named as the check names it, so that what it found already is not found twice
    annotations = os.path.abspath(os.path.expanduser(os.path.expandvars(annotations)))
    write_detection_page(page, load_coco(annotations, root, name=name, problems=[]))


def print_report(report: CheckReport) -> None:
    """What was looked at, then each kind of thing that is wrong with its first examples."""
    width = max(map(len, report.facts), default=0)
    for name, fact in report.facts.items():
        say(f"{name:{width}}  {fact}")
        for sentence in report.statistics.get(name, {}).get("sentences", ()):
            say(f"{'':{width}}  {sentence}")
    for finding in report.findings:
        first, *others = finding.lines()
        say("", f"{'STOPS  ' if finding.stops else 'note   '}{first}")
        for line in others:
            say(f"       {line}")
    stops = sum(finding.stops for finding in report.findings)
    say("", f"found what would stop a run: {stops}" if stops else "nothing that would stop a run was found")
