"""From a trunk in foreign names to a backbone: renamed, its facts found out, held against what its architecture has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaleprior.backbones.card import UNKNOWN, Card
from scaleprior.backbones.readers.clues import CARD_IN_PICKLE, carried_card, clues_of
from scaleprior.backbones.readers.containers import Content
from scaleprior.backbones.readers.facts import ReadOptions, resolve
from scaleprior.backbones.readers.limits import RefusedFileError
from scaleprior.backbones.readers.norm_eps import settle_eps
from scaleprior.backbones.readers.report import Found, Report, some
from scaleprior.backbones.readers.search import Candidate
from scaleprior.backbones.readers.sources import check_stated, known_facts, stated_architectures
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.layout import Dropped, Layout
from scaleprior.backbones.trunks.trunk import build_trunk, canonical_shapes
from scaleprior.errors import UserError
from scaleprior.provenance import created_by
from scaleprior.wording import parameter

__all__ = ["CARD_IN_PICKLE", "OF_ANY_FILE", "amended", "assemble", "refuse_idle"]

OF_ANY_FILE = ("name", "licence", "source", "images")
"""Options that say something of a file with a card, too: they replace what it says."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def assemble(candidate: Candidate, content: Content, path: Path, options: ReadOptions) -> Found:
    """Find out the architecture and the facts, add what the layout leaves out, hold all of it against what must be.

    Args:
        content: its settings; the weights are the candidate's.

    Raises:
        UserError: a fact that matters is unknown; weights that match partly; options without effect.
        RefusedFileError: two tensors of one name, or tensors that are none.
    """
    layout = candidate.layout
    report = Report(content.kind, layout.name, candidate.place, dropped=candidate.left_out, notes=candidate.notes)
    tensors = _rename(candidate.tensors, layout, report, str(path))
    carried = carried_card(content)
    if carried is not None:
        refuse_idle([name for name in ("labels", "corpus") if getattr(options, name) is not None], path)
    clues = clues_of(content, options)(layout)
    arch = candidate.family.infer({name: tuple(t.shape) for name, t in tensors.items()}, clues)
    stated = stated_architectures(content.tree, path, options.timm_model)
    report.notes += [note for one in stated if (note := check_stated(arch, one, str(path)))]
    known = known_facts(content, path, options, carried)
    if published := candidate.family.published(arch, clues):
        known.append(published)
    facts, report.facts = resolve(options, known, str(path))
    arch = candidate.family.refine(arch, stride_in_1x1=bool(facts["stride_in_1x1"]))
    if note := candidate.family.complete(tensors, arch):
        report.notes.append(note)
    _hold_against(tensors, arch, candidate, path, options, report)
    eps = settle_eps(tensors, arch, facts.get("norm_eps"), path, options, report)
    if "detector" in report.dropped:
        report.notes.append("the file is a whole detector; its backbone was cut out")
    card = carried or _card(arch, facts, path, options)
    card = replace(card, norm_eps=eps)
    if carried is not None:
        card = replace(card, arch=arch, **{k: facts[k] for k in ("pixel_mean", "pixel_std", "channel_order")})
        card = amended(card, options)
    if report.missing:
        card = replace(card, recipe={**card.recipe, "fresh_tensors": report.missing})
    return Found(path, tensors, card, report)


def _rename(state: dict[str, Any], layout: Layout, report: Report, where: str) -> dict[str, np.ndarray]:
    """Canonical names and layouts; empties ``state`` on the way."""
    tensors: dict[str, np.ndarray] = {}
    for name in list(state):
        value, target = state.pop(name), layout.rename(name)
        if isinstance(target, str) and target in tensors:
            raise RefusedFileError("duplicate", f"{where} holds {target} twice, the second time as {name}")
        if name == "conv1_b" and np.any(np.asarray(value)):
            # MSRA's R-50 has one, of no use in front of a norm; the programs that published its copies never add it.
            target = Dropped("unused bias")
            largest = float(np.abs(value).max())
            report.notes.append(
                f"{name} is not zero (up to {largest:.2g}); Detectron and Detectron2 do not add it either"
            )
        if isinstance(target, Dropped):
            report.dropped.setdefault(target.reason, []).append(name)
        elif target is None:
            report.unexpected.append(name)
        else:
            view = _view(value, name, where, report)
            tensors[target] = layout.reshape(target, view) if layout.reshape else view
    return tensors


