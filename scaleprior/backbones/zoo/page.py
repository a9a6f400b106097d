"""``model_zoo/README.md``, made from the data beside it, so that page and catalogue cannot differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from scaleprior.ap_names import AP_NAMES
from scaleprior.backbones.trunks.family import get_family
from scaleprior.backbones.zoo.catalogue import Catalogue
from scaleprior.backbones.zoo.entry import PROOFS, Entry
from scaleprior.backbones.zoo.hashes import PrintedHash
from scaleprior.backbones.zoo.published import ResultTable
from scaleprior.pages.texts import plain

__all__ = ["human_count", "render_page"]

_INTRODUCTION = """\
# Model zoo

<!-- Made by `scaleprior zoo readme --out model_zoo/README.md` from zoo.yaml, *_results.yaml, results/; edit those. -->

Backbones by name, and results with their source. `scaleprior zoo list` lists them on the terminal,
`scaleprior zoo show NAME` everything about one entry, `scaleprior zoo fetch NAME` gets it, and `scaleprior://NAME`
stands for it in study specs and, through iopath, in Detectron2. How that works: [docs/zoo.md](../docs/zoo.md).

| file | what |
| --- | --- |
| `zoo.yaml` | the catalogue |
| `*_results.yaml` | detection results that others published, with their source |
| `results/` | studies measured here: results, report, cards; `scaleprior study report` makes the report again |
"""
_LADDER = """\
## The public ladder

Backbones that anyone can download, by the number of images behind them. No two sizes share images, labels and recipe,
so this is a ladder of what the public can have, and a law fitted to it describes that and nothing purer. The second
table says what each may be compared with. Licences are those that the publisher states, or timm records for
the weights; mind the non-commercial ones.
"""
_FILES = """\
### The files

{never} downloaded here: there is no network where ScalePrior is written. What is said
of them was read in their publishers' repositories and papers, and files with their names, shapes and wrappers but
random numbers are converted in the tests. A first download may show what nobody here could see. Hashes, names and
shapes are then checked, and what is wrong with them is an error; pixel statistics, the place of the stride and eps are
what no check can reach.

The hashes are the publishers', of the file at that address; where there is none, the first download's is kept and later
ones are held to it. A file that you have under any name is recognised by such a hash, and its facts hold
(`scaleprior backbone convert`); its name alone proves nothing. Files of the same weights elsewhere are recognised, too:
they follow in brackets.
"""
_FACTS = """\
### What they expect, and where that was read

Mean and standard deviation on the 0-255 scale in the order of the channels, where the stages have their stride, and the
eps of the norms. Entries of one publisher with the same facts stand together.
"""
_GRID = """\
## The paper's grid

Sun et al., ICCV 2017 ({source}). JFT-300M and these weights are **not public**; there is nothing to
download. Each row can be made from a corpus of your own: index it with `scaleprior corpus build SRC CORPUS`, then run
the command (here for depth {depth}; `zoo show` prints those of {depths}), and give it its name with `zoo add`. The runs
are as long as the paper's: for one GPU, take a smaller fraction and `Pretrain/R_50_modern.yaml`.
"""
_OWN = """\
## Your own

