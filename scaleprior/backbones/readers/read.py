"""Read a backbone from any known file: canonical tensors, a card of what is known, and a report on every key."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaleprior.backbones.arch import Arch, TimmSpec
from scaleprior.backbones.card import CARD_KEY, UNKNOWN, Card
from scaleprior.backbones.families import build_trunk, canonical_shapes
from scaleprior.backbones.names import to_detectron2
from scaleprior.backbones.readers.containers import Content, locate, open_container
from scaleprior.backbones.readers.facts import (
    IMAGENET,
    MSRA,
    Known,
    ReadOptions,
    detector_facts,
    folder_facts,
    resolve,
    timm_facts,
)
from scaleprior.backbones.readers.infer import infer_resnet, infer_timm
from scaleprior.backbones.readers.layouts import Dropped, Layout, recognise
from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_name
from scaleprior.backbones.threads import map_tensors
from scaleprior.errors import UserError
from scaleprior.provenance import created_by

__all__ = ["CARD_IN_PICKLE", "Reading", "Report", "read_backbone"]

CARD_IN_PICKLE = "scaleprior_card"
"""Key of the card's JSON in a ``.pkl`` exported here; Detectron2 passes over it."""
_EPS = 1e-5  # of every detector's norms
_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "model_state", "blobs", "params")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class Report:
    """What became of every tensor of a file.

    Attributes:
        kind, layout: of the file and of its names.
        matched: canonical names that were filled.
        missing: canonical names that the file lacks (filled with fresh weights if that was allowed).
        unexpected: the file's names that have no place.
        misshaped: "name: its shape instead of the expected one".
        dropped: reason -> the file's names left out on purpose (classifier, counter, optimiser, detector, projection).
        facts: fact -> where it was found.
        notes: what a reader should hear, in sentences.
    """

    kind: str
    layout: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; matched names as a count, since they are the whole architecture."""
        return {**self.__dict__, "matched": len(self.matched)}

    def lines(self) -> list[str]:
        """For people."""
        text = [f"read as {self.layout}, {self.kind} file: {len(self.matched)} tensors matched"]
        for reason, names in self.dropped.items():
            text.append(f"left out, {reason}: {len(names)} ({_some(names)})")
        for label in ("missing", "unexpected", "misshaped"):
            names = getattr(self, label)
            text.append(f"{label}: {len(names)}{f' ({_some(names)})' if names else ''}")
        origins: dict[str, list[str]] = {}
        for name, origin in self.facts.items():
            origins.setdefault(origin, []).append(name)
        text += [f"{', '.join(names)}: {origin}" for origin, names in origins.items()]
        return text + self.notes


@dataclass(frozen=True)
class Reading:
    """A backbone in memory: canonical tensors (float32, CPU), card, report."""

    tensors: dict[str, Tensor]
    card: Card
    report: Report


def read_backbone(source: str | Path, options: ReadOptions | None = None, *, limits: Limits = LIMITS) -> Reading:
    """Read ``source``: a canonical or foreign file, a folder of a run or model, or ``timm:NAME`` (found locally).

    Raises:
        UserError: no such file; unknown family; a fact that matters is unknown; weights that match partly.
        RefusedFileError: it would run code, exhaust memory, holds NaN, duplicates, or is damaged.
    """
    options = options or ReadOptions()
    if str(source).startswith("timm:"):
        from scaleprior.backbones.readers.timm_names import find_timm

        path = find_timm(str(source)[5:])
        options = replace(options, timm_model=options.timm_model or str(source)[5:])
    else:
        path = locate(source)
    content = open_container(path, limits=limits)
    if CARD_KEY in content.metadata:
        return _canonical(path, options)
    state, notes = _state_dict(content, options, limits)
    # Only what _carried_card and _known ask for is kept, so that every foreign tensor is freed once it is converted.
    texts = {k: v for k, v in content.tree.items() if isinstance(v, str)} if content.kind == "pickle" else {}
    content = replace(content, tree=texts)
    layout = recognise(state, str(path))
    report = Report(content.kind, layout.name, notes=notes)
    tensors = _rename(state, layout, report, str(path))
    return _complete(tensors, layout, content, path, options, report)


def _canonical(path: Path, options: ReadOptions) -> Reading:
    """A file of our own: nothing to find out, but tensors are held against the card."""
    from scaleprior.backbones.weights import load_backbone

    tensors, card = load_backbone(path)
    report = Report("safetensors", "scaleprior", matched=sorted(tensors), facts={"card": "in the file"})
    _check_numbers(tensors, path, options, report)
    given = {"name": options.name, "licence": options.licence, "source": options.source, "images": options.images}
    return Reading(tensors, replace(card, **{k: v for k, v in given.items() if v is not None}), report)


def _state_dict(content: Content, options: ReadOptions, limits: Limits) -> tuple[dict[str, Any], list[str]]:
    """The flat dict of tensors inside whatever wraps it, without prefixes that parallel training adds."""
    tree, notes, path = content.tree, [], content.path
    if content.left_out:
        notes.append(f"objects that are no weights were passed over: {_some(content.left_out)}")
    if not isinstance(tree, Mapping):
        raise UserError(f"{path} holds a {type(tree).__name__}, not named tensors", hint="save a state_dict")
    if options.state is not None:
        if not isinstance(tree.get(options.state), Mapping):
            raise UserError(f"{path} has no state dict {options.state!r}", hint=f"it has {sorted(map(str, tree))[:12]}")
        tree = tree[options.state]
    while inner := [key for key in _WRAPPERS if isinstance(tree.get(key), Mapping) and tree[key]]:
        if len(inner) > 1:
            notes.append(f"took {inner[0]}, not {', '.join(inner[1:])}; --state chooses")
        tree = tree[inner[0]]
    tensors = {k: v for k, v in tree.items() if isinstance(v, (Tensor, np.ndarray))}
    limits.check_keys(len(tensors), str(path))
    for name in tensors:
        check_name(name, str(path), limits)
    for prefix in ("module.", "_orig_mod.", "module."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, notes


def _rename(state: dict[str, Any], layout: Layout, report: Report, where: str) -> dict[str, Tensor]:
    """Canonical names and types; empties ``state`` on the way."""
    tensors: dict[str, Tensor] = {}
    for name in list(state):
        value, target = state.pop(name), layout.rename(name)
        if isinstance(target, str) and target in tensors:
            raise RefusedFileError("duplicate", f"{where} holds {target} twice, the second time as {name}")
        if name == "conv1_b" and np.any(np.asarray(value)):
            target = None  # dropped only because it is the zero bias in front of a norm
        if isinstance(target, Dropped):
            report.dropped.setdefault(target.reason, []).append(name)
        elif target is None:
            report.unexpected.append(name)
        else:
            tensors[target] = _tensor(value, name, where, report)

    def settle(name: str, tensor: Tensor) -> None:
        if layout.hwio and tensor.ndim == 4:
            # NumPy's memory comes in large pages where the system has them, which halves the time of this copy.
            made = torch.from_numpy(np.empty([tensor.shape[i] for i in (3, 2, 0, 1)], np.float32))
            tensor = made.copy_(tensor.permute(3, 2, 0, 1))
        tensors[name] = tensor.float()  # at once, so that what it was made of is freed

    if layout.hwio or any(t.dtype != torch.float32 for t in tensors.values()):
        map_tensors(settle, tensors)
    return tensors


def _tensor(value: Any, name: str, where: str, report: Report) -> Tensor:
    """The value as a tensor of floats, of whatever width."""
    if isinstance(value, np.ndarray):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read-only memory; nothing here writes to it
            value = torch.from_numpy(value) if value.dtype.kind in "iufb" else value
    if not isinstance(value, Tensor) or value.dtype not in _FLOATS or value.layout != torch.strided or value.is_meta:
        raise RefusedFileError("damaged", f"{where}: {name} is of type {getattr(value, 'dtype', type(value))}")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise RefusedFileError("size", f"{where}: {name} claims more numbers than are stored")
    if value.dtype != torch.float32:
        kind = str(value.dtype).removeprefix("torch.")
        note = f"{kind} tensors were {'narrowed' if value.dtype == torch.float64 else 'widened exactly'} to float32"
        if note not in report.notes:
            report.notes.append(note)
    return value.detach()


def _complete(
    tensors: dict[str, Tensor], layout: Layout, content: Content, path: Path, options: ReadOptions, report: Report
) -> Reading:
    """Find out the architecture and the facts, fill MSRA's statistics, hold all of it against what must be there."""
    carried = _carried_card(content)
    norm, affine_only = _norm(tensors, layout, options, carried, str(path))
    known = _known(layout, content, options, carried, affine_only)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    arch: Arch
    if layout.family == "resnet":
        facts, report.facts = resolve(options, known, str(path))
        basic = not any(name.endswith(".conv3.weight") for name in shapes)
        stride = bool(facts["stride_in_1x1"]) and not basic
        arch = infer_resnet(shapes, norm=norm, stride_in_1x1=stride, where=str(path), depth=options.depth)
    else:
        arch = infer_timm(shapes, suffix=f"_{layout.family}", where=str(path))
        place = f"published for timm's {arch.model}"
        known.append(Known(place, arch.facts.pixel_mean, arch.facts.pixel_std, "RGB", False))
        facts, report.facts = resolve(options, known, str(path))
    if affine_only and norm == "FrozenBN":
        _add_identity_statistics(tensors, report)
    _hold_against(tensors, arch, path, options, report)
    if options.norm_eps != _EPS and norm == "BN":
        for name in [n for n in tensors if n.endswith("running_var")]:
            tensors[name] = tensors[name] + (options.norm_eps - _EPS)
        report.notes.append(f"running variances hold the difference of eps {options.norm_eps:g} and {_EPS:g}")
    _check_numbers(tensors, path, options, report)
    if "detector" in report.dropped:
        report.notes.append("the file is a whole detector; its backbone was cut out")
    card = carried or _card(arch, facts, path, options)
    if carried is not None:
        card = replace(card, arch=arch, **{k: facts[k] for k in ("pixel_mean", "pixel_std", "channel_order")})
        card = replace(card, name=options.name or card.name)
    if report.missing:
        card = replace(card, recipe={**card.recipe, "fresh_tensors": report.missing})
    return Reading(tensors, card, report)


