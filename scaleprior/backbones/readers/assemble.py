"""From a trunk in foreign names to a backbone: renamed, its facts found out, held against what its architecture has."""

from __future__ import annotations

import itertools
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
from scaleprior.backbones.readers.draft import Draft
from scaleprior.backbones.readers.facts import ReadOptions, by_kind, leaves_unsaid, places_of, resolve, with_norm
from scaleprior.backbones.readers.limits import FLOATS, RefusedFileError
from scaleprior.backbones.readers.norm_eps import settle_eps
from scaleprior.backbones.readers.report import Found, Report, some
from scaleprior.backbones.readers.search import Candidate
from scaleprior.backbones.readers.sources import (
    check_stated,
    check_telltales,
    known_facts,
    refuse_variants,
    stated_architectures,
)
from scaleprior.backbones.readers.sources.all_sources import IN_CARD
from scaleprior.backbones.readers.sources.architecture import Stated
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.layout import Dropped, Layout
from scaleprior.backbones.trunks.published import CARD_FACTS, KnownFacts, Origin
from scaleprior.backbones.trunks.trunk import build_trunk, canonical_shapes
from scaleprior.backbones.zoo.identify import identified
from scaleprior.errors import UserError
from scaleprior.provenance import created_by
from scaleprior.wording import parameter

__all__ = ["CARD_IN_PICKLE", "OF_ANY_FILE", "amended", "assemble", "refuse_idle"]

OF_ANY_FILE = ("name", "licence", "source", "images")
"""Options that say something of a file with a card, too: they replace what it says."""
_STATISTICS = ("pixel_mean", "pixel_std", "channel_order")
_LISTED = 50  # of the names that a card lists of what was dropped
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def assemble(
    candidate: Candidate, content: Content, path: Path, options: ReadOptions, known: Sequence[KnownFacts] = ()
) -> Found:
    """Find out the architecture and the facts, add what the layout leaves out, hold all of it against what must be.

    Args:
        content: its settings; the weights are the candidate's.
        known: facts from elsewhere than the file.

    Raises:
        UserError: weights that match partly; options without effect, or that the file contradicts.
        RefusedFileError: two tensors of one name, or tensors that are none.
    """
    layout = candidate.layout
    report = Report(content.kind, layout.name, candidate.place, dropped=candidate.left_out, notes=candidate.notes)
    names = frozenset((*candidate.tensors, *itertools.chain.from_iterable(candidate.left_out.values())))
    tensors = _rename(candidate.tensors, layout, report, str(path))
    carried = carried_card(content)
    if carried is not None:
        refuse_idle([name for name in ("labels", "corpus") if getattr(options, name) is not None], path)
    refuse_variants(content.tree, path, options.timm_model)
    stated = stated_architectures(content.tree, path, options.timm_model)
    stated += [Stated(place.architecture, place.origin) for place in known if place.architecture]
    places = [*known_facts(content, path, options, carried), *known]
    clues = replace(clues_of(content, with_norm(options, known))(layout), names=names)
    arch = candidate.family.infer({name: tuple(t.shape) for name, t in tensors.items()}, clues)
    report.notes += [note for one in stated if (note := check_stated(arch, one, str(path)))]
    places += [] if known or carried is not None else _recognised(options, places, arch, path)
    if published := candidate.family.published(arch, clues):
        places.append(published)
    resolved = resolve(options, places, str(path), implied=_implied(arch))
    arch = candidate.family.refine(arch, stride_in_1x1=resolved.facts.get("stride_in_1x1", False))
    _refuse_untrue(arch, path, options)
    if options.norm == "GN":
        report.notes.append("GroupNorm is taken to be of 32 groups, as in Detectron2; tensors do not tell how many")
    report.notes += check_telltales(tensors, resolved.facts, resolved.origins, str(path))
    if note := candidate.family.complete(tensors, arch):
        report.notes.append(note)
    _hold_against(tensors, arch, candidate, path, options, report)
    eps = settle_eps(tensors, arch, resolved.facts.get("norm_eps"), path, options, report)
    if "detector" in report.dropped:
        report.notes.append("the file is a whole detector; its backbone was cut out")
    report.notes += resolved.notes
    if (given := resolved.facts.get("norm_eps", eps)) != eps:
        said = resolved.origins["norm_eps"]
        resolved.origins["norm_eps"] = Origin(said.kind, f"{said.where}: {given:g}; the variances hold the difference")
    origins = {**resolved.origins, "norm": _origin_of_norm(arch, [*places_of(options), *places], carried)}
    report.facts = origins
    values = _values(arch, resolved.facts, path) if carried is None else _values_of(carried, arch, resolved.facts)
    values |= {} if "norm_eps" in resolved.missing else {"norm_eps": eps}
    values |= {name: getattr(options, name) for name in OF_ANY_FILE if getattr(options, name) is not None}
    values["facts"] = {name: origins[name] for name in CARD_FACTS if name in origins and origins[name] != IN_CARD}
    if partial := _partial_reading(report):
        values["recipe"] = {**values.get("recipe", {}), **partial}
    return Found(path, tensors, Draft(values, resolved.missing, str(path)), report)


