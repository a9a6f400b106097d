"""Read a backbone from any known file: canonical tensors, a card of what is known, and a report on every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaleprior.backbones.card import CARD_KEY, UNKNOWN, Card
from scaleprior.backbones.readers.containers import Content, locate, open_container
from scaleprior.backbones.readers.facts import ReadOptions, detector_facts, folder_facts, resolve, timm_facts
from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_name
from scaleprior.backbones.readers.recognise import recognise
from scaleprior.backbones.readers.report import Found, Reading, Report, some
from scaleprior.backbones.trunks.family import Clues, TrunkFamily, TrunkSpec
from scaleprior.backbones.trunks.layout import Dropped, Layout
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.backbones.trunks.trunk import build_trunk, canonical_shapes
from scaleprior.errors import UserError
from scaleprior.provenance import created_by
from scaleprior.wording import Wording, parameter

__all__ = ["CARD_IN_PICKLE", "find_backbone", "finite", "read_backbone", "refuse_nonfinite"]

CARD_IN_PICKLE = "scaleprior_card"
"""Key of the card's JSON in a ``.pkl`` exported here; Detectron2 passes over it."""
_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "model_state", "blobs", "params")
_OF_ANY_FILE = ("name", "licence", "source", "images")
"""Options that say something of a file with a card, too: they replace what it says."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_backbone(source: str | Path, options: ReadOptions | None = None, *, limits: Limits = LIMITS) -> Reading:
    """Read ``source``: a canonical or foreign file, a folder of a run or model, or ``timm:NAME`` (found locally).

    Raises:
        UserError: no such file; unknown family; a fact that matters is unknown; weights that match partly; options
            that have no effect on this file.
        RefusedFileError: it would run code, exhaust memory, holds NaN, duplicates, or is damaged.
    """
    options = options or ReadOptions()
    found = find_backbone(source, options, limits=limits)
    tensors = {name: _to_tensor(values) for name, values in found.tensors.items()}
    refuse_nonfinite(sorted(name for name, tensor in tensors.items() if not finite(tensor)), found, options)
    return Reading(tensors, found.card, found.report)


def _to_tensor(values: np.ndarray | Tensor) -> Tensor:
    """float32: over the mapped file where its numbers lie in it as torch needs them, else a copy; writable."""
    if isinstance(values, Tensor):
        return values
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is found as such
        return torch.from_numpy(np.require(values, np.float32, ["C", "A", "W"]))


def find_backbone(source: str | Path, options: ReadOptions, *, limits: Limits = LIMITS) -> Found:
    """All of :func:`read_backbone` but looking at the numbers; those of our own files are held against their hash.

    Raises:
        UserError, RefusedFileError: as there, but for NaN.
    """
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
    # Only what _carried_card and _known ask for is kept of the rest.
    texts = {k: v for k, v in content.tree.items() if isinstance(v, str)} if content.kind == "pickle" else {}
    content = replace(content, tree=texts)
    family, layout = recognise(state, str(path))
    report = Report(content.kind, layout.name, notes=notes)
    tensors = _rename(state, layout, report, str(path))
    return _complete(tensors, family, layout, content, path, options, report)


def _canonical(path: Path, options: ReadOptions) -> Found:
    """A file of our own: nothing to find out, but tensors are held against the card.

    Raises:
        UserError: options that have no effect on such a file.
    """
    from scaleprior.backbones.weights import load_canonical

    given = [field.name for field in fields(options) if getattr(options, field.name) != field.default]
    _refuse_idle([name for name in given if name not in (*_OF_ANY_FILE, "allow_nonfinite")], path)
    tensors, card = load_canonical(path)
    report = Report("safetensors", "scaleprior", matched=sorted(tensors), facts={"card": "in the file"})
    return Found(path, tensors, _amended(card, options), report)


def _refuse_idle(names: Sequence[str], path: Path) -> None:
    """Raises UserError: there are such options."""
    if names:
        raise UserError(
            f"{path} has a card, on which {', '.join(map(parameter, names))} would have no effect",
            hint="leave them out; what can be given is " + ", ".join(map(parameter, _OF_ANY_FILE)),
        )


def _amended(card: Card, options: ReadOptions) -> Card:
    """The card with what the user says in its place."""
    given = {name: getattr(options, name) for name in _OF_ANY_FILE}
    return replace(card, **{name: value for name, value in given.items() if value is not None})


def _state_dict(content: Content, options: ReadOptions, limits: Limits) -> tuple[dict[str, Any], list[str]]:
    """The flat dict of tensors inside whatever wraps it, without prefixes that parallel training adds."""
    tree, notes, path = content.tree, [], content.path
    if content.left_out:
        notes.append(f"objects that are no weights were passed over: {some(content.left_out)}")
    if not isinstance(tree, Mapping):
        raise UserError(f"{path} holds a {type(tree).__name__}, not named tensors", hint="save a state_dict")
    if options.state is not None:
        if not isinstance(tree.get(options.state), Mapping):
            raise UserError(f"{path} has no state dict {options.state!r}", hint=f"it has {sorted(map(str, tree))[:12]}")
        tree = tree[options.state]
    while inner := [key for key in _WRAPPERS if isinstance(tree.get(key), Mapping) and tree[key]]:
        if len(inner) > 1:
            notes.append(Wording(f"took {inner[0]}, not {', '.join(inner[1:])}; {parameter('state')} chooses"))
        tree = tree[inner[0]]
    tensors = {k: v for k, v in tree.items() if isinstance(v, (Tensor, np.ndarray))}
    limits.check_keys(len(tensors), str(path))
    for name in tensors:
        check_name(name, str(path), limits)
    for prefix in ("module.", "_orig_mod.", "module."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, notes


def _rename(state: dict[str, Any], layout: Layout, report: Report, where: str) -> dict[str, np.ndarray]:
    """Canonical names and layouts; empties ``state`` on the way."""
    tensors: dict[str, np.ndarray] = {}
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


def _complete(
    tensors: dict[str, np.ndarray],
    family: TrunkFamily,
    layout: Layout,
    content: Content,
    path: Path,
    options: ReadOptions,
    report: Report,
) -> Found:
    """Find out the architecture and the facts, add what the layout leaves out, hold all of it against what must be."""
    carried = _carried_card(content)
    if carried is not None:
        _refuse_idle([name for name in ("labels", "corpus") if getattr(options, name) is not None], path)
    author = content.tree.get("__author__") if content.kind == "pickle" else None
    clues = Clues(str(path), layout, options.norm, options.depth, carried.arch if carried else None, author)
    arch = family.infer({name: tuple(t.shape) for name, t in tensors.items()}, clues)
    known = _known(content, options, carried)
    if published := family.published(arch, clues):
        known.append(published)
    facts, report.facts = resolve(options, known, str(path))
    arch = family.refine(arch, stride_in_1x1=bool(facts["stride_in_1x1"]))
    if note := family.complete(tensors, arch):
        report.notes.append(note)
    _hold_against(tensors, arch, path, options, report)
    _fold_eps(tensors, arch, path, options, report)
    if "detector" in report.dropped:
        report.notes.append("the file is a whole detector; its backbone was cut out")
    card = carried or _card(arch, facts, path, options)
    if carried is not None:
        card = replace(card, arch=arch, **{k: facts[k] for k in ("pixel_mean", "pixel_std", "channel_order")})
        card = _amended(card, options)
    if report.missing:
        card = replace(card, recipe={**card.recipe, "fresh_tensors": report.missing})
    return Found(path, tensors, card, report)


def _fold_eps(
    tensors: dict[str, np.ndarray], arch: TrunkSpec, path: Path, options: ReadOptions, report: Report
) -> None:
    """Put the difference between the weights' eps and the detectors' into the running variances.

    Raises:
        UserError: norms that keep no variances.
    """
    eps = arch.family.eps
    if options.norm_eps is None or options.norm_eps == eps:
        return
    if arch.norm != "BN":
        raise UserError(
            f"{path}: {parameter('norm_eps')} is {options.norm_eps:g}; {arch.name} has {arch.norm}, which cannot take "
            "it up",
            hint=f"only weights with eps {eps:g} give the same numbers there",
        )
    for name in [n for n in tensors if n.endswith("running_var")]:
        tensors[name] = np.asarray(tensors[name], np.float32) + np.float32(options.norm_eps - eps)
    report.notes.append(f"running variances hold the difference of eps {options.norm_eps:g} and {eps:g}")


def _carried_card(content: Content) -> Card | None:
    text = content.tree.get(CARD_IN_PICKLE) if content.kind == "pickle" else None
    return Card.from_json(text, source=str(content.path)) if isinstance(text, str) else None


def _known(content: Content, options: ReadOptions, carried: Card | None) -> list[KnownFacts]:
    """Everything that travels with the tensors or that the user names, best first."""
    known = []
    if carried is not None:
        known.append(
            KnownFacts("the card in the file", carried.pixel_mean, carried.pixel_std, carried.channel_order,
                  carried.stride_in_1x1)
        )  # fmt: skip
    if options.timm_model is not None:
        from scaleprior.backbones.readers.timm_names import published

        known.append(timm_facts(published(options.timm_model), f"timm's {options.timm_model}"))
    for found in (detector_facts(content.metadata, str(content.path)), folder_facts(content.path)):
        if found is not None:
            known.append(found)
    return known


def _hold_against(
    tensors: dict[str, np.ndarray], arch: TrunkSpec, path: Path, options: ReadOptions, report: Report
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
        raise UserError(
            f"{path} fits {arch.name} only partly: {len(report.matched)} tensors matched, {said}",
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


def refuse_nonfinite(names: Sequence[str], found: Found, options: ReadOptions) -> None:
    """Refuse tensors with NaN or infinity, or note them where they are allowed.

    Raises:
        RefusedFileError
    """
    if not names:
        return
    said = f"{len(names)} tensors hold NaN or infinity ({some(names)})"
    if not options.allow_nonfinite:
        raise RefusedFileError(
            "numbers",
            f"{found.path}: {said}",
            hint="the training diverged or the file is damaged; "
            f"{parameter('allow_nonfinite', True)} takes it nevertheless",
        )
    found.report.notes.append(said)


def finite(tensor: Tensor) -> bool:
    """No NaN and no infinity; one pass without a mask for the usual case, since a sum carries both along."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


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
