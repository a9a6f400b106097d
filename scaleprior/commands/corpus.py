"""``scaleprior corpus build|info|export|verify|fraction``: indexes of pretraining collections and their prefixes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scaleprior.commands.corpus_build import show_build
from scaleprior.commands.corpus_info import add_info_options, show_info
from scaleprior.commands.corpus_tables import add_table_options, table_options
from scaleprior.commands.export import register_corpus_export
from scaleprior.terminal import say, say_error, say_json
from scaleprior.wording import Wording, in_flags

if TYPE_CHECKING:
    from scaleprior.corpus.importers import Doubt

__all__ = ["register"]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``corpus`` parser."""
    corpus = subparsers.add_parser("corpus", help="index a pretraining collection, look at it, cut fractions")
    actions = corpus.add_subparsers(dest="action", metavar="ACTION", required=True)
    _register_build(actions)
    info = actions.add_parser("info", help="what an index holds")
    add_info_options(info)
    info.set_defaults(handler=_info)
    register_corpus_export(actions)
    verify = actions.add_parser("verify", help="whether an index and the bytes of all its images are as indexed")
    verify.add_argument("index", metavar="INDEX", help="index folder, or a saved fraction")
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(handler=_verify)
    fraction = actions.add_parser("fraction", help="the first images in hash order, optionally saved as an index")
    fraction.add_argument("index", metavar="INDEX", help="index folder, or a saved fraction")
    size = fraction.add_mutually_exclusive_group(required=True)
    size.add_argument("--images", type=int, metavar="N", help="number of images")
    size.add_argument("--ratio", type=float, metavar="R", help="share of the corpus, above 0 and at most 1")
    fraction.add_argument("--out", metavar="FILE", help="write the rows as Parquet; images stay where they are")
    fraction.add_argument("--json", action="store_true", help="print JSON")
    fraction.set_defaults(handler=_fraction)


def _register_build(actions: Any) -> None:
    build = actions.add_parser(
        "build",
        help="build an index in hash order",
        description="Index class folders, tars or files with a table of labels, WebDataset shards, tars of classes, or "
        "Hugging Face's Parquet files.",
    )
    build.add_argument(
        "source", metavar="SRC", help="a folder, a table, a tar, a Parquet file, or a pattern such as {00..99}.tar"
    )
    build.add_argument("out", metavar="OUT", help="index folder to make")
    build.add_argument("--labels", metavar="TABLE", help="CSV with a header, or Parquet (default: SRC/labels.csv)")
    build.add_argument(
        "--hierarchy",
        metavar="FILE",
        help="hierarchy JSON or WordNet is-a list (default: SRC/hierarchy.json, else flat)",
    )
    build.add_argument("--split", metavar="VALUE", help="only rows, the folder, or files of this split")
    add_table_options(build)
    build.add_argument(
        "--class-names", metavar="FILE", help="names of classes that shards or Parquet files give by number, one a line"
    )
    build.add_argument("--name", help="the corpus' name (default: OUT's)")
    build.add_argument("--salt", default="", help="another salt gives another order of the same images")
    build.add_argument("--verify", action=argparse.BooleanOptionalAction, default=True, help="decode every image")
    build.add_argument(
        "--strict",
        action="store_true",
        help="skip images that are out of order without harm to their pixels, too (otherwise read and counted)",
    )
    build.add_argument(
        "--max-skipped",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="accepted share of unusable images, 0 to 1 (default: 0.05)",
    )
    build.add_argument("--overwrite", action="store_true", help="replace an existing index")
    build.add_argument("--yes", action="store_true", help="what is doubtful about SRC is meant; ask nothing")
    build.add_argument("--json", action="store_true", help="print JSON")
    build.set_defaults(handler=_build)


def _build(args: argparse.Namespace) -> None:
    from scaleprior.corpus import Corpus

    on_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    corpus = Corpus.build(
        args.source,
        args.out,
        labels=args.labels,
        hierarchy=args.hierarchy,
        split=args.split,
        **table_options(args),
        class_names=args.class_names,
        name=args.name,
        salt=args.salt,
        verify=args.verify,
        strict=args.strict,
        max_skipped=args.max_skipped,
        overwrite=args.overwrite,
        yes=args.yes or (_ask if on_terminal else False),
        progress=True,
    )
    show_build({**_summary(corpus), "index": args.out}, corpus, as_json=args.json)


def _ask(doubt: Doubt) -> bool:
    """Put a doubt to the person at the terminal; on standard error, where a pipe takes no answer for a result."""
    for text in (doubt.what, f"If not: {doubt.options}."):
        say_error(in_flags(Wording(text)))
    print("Is it meant so? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _info(args: argparse.Namespace) -> None:
    from scaleprior.corpus import Corpus

    corpus = Corpus.open(args.index)
    show_info({**_summary(corpus), "index": args.index}, corpus, args)


def _verify(args: argparse.Namespace) -> int:
    from scaleprior.commands.check import print_report
    from scaleprior.corpus import Corpus

    report = Corpus.open(args.index).verify(progress=True)
    if args.json:
        say_json(report.to_dict())
    else:
        print_report(report)
    return 0 if report.ok else 2


def _fraction(args: argparse.Namespace) -> None:
    from scaleprior.corpus import Corpus

    corpus = Corpus.open(args.index)
    fraction = corpus.fraction(images=args.images, ratio=args.ratio)
    labels, _ = fraction.labels()
    facts = {
        "name": corpus.name,
        "images": fraction.images,
        "ratio": fraction.ratio,
        "labels": len(labels),
        "classes": len(set(labels.tolist())),
        "fingerprint": fraction.fingerprint,
    }
    if args.out:
        fraction.save(args.out)
        facts["out"] = args.out
    _show(facts, args.json)


def _summary(corpus: Any) -> dict[str, Any]:
    facts = corpus.facts
    return {
        "name": corpus.name,
        "images": len(corpus),
        "nodes": facts["label_space"]["nodes"],
        "leaves": facts["label_space"]["leaves"],
        "skipped": facts["skipped"]["count"],
        "source": facts["source"]["kind"],
        "root": str(corpus.root),
        "salt": facts["salt"],
        "verified": facts["verified"],
        **({"turned": facts["turned"]} if "turned" in facts else {}),
        "fingerprint": corpus.fingerprint,
    }


def _show(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:{width}}  {value:,}" if type(value) is int else f"{name:{width}}  {value}")