def _recognised(options: ReadOptions, places: Sequence[KnownFacts], arch: TrunkSpec, path: Path) -> list[KnownFacts]:
    """What its publisher states; a pass over the file's bytes, so only where user and file leave something to say."""
    if not leaves_unsaid(options, places, str(path), implied=_implied(arch)):
        return []
    publisher = identified(path, arch)
    return [] if publisher is None else [publisher]


def _implied(arch: TrunkSpec) -> dict[str, tuple[Any, str]]:
    """Fact -> (value, why), of those that the architecture leaves no choice of."""
    values = {
        "stride_in_1x1": (False, f"{arch.name} has no other place for its strides"),
        "norm_eps": (arch.family.eps, f"the {arch.norm} of every {arch.name}"),
    }
    return {name: value for name, value in values.items() if name not in arch.family.unsaid(arch)}


def _refuse_untrue(arch: TrunkSpec, path: Path, options: ReadOptions) -> None:
    """Raises UserError: options say of the trunk what cannot be."""
    if options.stride_in_1x1 and not arch.stride_in_1x1:
        raise UserError(
            f"{path}: {parameter('stride_in_1x1', True)}, but {arch.name} has no 1x1 convolution that could",
            hint="leave it out",
        )
    if options.norm not in (None, arch.norm):
        raise UserError(
            f"{path}: {parameter('norm')} is {options.norm!r}, but its norms are {arch.norm}", hint="leave it out"
        )


def _origin_of_norm(arch: TrunkSpec, places: Sequence[KnownFacts], carried: Card | None) -> Origin:
    for place in by_kind(places):
        if place.norm == arch.norm:
            return Origin(place.kind, place.origin)
    if carried is not None:
        return carried.facts.get("norm", IN_CARD)
    return Origin("file", "names and statistics of its norms")


def _partial_reading(report: Report) -> dict[str, Any]:
    """What a card says of a reading that was partial: nothing of a whole one."""
    dropped = [*report.unexpected, *report.misshaped]
    said: dict[str, Any] = {"fresh_tensors": report.missing} if report.missing else {}
    if dropped:
        said["dropped_tensors"] = {"count": len(dropped), "names": dropped[:_LISTED]}
    return said


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
        raise RefusedFileError("damaged", f"{where}: {name} is of type {kind}", hint=FLOATS)
    if isinstance(value, Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise RefusedFileError("size", f"{where}: {name} claims more numbers than are stored")
    if isinstance(value, Tensor):
        value = (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
    if value.dtype.kind != "f":
        raise RefusedFileError("damaged", f"{where}: {name} is of type {kind}", hint=FLOATS)
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


def _values(arch: TrunkSpec, facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Fields of a new card."""
    return {
        **{name: facts[name] for name in _STATISTICS if name in facts},
        "arch": arch,
        "name": facts.get("name") or Path(path.name.removesuffix(".tar")).stem,  # model_best.pth.tar, too
        "input_size": facts.get("input_size"),
        "corpus": {"name": facts.get("corpus") or UNKNOWN, "fingerprint": UNKNOWN},
        "images": facts.get("images"),
        "labels": facts.get("labels"),
        "licence": facts.get("licence") or UNKNOWN,
        "source": facts.get("source") or f"converted from {path.name}",
        "created_by": created_by(),
    }


def _values_of(card: Card, arch: TrunkSpec, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a card that travelled with the tensors, with what is known better."""
    return {**Draft.of(card, "").fields, "arch": arch, **{name: facts[name] for name in _STATISTICS}}
