"""``scaleprior corpus export`` and ``scaleprior detect export``: data in the format of another tool."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scaleprior.terminal import say, say_json

__all__ = ["register_corpus_export", "register_detect_export"]


def register_corpus_export(actions: Any) -> None:
    """Add ``export`` to the actions of ``corpus``."""
    export = actions.add_parser("export", help="write a folder that another tool opens, with images and labels")
    export.add_argument("index", metavar="INDEX", help="index folder, or a saved fraction")
    export.add_argument("--images", type=int, metavar="N", help="the first N in hash order (default: all)")
    _add_options(export, "the corpus'")
    export.set_defaults(handler=_corpus)


def register_detect_export(actions: Any) -> None:
    """Add ``export`` to the actions of ``detect``."""
    export = actions.add_parser("export", help="write a folder that another tool opens, with images and boxes")
    export.add_argument("annotations", metavar="COCO.json", help="COCO instances file")
    export.add_argument("root", metavar="IMAGES", help="folder, tar, or glob of tars")
    export.add_argument("--name", help="the set's name, also the tag of its samples (default: the file's)")
    _add_options(export, "the set's")
    export.set_defaults(handler=_detect)


def _add_options(export: argparse.ArgumentParser, whose: str) -> None:
    export.add_argument("out", metavar="OUT", help="folder to make")
    export.add_argument(
        "--format",
        default="fiftyone",
        metavar="NAME",
        help="fiftyone (default): for fo.Dataset.from_dir(OUT, fo.types.FiftyOneDataset)",
    )
    export.add_argument("--copy", action="store_true", help=f"copy {whose} plain files, too, instead of naming them")
    export.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    export.add_argument("--json", action="store_true", help="print JSON")


def _corpus(args: argparse.Namespace) -> None:
    from scaleprior.corpus import Corpus

    corpus = Corpus.open(args.index)
    options = {"format": args.format, "copy": args.copy, "overwrite": args.overwrite}
    corpus.export(args.out, images=args.images, **options, progress=True)
    _show(corpus.name, len(corpus) if args.images is None else args.images, args)


def _detect(args: argparse.Namespace) -> None:
    from scaleprior.detect import export_detections, load_coco

    data = load_coco(args.annotations, args.root, name=args.name or Path(args.annotations).stem)
    options = {"format": args.format, "copy": args.copy, "overwrite": args.overwrite}
    export_detections(data, args.out, **options, progress=True)
    _show(data.name, len(data), args)


def _show(name: str, images: int, args: argparse.Namespace) -> None:
    if args.json:
        say_json({"name": name, "images": images, "format": args.format, "out": args.out}, indent=None)
    else:
        say(f"{images:,} images of {name} in {args.out}")
        say(f'open it: fiftyone.Dataset.from_dir("{args.out}", fiftyone.types.FiftyOneDataset)')