`scaleprior zoo add RUN/backbone.safetensors --name NAME` copies a file into the zoo's folder
(`$SCALEPRIOR_HOME`, by default `~/.cache/scaleprior`) and registers it under its card's facts. NAME may be one of the
paper's grid, where configs expect it, if the card fits ([docs/zoo.md](../docs/zoo.md#a-rung-of-your-own)).
"""
_OF_ADDRESSES = ":/?#@!$&*+,;=%~"  # what ends a link of Markdown's is quoted
_NOT_MEASURED = "On COCO itself nothing was measured here. Numbers that were not measured are absent, not guessed.\n"


def human_count(images: int | None) -> str:
    """1281167 -> "1.28M"; unknown -> "unknown"."""
    if images is None:
        return "unknown"
    for unit, name in ((1_000_000_000, "B"), (1_000_000, "M")):
        if images >= unit:
            return f"{images / unit:.3g}{name}" if images < 100 * unit else f"{images // unit}{name}"
    return f"{images:,}"


def render_page(catalogue: Catalogue, results: Sequence[ResultTable], measured: Sequence[str] = ()) -> str:
    """The whole page, as Markdown.

    Args:
        measured: a section each study that was measured here.
    """
    public = sorted((e for e in catalogue if e.kind == "public"), key=lambda e: (e.images or 0, e.depth))
    sections = [
        _INTRODUCTION,
        _LADDER + "\n" + "\n".join(_ladder(public)),
        "\n".join(_files(public)),
        _FACTS + "\n" + "\n".join(_facts(public)),
        _paper([e for e in catalogue if e.kind == "paper"]),
        _OWN,
        "\n".join([*_results(results), *measured, _NOT_MEASURED]),
    ]
    return "\n".join(sections)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "| " + " | ".join("---:" if i in right else "---" for i in range(len(columns))) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _ladder(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [(f"`{e.name}`", e.arch, human_count(e.images), plain(e.signal), plain(e.licence)) for e in entries]
    yield from _table(("name", "trunk", "images", "supervision", "licence"), rows, right=(2,))
    yield ""
    rows = [
        (f"`{e.name}`", plain(e.corpus), f"{e.labels:,}" if e.labels else "-", plain(e.comparable)) for e in entries
    ]
    yield from _table(("name", "corpus", "labels", "comparable?"), rows, right=(2,))
    yield ""
    yield "What `images` counts, where that is not plain, and where counts and licences come from:"
    yield ""
    notes: dict[str, list[str]] = {}
    for e in entries:
        note = f"{e.images_note + '. ' if e.images_note else ''}Source: {e.source}."
        notes.setdefault(plain(note), []).append(f"`{e.name}`")
    for note, names in notes.items():
        yield f"- {', '.join(names)}: {note}"
    yield ""
    yield "Other trunks are not Detectron2's ResNet: in both engines they stand under feature pyramids only, see"
    yield "[docs/detect.md](../docs/detect.md). `configs/studies/public_ladder.yaml` climbs the R-50 rungs and the"
    yield "CLIP-R50 rungs, each as a curve of its own."
    yield ""


def _files(entries: Sequence[Entry]) -> Iterator[str]:
    absent = [e for e in entries if e.downloaded is None]
    count, had = f"of these {len(entries)} files", len(entries) - len(absent)
    yield _FILES.format(never=f"All but {had} {count} were never" if had else f"None {count} was ever")
    rows = []
    for e in entries:
        hashes = [f"{e.printed.name} {_shortened(e.printed)}" if e.printed else "-"]
        hashes += [f"({_link(copy['url'])} {_shortened(PrintedHash.parse(copy['hash']))})" for copy in e.also]
        where = _link(e.url) if e.url else f"`{e.file}`"
        rows.append((f"`{e.name}`", plain(e.publisher or ""), where, " ".join(hashes), e.downloaded or "never"))
    yield from _table(("name", "publisher", "file", "hash", "downloaded here"), rows)
    yield ""


def _link(url: str) -> str:
    return f"[{plain(url.rpartition('/')[2])}]({quote(url, safe=_OF_ADDRESSES)})"


def _shortened(printed: PrintedHash) -> str:
    return f"`{printed.digits[:8]}...`"


def _facts(entries: Sequence[Entry]) -> Iterator[str]:
    groups: dict[str, list[Entry]] = {}
    for e in entries:
        groups.setdefault(json.dumps([e.publisher, _expects(e), dict(e.proof)]), []).append(e)
    for same in groups.values():
        first = same[0]
        yield f"- {', '.join(f'`{e.name}`' for e in same)}: {_expects(first)}."
        for what, words in PROOFS.items():
            if what in first.proof:
                yield f"  - {words}: {plain(first.proof[what])}"
    yield ""


def _expects(entry: Entry) -> str:
    """What the weights expect, for people."""
    mean, std = (", ".join(f"{v:.7g}" for v in three) for three in (entry.pixel_mean, entry.pixel_std))
    stride = "1x1" if entry.spec is not None and entry.spec.stride_in_1x1 else "3x3"
    placed = not get_family(entry.trunk).named and entry.depth >= 50  # others have no choice of it
    where = f", stride in the {stride}" if placed else ""
    return f"{entry.channel_order}, mean {mean}, std {std}{where}, eps {entry.norm_eps:g}"


def _paper(entries: Sequence[Entry]) -> str:
    depths = sorted({e.depth for e in entries})
    first = [e for e in entries if e.depth == depths[0]]
    head = _GRID.format(source=first[0].source, depth=depths[0], depths=" and ".join(map(str, depths[1:])))
    lines = [head]
    names = "paper-R-{" + ",".join(map(str, depths)) + "}"
    prefix = f"paper-R-{depths[0]}"
    rows = [
        (f"`{e.name.replace(prefix, names)}`", e.corpus, human_count(e.images), f"{e.labels:,}", e.signal, e.comparable)
        for e in first
    ]
    lines += _table(("names", "corpus", "images", "labels", "supervision", "comparable?"), rows, right=(2, 3))
    lines += ["", "```", *(e.command or "" for e in first), "```", ""]
    return "\n".join(lines)


def _results(tables: Sequence[ResultTable]) -> Iterator[str]:
    yield "## Results"
    yield ""
    for table in tables:
        yield f"### Published, not measured here: {table.name}"
        yield ""
        yield f"{table.dataset}, {table.detector} ({table.source}); AP in [0, 100], - where not published:"
        yield ""
        rows = [
            (r["pretraining"], human_count(r["images"]), *(f"{r[m]:.1f}" if m in r else "-" for m in AP_NAMES))
            for r in table.rows
        ]
        columns = ("pretraining", "images", *AP_NAMES.values())
        yield from _table(columns, rows, right=range(1, len(columns)))
        yield ""
