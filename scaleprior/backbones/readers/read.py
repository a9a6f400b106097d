"""Read a backbone from any known file: canonical tensors, a card of what is known, and a report on every key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaleprior.backbones.card import CARD_KEY
from scaleprior.backbones.readers.assemble import OF_ANY_FILE, amended, assemble, refuse_idle
from scaleprior.backbones.readers.containers import locate, open_container, without_weights
from scaleprior.backbones.readers.draft import Draft
from scaleprior.backbones.readers.facts import ReadOptions, with_norm
from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError
from scaleprior.backbones.readers.report import Found, Inspection, Reading, Report, some
from scaleprior.backbones.readers.search import find_candidate
from scaleprior.backbones.trunks.published import KnownFacts, Origin, UnsaidNormsError
from scaleprior.backbones.zoo.identify import identified
from scaleprior.wording import parameter

__all__ = ["find_backbone", "finite", "inspect_backbone", "read_backbone", "refuse_nonfinite"]


def read_backbone(
    source: str | Path,
    options: ReadOptions | None = None,
    *,
    known: Sequence[KnownFacts] = (),
    limits: Limits = LIMITS,
) -> Reading:
    """Read ``source``: a canonical or foreign file, a folder of a run or model, or ``timm:NAME`` (found locally).

    Args:
        known: facts of a foreign file from elsewhere, such as a catalogue; an option and the file itself beat them as
            their kind says.

    Raises:
        UserError: no such file; unknown family; weights that match partly; options that have no effect on this file.
        UnknownFactsError: a fact that a detector needs is unknown.
        RefusedFileError: it would run code, exhaust memory, holds NaN, duplicates, or is damaged.
    """
    options = options or ReadOptions()
    found = find_backbone(source, options, known=known, limits=limits)
    card = found.draft.card()
    inspection = _look(found, options)
    return Reading(inspection.tensors, card, inspection.report)


def inspect_backbone(source: str | Path, options: ReadOptions | None = None, *, limits: Limits = LIMITS) -> Inspection:
    """As :func:`read_backbone`, also where a fact is unknown.

    Raises:
        UserError, RefusedFileError: as there.
    """
    options = options or ReadOptions()
    return _look(find_backbone(source, options, limits=limits), options)


def _look(found: Found, options: ReadOptions) -> Inspection:
    tensors = {name: _to_tensor(values) for name, values in found.tensors.items()}
    refuse_nonfinite(sorted(name for name, tensor in tensors.items() if not finite(tensor)), found, options)
    return Inspection(tensors, found.draft, found.report)


def _to_tensor(values: np.ndarray | Tensor) -> Tensor:
    """float32: over the mapped file where its numbers lie in it as torch needs them, else a copy; writable."""
    if isinstance(values, Tensor):
        return values
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is found as such
        return torch.from_numpy(np.require(values, np.float32, ["C", "A", "W"]))


def find_backbone(
    source: str | Path, options: ReadOptions, *, known: Sequence[KnownFacts] = (), limits: Limits = LIMITS
) -> Found:
    """All of :func:`inspect_backbone` but looking at the numbers; those of our own files are held against their hash.

    Raises:
        UserError, RefusedFileError: as there, but for NaN.
    """
    if str(source).startswith("timm:"):
        from scaleprior.backbones.readers.sources.timm_models import model_facts
        from scaleprior.backbones.readers.timm_names import find_timm

        name = str(source)[5:]
        path = find_timm(name)
        # The cache's folder is named after the repository that its files were downloaded from.
        known = [*known, model_facts(name, f"timm's {name}, from the hub's cache", "publisher")]
    else:
        path = locate(source)
    content = open_container(path, limits=limits)
    if CARD_KEY in content.metadata:
        return _canonical(path, options)
    try:
        candidate = find_candidate(content, with_norm(options, known), limits)
    except UnsaidNormsError:
        publisher = None if known else identified(path)
        if publisher is None:
            raise
        known = [publisher]
        candidate = find_candidate(content, with_norm(options, known), limits)
    content = replace(content, tree=without_weights(content.tree))  # renaming frees what it copies
    return assemble(candidate, content, path, options, known)


def _canonical(path: Path, options: ReadOptions) -> Found:
    """A file of our own: nothing to find out, but tensors are held against the card.

    Raises:
        UserError: options that have no effect on such a file.
    """
    from scaleprior.backbones.weights import load_canonical

    given = [field.name for field in fields(options) if getattr(options, field.name) != field.default]
    refuse_idle([name for name in given if name not in (*OF_ANY_FILE, "allow_nonfinite")], path)
    tensors, card = load_canonical(path)
    facts = dict(card.facts) or {"card": Origin("file", "the card in the file")}
    report = Report("safetensors", "scaleprior", matched=sorted(tensors), facts=facts)
    return Found(path, tensors, Draft.of(amended(card, options), str(path)), report)


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
