"""``scaleprior zoo list|show|add|remove|fetch|readme``: backbones by name."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.terminal import say, say_json

if TYPE_CHECKING:
    from scaleprior.backbones.zoo.entry import Entry

__all__ = ["register"]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``zoo`` parser."""
    parser = subparsers.add_parser("zoo", help="backbones by name: public ones, the paper's, your own")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    everything = actions.add_parser("list", help="a table of all backbones")
    everything.add_argument("--json", action="store_true", help="print JSON")
    everything.set_defaults(handler=_list)

    show = actions.add_parser("show", help="all that is known of one backbone")
    show.add_argument("name", metavar="NAME", help="a name of the list; scaleprior://NAME works, too")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(handler=_show)

    add = actions.add_parser(
        "add",
        help="register a backbone file of your own",
        description="Copy a canonical backbone file into the zoo's folder and register it. Facts come from its card. "
        "NAME may be one of the list whose weights are not public: the card then has to fit what the list says.",
    )
    add.add_argument(
        "file",
        metavar="FILE",
        help=".safetensors with a card, e.g. RUN/backbone.safetensors, or a foreign file that says all that matters",
    )
    add.add_argument("--name", required=True, help="what will follow scaleprior://")
    add.add_argument("--json", action="store_true", help="print JSON")
    add.set_defaults(handler=_add)

    remove = actions.add_parser(
        "remove",
        help="forget a backbone of your own",
        description="Forget a backbone that `zoo add` registered. Its file stays; the path is printed.",
    )
    remove.add_argument("name", metavar="NAME", help="as `zoo add` had it")
    remove.add_argument("--json", action="store_true", help="print JSON")
    remove.set_defaults(handler=_remove)

    fetch = actions.add_parser(
        "fetch",
        help="get a backbone's file",
        description="Download a backbone into the cache, unless it is there, check its SHA-256, and print its path. "
        "An interrupted download goes on where it stopped. The file is as its publisher made it, unless --canonical.",
    )
    fetch.add_argument("name", metavar="NAME", help="a name of the list; scaleprior://NAME works, too")
    fetch.add_argument(
        "--canonical",
        action="store_true",
        help="the file that scaleprior://NAME stands for: Detectron2's names, a card",
    )
    fetch.add_argument("--out", type=Path, metavar="FILE", help="also copy it there")
    fetch.add_argument("--json", action="store_true", help="print JSON")
    fetch.set_defaults(handler=_fetch)

    readme = actions.add_parser("readme", help="the catalogue as a Markdown page (model_zoo/README.md)")
    readme.add_argument("--out", type=Path, metavar="FILE", help="write it there instead of printing it")
    readme.set_defaults(handler=_readme)


_WIDTH = 100
"""Of a listing; names are never cut."""
_KINDS = {
    "public": "public",
    "paper": "not public: `zoo show` prints the command that makes such a backbone",
    "own": "own",
}
_STANDS = "own, in place of weights that are not public"


def _kind(entry: Entry) -> str:
    return _STANDS if entry.fills else _KINDS[entry.kind]


def _list(args: argparse.Namespace) -> None:
    from scaleprior.backbones.zoo import load_catalogue
    from scaleprior.backbones.zoo.page import human_count

    entries = load_catalogue().ordered()
    if args.json:
        say_json([e.to_dict() for e in entries])
        return
    rows = [(e.name, e.arch, human_count(e.images), e.signal) for e in entries]
    names, trunks, images = (max(map(len, column)) for column in list(zip(*rows))[:3])
    room = max(_WIDTH - names - trunks - images - 6, 20)
    say(f"{'NAME':{names}}  {'TRUNK':{trunks}}  {'IMAGES':>{images}}  SUPERVISION")
    for kind, group in itertools.groupby(zip(entries, rows), key=lambda pair: _kind(pair[0])):
        say("", kind)
        for _, (name, trunk, count, signal) in group:
            signal = signal if len(signal) <= room else f"{signal[: room - 3]}..."
            say(f"{name:{names}}  {trunk:{trunks}}  {count:>{images}}  {signal}")
    say("", "Backbones compare by images only where the supervision is the same.")
    say("`scaleprior zoo show NAME`: what it is comparable with, licence, source, config lines.")


