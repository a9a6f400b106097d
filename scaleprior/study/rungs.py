"""A ladder of backbones that exist already: files with cards in place of pretraining.

The number of images comes from each backbone's card. Unlike the fractions of one corpus, such backbones may differ in
more than that; what is known of it is said in the report.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.card import UNKNOWN, Card
from scaleprior.backbones.weights import read_card
from scaleprior.backbones.zoo import is_uri, load_catalogue
from scaleprior.backbones.zoo.entry import supervision_of
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn
from scaleprior.study.sections import BackboneSection
from scaleprior.study.spec import StudySpec

__all__ = ["Rung", "describe_rungs", "find_rungs"]


@dataclass(frozen=True)
class Rung:
    """One backbone of a ladder.

    Attributes:
        images: pretraining images.
        weights: canonical file.
        supervision: what told right from wrong in its pretraining, or "unknown".
        comparable: what the catalogue says of its place on the ladder; may be empty.
    """

    images: int
    weights: Path
    card: Card
    supervision: str
    comparable: str = ""


def find_rungs(
    spec: StudySpec, *, progress: Callable[[str], ProgressFn | None] = lambda what: None
) -> dict[str, tuple[Rung, ...]]:
    """The ladder of each architecture, by number of images; names of the zoo are downloaded if need be.

    Raises:
        UserError: a file that is no backbone, or does not say what one needs; a number of images that is unknown,
            contradicts the card, or is there twice.
        FailureError: a download failed.
    """
    found = {}
    for arch, sections in spec.backbones.items():
        rungs = [
            _rung(section, f"study spec {spec.source}: backbones.{arch}", progress(f"backbone {section.weights}"))
            for section in sections
        ]
        rungs.sort(key=lambda rung: rung.images)
        for low, high in itertools.pairwise(rungs):
            if low.images == high.images:
                raise UserError(
                    f"study spec {spec.source}: backbones.{arch} has {low.card.name} and {high.card.name}, "
                    f"both of {low.images:,} images",
                    hint="keep one, or give them different names under architectures",
                )
        found[arch] = tuple(rungs)
    return found


def _rung(section: BackboneSection, where: str, progress: ProgressFn | None) -> Rung:
    supervision, comparable = section.supervision, ""
    if is_uri(section.weights):
        entry = load_catalogue().find(section.weights.removeprefix("scaleprior://"))
        supervision, comparable = supervision or entry.signal, entry.comparable
    try:
        path = canonical_file(section.weights, progress=progress)
        card = read_card(path)
    except UserError as e:
        raise UserError(f"{where}: {e.wording.marked}") from e
    given, carded, named = section.images, card.images, section.weights
    if given is None and carded is None:
        raise UserError(f"{where}: neither the spec nor the card of {named} says how many images", hint="write images")
    if given is not None and carded is not None and given != carded:
        raise UserError(
            f"{where}: images is {given}, the card of {named} says {carded}", hint="correct it, or leave images out"
        )
    images = carded if given is None else given
    assert images is not None
    if images < 1:
        raise UserError(f"{where}: {named} has {images} images", hint="set scratch: true for a start from none")
    return Rung(images, path.absolute(), card, supervision or supervision_of(card), comparable)


def describe_rungs(rungs: Mapping[str, Sequence[Rung]]) -> dict[str, str]:
    """What the report shows of the settings: each backbone, and which neighbours do not compare by images alone."""
    facts = {}
    for arch, ladder in rungs.items():
        for rung in ladder:
            card = rung.card
            facts[f"backbone {arch}, {rung.images:,} images"] = (
                f"{card.name}: {card.corpus.get('name', UNKNOWN)}; supervision: {rung.supervision}; licence: "
                f"{card.licence}; tensors {card.tensors_sha256[:16]}"
                + (f"; assumed: {', '.join(card.assumed)}" if card.assumed else "")
                + (f". {rung.comparable}" if rung.comparable else "")
            )
        facts[f"comparable {arch}"] = _comparable(ladder)
    return facts


def _comparable(ladder: Sequence[Rung]) -> str:
    said = []
    for low, high in itertools.pairwise(ladder):
        pair = f"{low.images:,} and {high.images:,} images"
        if UNKNOWN in (low.supervision, high.supervision):
            said.append(f"{pair}: not known, a supervision is unknown")
        elif low.supervision != high.supervision:
            said.append(f"{pair}: NOT comparable by images alone ({low.supervision} against {high.supervision})")
    if said:
        return "; ".join(said)
    return f"all rungs have one supervision ({ladder[0].supervision})"