def _carried_card(content: Content) -> Card | None:
    text = content.tree.get(CARD_IN_PICKLE) if content.kind == "pickle" else None
    return Card.from_json(text, source=str(content.path)) if isinstance(text, str) else None


def _norm(
    tensors: Mapping[str, Tensor], layout: Layout, options: ReadOptions, carried: Card | None, where: str
) -> tuple[str, bool]:
    """(kind of norm, whether there are gains and biases only)."""
    if layout.family != "resnet":
        return ("GN" if layout.family == "bit" else "BN"), False
    if any(name.endswith("running_var") for name in tensors):
        return (carried.norm if carried else "BN"), False
    if options.norm or carried:
        return options.norm or carried.norm, True
    if layout.name == "caffe2":
        return "FrozenBN", True
    raise UserError(
        f"{where}: its norms have no running statistics, so they are GroupNorm or folded BatchNorm",
        hint="give --norm GN or --norm FrozenBN",
    )


def _known(
    layout: Layout, content: Content, options: ReadOptions, carried: Card | None, affine_only: bool
) -> list[Known]:
    """Everything that says something, best first."""
    known = []
    if carried is not None:
        known.append(
            Known("the card in the file", carried.pixel_mean, carried.pixel_std, carried.channel_order,
                  carried.stride_in_1x1)
        )  # fmt: skip
    if options.timm_model is not None:
        from scaleprior.backbones.readers.timm_names import published

        known.append(timm_facts(published(options.timm_model), f"timm's {options.timm_model}"))
    for found in (detector_facts(content.metadata, str(content.path)), folder_facts(content.path)):
        if found is not None:
            known.append(found)
    author = content.tree.get("__author__") if content.kind == "pickle" else None
    if layout.name == "torchvision/timm" or (layout.name == "detectron2" and author == "torchvision"):
        known.append(IMAGENET)
    elif layout.name == "caffe2" and affine_only and options.norm != "GN":
        known.append(MSRA)
    return known


