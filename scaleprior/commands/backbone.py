"""``scaleprior backbone show|convert|verify|export|diff``: backbones from anywhere, and into other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from scaleprior.terminal import say, say_json
from scaleprior.wording import in_flags

__all__ = ["register"]

_SOURCE = "file or folder of weights, scaleprior://NAME (fetched), or timm:NAME (found in the local caches)"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``backbone`` parser."""
    backbone = subparsers.add_parser("backbone", help="read, convert, check, export and compare backbones")
    actions = backbone.add_subparsers(dest="action", metavar="ACTION", required=True)

    show = actions.add_parser("show", help="the card, and the config a detector needs; of a foreign file what it is")
    convert = actions.add_parser(
        "convert",
        help="foreign weights to a backbone file with a card",
        description="Reads torchvision, timm, Detectron2, MSRA, BiT, CLIP and Hugging Face files by their content. "
        "Weights that match partly are refused, and so are files that would run code.",
    )
    verify = actions.add_parser("verify", help="look at the numbers: finite, alive, trained; a verdict in words")
    export = actions.add_parser("export", help="write Detectron2's .pkl or torchvision's .pth")
    diff = actions.add_parser("diff", help="how two backbones differ; exit code 1 if their tensors do")

    for action, handler in ((show, _show), (convert, _convert), (verify, _verify), (export, _export)):
        action.add_argument("source", metavar="SRC", help=_SOURCE)
        action.set_defaults(handler=handler)
    diff.add_argument("source", metavar="A", help=_SOURCE)
    diff.add_argument("other", metavar="B", help=_SOURCE)
    diff.set_defaults(handler=_diff)

    for action, what in (
        (convert, "the .safetensors to write"),
        (export, "*.pkl for Detectron2, *.pth for torchvision"),
    ):
        action.add_argument("target", metavar="OUT", nargs="?", help=what)
        action.add_argument("--out", metavar="OUT", help="the same, as an option")
    export.add_argument(
        "--frozen-norms", action="store_true", help="let gains take up another eps; right while norms stay FrozenBN"
    )
    export.add_argument("--format", metavar="NAME", help="detectron2 or torchvision (default: by the name of OUT)")
    verify.add_argument("--picture", metavar="OUT.png", help="draw res2 to res5 of one image")
    verify.add_argument("--image", metavar="FILE", help="that image (default: a drawn one)")
    for action in (show, convert, verify, export, diff):
        _add_facts(action)
        action.add_argument("--json", action="store_true", help="print JSON")


def _add_facts(parser: argparse.ArgumentParser) -> None:
    facts = parser.add_argument_group("what a foreign file does not say")
    facts.add_argument("--name", help="the backbone's name (default: the file's)")
    for kind in ("mean", "std"):
        facts.add_argument(
            f"--pixel-{kind}", nargs=3, type=float, metavar=("A", "B", "C"), help="0-255 scale, in --channel-order"
        )
    facts.add_argument("--channel-order", metavar="RGB|BGR", help="of the numbers and of what the weights take")
    facts.add_argument("--stride-in-1x1", choices=("yes", "no"), help="MSRA's ResNets: yes; torchvision's: no")
    facts.add_argument("--norm", metavar="GN|FrozenBN", help="of norms without running statistics")
    facts.add_argument(
        "--norm-eps",
        type=float,
        metavar="E",
        help="of all norms (default: 1e-5; ConvNeXt's 1e-6)",
    )
    facts.add_argument("--depth", type=int, metavar="N", help="of a ResNet some of whose stages are absent")
    facts.add_argument("--timm-model", metavar="NAME", help="take timm's published facts of this model")
    facts.add_argument(
        "--assume", metavar="SET", help="usual values where nobody says: torchvision, msra, half, unit, clip"
    )
    facts.add_argument("--select", metavar="WORD", help="which of several trunks: a word of its place, as encoder_k")
    facts.add_argument("--prefix", metavar="P", help="what stands in front of the trunk's names, as module.encoder_q.")
    facts.add_argument("--state", metavar="KEY", help="the dict to look in, as model.ema")
    facts.add_argument("--images", type=int, metavar="N", help="images it was pretrained on")
    facts.add_argument("--labels", type=int, metavar="N", help="labels of its pretraining")
    facts.add_argument("--corpus", metavar="NAME", help="what it was pretrained on")
    facts.add_argument("--licence", metavar="TEXT")
    facts.add_argument("--source", dest="origin", metavar="TEXT", help="where it comes from")
    facts.add_argument("--allow-partial", action="store_true", help="fill what is missing with fresh weights")
    facts.add_argument("--allow-nonfinite", action="store_true", help="accept NaN and infinity")


