"""``model_zoo/README.md``, made from the data beside it, so that page and catalogue cannot differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scaleprior.ap_names import AP_NAMES
from scaleprior.backbones.zoo.catalogue import Catalogue
from scaleprior.backbones.zoo.entry import Entry
from scaleprior.backbones.zoo.published import ResultTable

__all__ = ["human_count", "render_page"]

_INTRODUCTION = """\
# Model zoo

<!-- Made by `scaleprior zoo readme --out model_zoo/README.md` from zoo.yaml and *_results.yaml; edit those. -->

Backbones by name, and results with their source. `scaleprior zoo list` prints the same on the terminal,
`scaleprior zoo show NAME` everything about one entry, `scaleprior zoo fetch NAME` gets it, and `scaleprior://NAME`
stands for it in study specs and, through iopath, in Detectron2. How that works: [docs/zoo.md](../docs/zoo.md).

| file | what |
| --- | --- |
| `zoo.yaml` | the catalogue |
| `*_results.yaml` | detection results: published ones with a source, ours with config, seed, engine, commit, hash |
"""
_LADDER = """\
## The public ladder

Backbones that anyone can download, by the number of images behind them. No two sizes share images, labels and recipe,
so this is a ladder of what the public can have, and a law fitted to it describes that and nothing purer. The last
column of each row says what it may be compared with. Licences are those that timm records for the weights; mind the
non-commercial ones.
"""
_GRID = """\
## The paper's grid

Sun et al., ICCV 2017 ({source}). JFT-300M and these weights are **not public**; there is nothing to
download. Each row can be made from a corpus of your own: index it with `scaleprior corpus build SRC CORPUS`, then run
the command (here for depth {depth}; `zoo show` prints those of {depths}). The runs are as long as the paper's: for
one GPU, take a smaller fraction and `Pretrain/R_50_modern.yaml`.
"""
_OWN = """\
## Your own

`scaleprior zoo add RUN/backbone.safetensors --name NAME` copies a file into the zoo's folder
(`$SCALEPRIOR_HOME`, by default `~/.cache/scaleprior`) and registers it under its card's facts.
"""


def human_count(images: int | None) -> str:
    """1281167 -> "1.28M"; unknown -> "unknown"."""
    if images is None:
        return "unknown"
    for unit, name in ((1_000_000_000, "B"), (1_000_000, "M")):
        if images >= unit:
            return f"{images / unit:.3g}{name}" if images < 100 * unit else f"{images // unit}{name}"
    return f"{images:,}"


def render_page(catalogue: Catalogue, results: Sequence[ResultTable]) -> str:
    """The whole page, as Markdown."""
    sections = [
        _INTRODUCTION,
        _LADDER + "\n" + "\n".join(_ladder([e for e in catalogue if e.kind == "public"])),
        _paper([e for e in catalogue if e.kind == "paper"]),
        _OWN,
        "\n".join(_results(results)),
    ]
    return "\n".join(sections)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "| " + " | ".join("---:" if i in right else "---" for i in range(len(columns))) + " |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _ladder(entries: Sequence[Entry]) -> Iterator[str]:
    ordered = sorted(entries, key=lambda e: (e.images or 0, e.depth))
    rows = [
        (f"`{e.name}`", e.arch, human_count(e.images), e.signal, f"{e.labels:,}" if e.labels else "-", e.licence)
        for e in ordered
    ]
    yield from _table(("name", "trunk", "images", "supervision", "labels", "licence"), rows, right=(2, 4))
    yield ""
    rows = [(f"`{e.name}`", f"`{e.timm or e.url}`", e.corpus, e.comparable) for e in ordered]
    yield from _table(("name", "weights (timm's name)", "corpus", "comparable?"), rows)
    yield ""
    yield "What `images` counts, where that is not plain, and where the facts come from:"
    yield ""
    for e in ordered:
        yield f"- `{e.name}`: {e.images_note + '. ' if e.images_note else ''}Source: {e.source}."
    yield ""
    yield "Other trunks are not Detectron2's ResNet: in both engines they stand under feature pyramids only, see"
    yield "[docs/detect.md](../docs/detect.md). `configs/studies/public_ladder.yaml` climbs the R-50 rungs and the"
    yield "CLIP-R50 rungs, each as a curve of its own."
    yield ""


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
    for table in sorted(tables, key=lambda t: t.measured_here):
        yield f"### {'Measured here' if table.measured_here else 'Published, not measured here'}: {table.name}"
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
        if table.measured_here:
            rows = [[str(r[k]) for k in ("pretraining", "config", "seed", "engine", "commit", "dataset_sha256")]
                    for r in table.rows]  # fmt: skip
            yield from _table(("pretraining", "config", "seed", "engine", "commit", "detection set"), rows)
            yield ""
    if not any(t.measured_here for t in tables):
        yield "Results measured here: none on COCO yet. Numbers that were not measured are absent, not guessed."
        yield ""