def _view(value: Any, name: str, where: str, report: Report) -> np.ndarray:
    """The value as an array of floats, of whatever width; nothing is copied but bfloat16, which NumPy has not."""
    kind = str(value.dtype).removeprefix("torch.")
    if isinstance(value, Tensor) and (value.dtype not in _FLOATS or value.layout != torch.strided or value.is_meta):
        raise RefusedFileError("damaged", f"{where}: {name} is of type {kind}")
    if isinstance(value, Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise RefusedFileError("size", f"{where}: {name} claims more numbers than are stored")
    if isinstance(value, Tensor):
        value = (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
    if value.dtype.kind != "f":
        raise RefusedFileError("damaged", f"{where}: {name} is of type {kind}")
    if kind != "float32":
        note = f"{kind} tensors were {'narrowed' if kind == 'float64' else 'widened exactly'} to float32"
        if note not in report.notes:
            report.notes.append(note)
    return value


def refuse_idle(names: Sequence[str], path: Path) -> None:
    """Raises UserError: there are such options."""
    if names:
        raise UserError(
            f"{path} has a card, on which {', '.join(map(parameter, names))} would have no effect",
            hint="leave them out; what can be given is " + ", ".join(map(parameter, OF_ANY_FILE)),
        )


def amended(card: Card, options: ReadOptions) -> Card:
    """The card with what the user says in its place."""
    given = {name: getattr(options, name) for name in OF_ANY_FILE}
    return replace(card, **{name: value for name, value in given.items() if value is not None})


def _hold_against(
    tensors: dict[str, np.ndarray],
    arch: TrunkSpec,
    candidate: Candidate,
    path: Path,
    options: ReadOptions,
    report: Report,
) -> None:
    """Compare with the architecture; in a partial reading replace what does not fit by fresh weights.

    Raises:
        UserError: something is missing, unexpected or of another shape, and that was not asked for.
    """
    expected = canonical_shapes(arch)
    report.unexpected += sorted(name for name in tensors if name not in expected)
    report.missing = sorted(name for name in expected if name not in tensors)
    differing = [n for n in expected if n in tensors and tuple(tensors[n].shape) != expected[n]]
    report.misshaped = [f"{n} {tuple(tensors[n].shape)} instead of {expected[n]}" for n in differing]
    report.matched = sorted(n for n in expected if n in tensors and n not in differing)
    if not (report.missing or report.unexpected or report.misshaped):
        return
    said = ", ".join(
        f"{len(names)} {label} ({some(names)})"
        for label, names in (
            ("missing", report.missing), ("unexpected", report.unexpected), ("mis-shaped", report.misshaped)
        ) if names
    )  # fmt: skip
    if not options.allow_partial:
        place = f" ({candidate.layout.name} names, {candidate.place})" if candidate.place else ""
        raise UserError(
            f"{path} fits {arch.name} only partly{place}: {len(report.matched)} tensors matched, {said}; "
            f"the file holds: {candidate.tree}",
            hint=f"take complete weights, or {parameter('allow_partial', True)} to start the rest from fresh weights",
        )
    for name in report.unexpected:
        tensors.pop(name, None)
    if report.missing or differing:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = build_trunk(arch).canonical_state()
        tensors.update({name: fresh[name].numpy() for name in [*report.missing, *differing]})
        report.missing = sorted([*report.missing, *differing])
        report.notes.append(f"{len(report.missing)} tensors are fresh, not trained")


def _card(arch: TrunkSpec, facts: Mapping[str, Any], path: Path, options: ReadOptions) -> Card:
    return Card(
        name=str(facts.get("name") or path.stem),
        arch=arch,
        pixel_mean=facts["pixel_mean"],
        pixel_std=facts["pixel_std"],
        channel_order=facts["channel_order"],
        input_size=facts.get("input_size"),
        corpus={"name": options.corpus or UNKNOWN, "fingerprint": UNKNOWN},
        images=options.images,
        labels=options.labels,
        licence=facts.get("licence") or UNKNOWN,
        source=facts.get("source") or f"converted from {path.name}",
        created_by=created_by(),
    )