def _add_identity_statistics(tensors: dict[str, Tensor], report: Report) -> None:
    """Mean 0 and variance 1, the very bits that Detectron2's own loader puts into FrozenBN for such files.

    With FrozenBN's eps this scales each gain by 1 / sqrt(1 + 1e-5); Caffe2's affine layer had no eps. The effect on
    features of random networks is 2.5e-5 (R-50) to 4.6e-5 (R-152) relative, and every AP published for these weights
    with Detectron2 contains it.
    """
    for name in [n for n in tensors if n.endswith(".norm.bias")]:
        stem = name.removesuffix("bias")
        tensors[f"{stem}running_mean"] = torch.zeros_like(tensors[name])
        tensors[f"{stem}running_var"] = torch.ones_like(tensors[name])
    report.notes.append("norms are affine only (FrozenBN); they got mean 0 and variance 1, as Detectron2 loads them")


def _hold_against(tensors: dict[str, Tensor], arch: Arch, path: Path, options: ReadOptions, report: Report) -> None:
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
        f"{len(names)} {label} ({_some(names)})"
        for label, names in (
            ("missing", report.missing), ("unexpected", report.unexpected), ("mis-shaped", report.misshaped)
        ) if names
    )  # fmt: skip
    if not options.allow_partial:
        raise UserError(
            f"{path} fits {arch.name} only partly: {len(report.matched)} tensors matched, {said}",
            hint="take complete weights, or --allow-partial to start the rest from fresh weights",
        )
    for name in report.unexpected:
        tensors.pop(name, None)
    if report.missing or differing:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = build_trunk(arch).body.state_dict()
        fresh = fresh if isinstance(arch, TimmSpec) else to_detectron2(fresh)
        tensors.update({name: fresh[name] for name in [*report.missing, *differing]})
        report.missing = sorted([*report.missing, *differing])
        report.notes.append(f"{len(report.missing)} tensors are fresh, not trained")


def _check_numbers(tensors: Mapping[str, Tensor], path: Path, options: ReadOptions, report: Report) -> None:
    fine = map_tensors(lambda _, tensor: finite(tensor), tensors)
    wrong = sorted(name for name in tensors if not fine[name])
    if wrong and not options.allow_nonfinite:
        raise RefusedFileError(
            "numbers",
            f"{path}: {len(wrong)} tensors hold NaN or infinity ({_some(wrong)})",
            hint="the training diverged or the file is damaged; --allow-nonfinite takes it nevertheless",
        )
    if wrong:
        report.notes.append(f"{len(wrong)} tensors hold NaN or infinity ({_some(wrong)})")


def finite(tensor: Tensor) -> bool:
    """No NaN and no infinity; one pass without a mask for the usual case, since a sum carries both along."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _card(arch: Arch, facts: Mapping[str, Any], path: Path, options: ReadOptions) -> Card:
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


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