def _out(args: argparse.Namespace) -> str:
    """Where to write: the word after SRC, or --out."""
    from scaleprior.errors import UserError

    if args.target is not None and args.out is not None:
        raise UserError(f"OUT is {args.target} and --out is {args.out}", hint="give one of them")
    out = args.out if args.target is None else args.target
    if out is None:
        raise UserError(f"backbone {args.action} was not told where to write", hint="add OUT after SRC, or --out OUT")
    return out


def _file(source: str) -> str | Path:
    """The file that SRC means, fetched if it is a name of the zoo; ``timm:NAME`` stays."""
    from scaleprior.backbones.zoo import find_weights, is_uri
    from scaleprior.progress import progress_bar

    if source.startswith("timm:"):
        return source
    if not is_uri(source):
        return find_weights(source)
    with progress_bar(f"fetching {source}", unit="bytes") as progress:
        return find_weights(source, progress=progress)


def _inspect(file: str | Path, args: argparse.Namespace) -> Any:
    from scaleprior.backbones.readers.read import inspect_backbone

    return inspect_backbone(file, _options(args))


def _has_card(file: str | Path) -> bool:
    from scaleprior.backbones.weights import has_card

    return isinstance(file, Path) and has_card(file)


def _options(args: argparse.Namespace) -> Any:
    from scaleprior.backbones import ReadOptions

    return ReadOptions(
        name=args.name,
        pixel_mean=args.pixel_mean and tuple(args.pixel_mean),
        pixel_std=args.pixel_std and tuple(args.pixel_std),
        channel_order=args.channel_order,
        stride_in_1x1=None if args.stride_in_1x1 is None else args.stride_in_1x1 == "yes",
        norm=args.norm,
        norm_eps=args.norm_eps,
        depth=args.depth,
        timm_model=args.timm_model,
        assume=args.assume,
        state=args.state,
        prefix=args.prefix,
        select=args.select,
        images=args.images,
        labels=args.labels,
        corpus=args.corpus,
        licence=args.licence,
        source=args.origin,
        allow_partial=args.allow_partial,
        allow_nonfinite=args.allow_nonfinite,
    )


def _show(args: argparse.Namespace) -> None:
    from scaleprior.backbones import ReadOptions
    from scaleprior.backbones.settings import config_lines
    from scaleprior.backbones.weights import read_card

    report: list[str] = []
    missing: tuple[str, ...] = ()
    file = _file(args.source)
    if _has_card(file) and _options(args) == ReadOptions():
        card = read_card(file)  # the header only; torch stays unimported
        known, lines = card.to_dict(), config_lines(card)
    else:
        seen = _inspect(file, args)
        report, missing, known = seen.report.lines(), seen.draft.missing, seen.draft.to_dict()
        lines = [] if missing else config_lines(seen.draft.card())
    if args.json:
        told = {"card": known, "config": lines, "report": list(map(in_flags, report)), "missing": list(missing)}
        say_json(told)
        return
    for line in report:
        say(in_flags(line))
    _print_card(known)
    if missing:
        say(f"nobody says {', '.join(missing)}: `backbone convert` asks for it")
    else:
        _print_config(lines)


def _convert(args: argparse.Namespace) -> None:
    from scaleprior.backbones import convert_backbone
    from scaleprior.errors import UserError

    out = _out(args)
    if not out.endswith(".safetensors"):
        raise UserError(f"OUT is {out}", hint="name it *.safetensors; `backbone export` writes other formats")
    card, report = convert_backbone(_file(args.source), out, _options(args))
    if args.json:
        told = {**report.to_dict(), "notes": list(map(in_flags, report.notes))}
        say_json({"out": out, "card": card.to_dict(), "report": told})
        return
    for line in report.lines():
        say(in_flags(line))
    say(f"wrote {out}: {card.arch.name}, sha256 {card.tensors_sha256}")