def _show(args: argparse.Namespace) -> None:
    from scaleprior import model_zoo
    from scaleprior.backbones.assumed import assumed_words
    from scaleprior.backbones.zoo.entry import PROOFS

    entry = model_zoo.get(args.name)
    if args.json:
        say_json(entry.to_dict())
        return
    images = "unknown" if entry.images is None else f"{entry.images:,}"
    facts = [
        ("name", entry.name), ("uri", f"scaleprior://{entry.name}"), ("trunk", entry.arch), ("corpus", entry.corpus),
        ("images", f"{images} ({entry.images_note})" if entry.images_note else images),
        ("labels", f"{entry.labels:,}" if entry.labels else "-"),
        ("supervision", entry.signal), ("comparable", entry.comparable), ("licence", entry.licence),
        ("source", entry.source), ("weights", entry.weights), ("publisher", entry.publisher), ("timm", entry.timm),
        ("torchvision", entry.torchvision), ("url", entry.url), ("sha256", entry.sha256), ("hash", _hash(entry)),
        *(("also", f"{copy['url']} ({copy['hash']})") for copy in entry.also),
        ("norm eps", None if entry.norm_eps is None else f"{entry.norm_eps:g}"),
        *(("proof", f"{words}: {entry.proof[what]}") for what, words in PROOFS.items() if what in entry.proof),
        ("warning", assumed_words(entry.card) if entry.card else None),
        ("stands for", entry.fills and f"the backbone of that name in {entry.fills}, whose weights are not public"),
        *((what, ", ".join(words)) for what, words in _compared(entry)),
        ("downloaded", entry.downloaded or "never by ScalePrior's authors" if entry.kind == "public" else None),
    ]  # fmt: skip
    for name, value in facts:
        if value:
            say(f"{name:12} {value}")
    if entry.command:
        say("", "To make your own from a corpus of yours (CORPUS is its index folder):", f"  {entry.command}")
        say("To have it under this name, which configs expect:", f"  {entry.register_command}")
    lines = entry.detection_lines()
    if lines:
        say("", "Detection config that these weights need:")
        for line in lines:
            say(f"  {line}")
    else:
        say("", "Detection config: what `scaleprior backbone show` says of its file.")
    if entry.card:
        say("", "Card:", *json.dumps(entry.card.to_dict(), indent=2).split("\n"))


def _hash(entry: Entry) -> str | None:
    """The hash of a public entry's file, for people."""
    if entry.kind != "public" or entry.sha256 is not None:
        return None
    if entry.printed is None:
        return "not published; the server's, if it states one, and the first download's are held to"
    return f"{entry.printed.name} {entry.printed.words}, by its publisher"


def _compared(entry: Entry) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What of an own backbone was held against the entry that it stands for."""
    return ("agrees", entry.checked), ("differs", entry.differs), ("not known", entry.unchecked)


def _add(args: argparse.Namespace) -> None:
    from scaleprior.backbones.zoo import add_backbone

    entry = add_backbone(args.file, args.name)
    if args.json:
        say_json(entry.to_dict())
    else:
        say(f"registered: scaleprior://{entry.name} ({entry.arch}, SHA-256 {entry.sha256})")
        if entry.fills:
            say(f"The name is that of {entry.fills}, whose weights are not public; the file is yours.")
            for what, words in _compared(entry):
                say(f"  {what}: {', '.join(words) or 'nothing'}")


def _remove(args: argparse.Namespace) -> None:
    from scaleprior.backbones.zoo import remove_backbone

    path = remove_backbone(args.name)
    if args.json:
        say_json({"name": args.name, "path": str(path)}, indent=None)
    else:
        say(f"no longer registered: {args.name}; its file stays: {path}")


def _fetch(args: argparse.Namespace) -> None:
    import shutil

    from scaleprior.backbones.zoo import canonical, fetch
    from scaleprior.files import atomic_path, file_sha256
    from scaleprior.progress import progress_bar

    name = args.name.removeprefix("scaleprior://")
    with progress_bar(f"fetching {name}", unit="bytes") as progress:
        path = (canonical if args.canonical else fetch)(name, progress=progress)
    if args.out is not None:
        with atomic_path(args.out) as temporary:
            shutil.copyfile(path, temporary)
        path = args.out
    if args.json:
        say_json({"name": name, "path": str(path), "sha256": file_sha256(path)}, indent=None)
    else:
        say(path)


def _readme(args: argparse.Namespace) -> None:
    from scaleprior.backbones.zoo import load_catalogue
    from scaleprior.backbones.zoo.page import render_page
    from scaleprior.backbones.zoo.published import load_results
    from scaleprior.files import write_text
    from scaleprior.study.report.section import measured_sections

    page = render_page(load_catalogue(user=False), load_results(), measured_sections())
    if args.out is None:
        print(page, end="")
    else:
        write_text(args.out, page)