def _verify(args: argparse.Namespace) -> int:
    from scaleprior.backbones.verify import verify_backbone
    from scaleprior.errors import UserError

    args.allow_nonfinite = True  # to be told of, not refused
    if args.image and not args.picture:
        raise UserError("--image without --picture", hint="add --picture OUT.png")
    seen = _inspect(_file(args.source), args)
    verdict = verify_backbone(seen.tensors, seen.draft)
    if args.picture:
        from scaleprior.backbones.pictures import save_feature_picture
        from scaleprior.corpus import decode

        image = None
        if args.image:
            try:
                image = decode(Path(args.image).read_bytes())
            except OSError as e:
                raise UserError(f"image {args.image} cannot be read: {e.strerror}", hint="check the path") from e
        save_feature_picture(seen.tensors, seen.draft.card(), args.picture, image=image)
    if args.json:
        say_json({**verdict.to_dict(), "picture": args.picture})
        return 1 if verdict.level == "bad" else 0
    say(f"{verdict.level}: {verdict.words}")
    for finding in verdict.findings:
        some = ", ".join(finding.tensors[:3]) + (", ..." if len(finding.tensors) > 3 else "")
        say(f"  [{finding.level}] {finding.what}{f' ({some})' if some else ''}")
    say(f"  {'stage':10} {'tensors':>8} {'parameters':>12} {'conv std':>9} {'dead':>6}")
    for stage, row in verdict.statistics.items():
        say(f"  {stage:10} {row['tensors']:8} {row['parameters']:12,} {row['conv_std']:9.4f} {row['dead_channels']:6}")
    if verdict.config:
        _print_config(list(verdict.config))
    if args.picture:
        say(f"picture: {args.picture}")
    return 1 if verdict.level == "bad" else 0


def _export(args: argparse.Namespace) -> None:
    from scaleprior.backbones import export_backbone, read_backbone
    from scaleprior.backbones.export import export_format
    from scaleprior.backbones.settings import config_lines

    out = _out(args)
    kind = export_format(out, args.format)
    reading = read_backbone(_file(args.source), _options(args))
    card = export_backbone(reading.tensors, reading.card, out, kind=kind, frozen_norms=args.frozen_norms)
    lines = config_lines(card, out if kind == "detectron2" else None)
    if args.json:
        say_json({"out": out, "format": kind, "tensors": len(reading.tensors), "config": lines})
        return
    say(f"wrote {out}: {len(reading.tensors)} tensors of {reading.card.arch.name} for {kind}")
    _print_config(lines)


def _diff(args: argparse.Namespace) -> int:
    from scaleprior.backbones import ReadOptions, compare_backbones
    from scaleprior.backbones.readers.read import inspect_backbone

    sources, given = (_file(args.source), _file(args.other)), _options(args)
    own = [_has_card(source) for source in sources]
    # Of a pair with one file of our own, the facts are the other's.
    ours = given if all(own) else ReadOptions(allow_nonfinite=args.allow_nonfinite)
    a, b = (inspect_backbone(source, ours if known else given) for source, known in zip(sources, own, strict=True))
    difference = compare_backbones(a.tensors, a.draft, b.tensors, b.draft)
    code = 0 if difference.same_tensors else 1
    if args.json:
        say_json(difference.to_dict())
        return code
    for key, (left, right) in difference.card.items():
        if key == "facts":
            _print_origins(left or {}, right or {})
        else:
            say(f"card {key}: {left} | {right}")
    for name in difference.only_a:
        say(f"only in A: {name}")
    for name in difference.only_b:
        say(f"only in B: {name}")
    for name, (left, right) in difference.shapes.items():
        say(f"shape of {name}: {left} | {right}")
    for name, (gap, relative) in difference.values.items():
        say(f"values of {name}: differ by up to {gap:.3g} ({relative:.2g} of the largest)")
    say(f"{difference.equal} tensors are equal bit by bit" + ("; no tensor differs" if code == 0 else ""))
    return code


def _print_card(card: dict[str, Any]) -> None:
    """Field and value, a line each; behind a fact, who says it."""
    facts = card.get("facts", {})
    assumed = [name for name, origin in facts.items() if origin["from"] == "assumed"]
    if assumed:
        say(f"ASSUMED, stated by nobody: {', '.join(assumed)}")
    width = max(map(len, card))
    for name, value in card.items():
        if name == "facts":
            continue
        if isinstance(value, dict):
            value = json.dumps(value) if value else "unknown"
        said = f"  ({facts[name]['from']}: {facts[name]['where']})" if name in facts else ""
        say(f"{name:{width}}  {'unknown' if value is None else value}{said}")
    if weights := (card.get("recipe") or {}).get("weights"):
        say(f"{'weights':{width}}  {weights}")


def _print_origins(left: Any, right: Any) -> None:
    """Who says each fact, where the two cards differ in that."""
    for name in left | right:
        one, other = (
            f"{facts[name]['from']} ({facts[name]['where']})" if name in facts else "unknown" for facts in (left, right)
        )
        if one != other:
            say(f"card facts.{name}: {one} | {other}")


def _print_config(lines: list[str]) -> None:
    say("a detection config needs:")
    for line in lines:
        say(f"  {line}")
