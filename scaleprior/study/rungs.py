"""A ladder of backbones that exist already: files with cards in place of pretraining.

The number of images comes from each backbone's card. Unlike the fractions of one corpus, such backbones may differ in
more than that; what is known of it is said in the report.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.card import UNKNOWN, Card
from scaleprior.backbones.weights import read_card
from scaleprior.backbones.zoo import is_uri, load_catalogue
from scaleprior.backbones.zoo.cache import ZooHome
from scaleprior.backbones.zoo.entry import supervision_of
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn
from scaleprior.study.sections import BackboneSection
from scaleprior.study.spec import StudySpec
from scaleprior.wording import flag, parameter

__all__ = [
    "AbsentRung",
    "Rung",
    "describe_rungs",
    "find_rungs",
    "not_comparable",
    "skip_absent",
    "survey_rungs",
]

_NOT_COMPARABLE = "NOT comparable by images alone"


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


@dataclass(frozen=True)
class AbsentRung:
    """A backbone of a ladder that is not here.

    Attributes:
        weights: as the spec names it.
        images: as the spec or the catalogue say it; None where nobody does.
        why: and what to do.
        public: a run of the study downloads it.
    """

    weights: str
    images: int | None
    why: str
    public: bool = False


def survey_rungs(spec: StudySpec) -> tuple[dict[str, tuple[Rung, ...]], dict[str, tuple[AbsentRung, ...]]]:
    """What is here of each architecture's ladder, and what is not; nothing is downloaded.

    Raises:
        UserError: as :func:`find_rungs`, but for backbones that are not here.
    """
    found, absent = {}, {}
    for arch, sections in spec.backbones.items():
        where = f"study spec {spec.source}: backbones.{arch}"
        answers = [_look(section, where) for section in sections]
        found[arch] = _rising([rung for rung in answers if isinstance(rung, Rung)], where)
        absent[arch] = tuple(rung for rung in answers if isinstance(rung, AbsentRung))
    return found, absent


def _look(section: BackboneSection, where: str) -> Rung | AbsentRung:
    if is_uri(section.weights):
        entry = load_catalogue().find(section.weights.removeprefix("scaleprior://"))
        images = section.images or entry.images
        if entry.kind == "paper":
            make = f"`scaleprior zoo show {entry.name}` prints what makes one"
            how = f"{make}, `scaleprior zoo add FILE {flag('name')} {entry.name}` gives it that name"
            return AbsentRung(section.weights, images, f"not public; {how}")
        if entry.kind == "public" and not _is_cached(entry.name):
            how = f"not downloaded yet: the study's run does it, or `scaleprior zoo fetch {entry.name}`"
            return AbsentRung(section.weights, images, how, public=True)
    else:
        images = section.images
    try:
        path = canonical_file(section.weights)
    except UserError as e:
        return AbsentRung(section.weights, images, str(e))
    return _rung(section, where, path)


def skip_absent(spec: StudySpec) -> tuple[StudySpec, dict[str, tuple[AbsentRung, ...]]]:
    """``spec`` without the backbones that are not here and that no download brings, and which those are.

    Raises:
        UserError: it lists no backbones, or none is here and nothing runs from scratch; see :func:`survey_rungs`.
    """
    what = parameter("skip_missing")
    if not spec.backbones:
        raise UserError(f"{what}: {spec.source} lists no backbones, it pretrains them", hint="leave it out")
    _, absent = survey_rungs(spec)
    left_out = {arch: tuple(rung for rung in rungs if not rung.public) for arch, rungs in absent.items()}
    names = {arch: {rung.weights for rung in rungs} for arch, rungs in left_out.items()}
    kept = {
        arch: tuple(section for section in sections if section.weights not in names[arch])
        for arch, sections in spec.backbones.items()
    }
    if not any(kept.values()) and not spec.scratch:
        hint = f"`scaleprior study plan {spec.source}` lists them, with what to do"
        raise UserError(f"{what}: no backbone of {spec.source} is here", hint=hint)
    return replace(spec, backbones=kept), {arch: rungs for arch, rungs in left_out.items() if rungs}


def _is_cached(name: str) -> bool:
    home = ZooHome.current()
    record = home.read_record(name)
    return record is not None and home.file(record.sha256, record.file).exists()


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
        where = f"study spec {spec.source}: backbones.{arch}"
        rungs = []
        for section in sections:
            try:
                path = canonical_file(section.weights, progress=progress(f"backbone {section.weights}"))
            except UserError as e:
                raise UserError(f"{where}: {e.wording.marked}") from e
            rungs.append(_rung(section, where, path))
        found[arch] = _rising(rungs, where)
    return found


def _rising(rungs: Sequence[Rung], where: str) -> tuple[Rung, ...]:
    rungs = sorted(rungs, key=lambda rung: rung.images)
    for low, high in itertools.pairwise(rungs):
        if low.images == high.images:
            raise UserError(
                f"{where} has {low.card.name} and {high.card.name}, both of {low.images:,} images",
                hint="keep one, or give them different names under architectures",
            )
    return tuple(rungs)


def _rung(section: BackboneSection, where: str, path: Path) -> Rung:
    """The rung of a canonical file."""
    supervision, comparable = section.supervision, ""
    if is_uri(section.weights):
        entry = load_catalogue().find(section.weights.removeprefix("scaleprior://"))
        supervision, comparable = supervision or entry.signal, entry.comparable
    try:
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
        if ladder:  # all of an architecture's may have been left out
            facts[f"comparable {arch}"] = _comparable(ladder)
    return facts


def _comparable(ladder: Sequence[Rung]) -> str:
    said = []
    for low, high in itertools.pairwise(ladder):
        pair = f"{low.images:,} and {high.images:,} images"
        if UNKNOWN in (low.supervision, high.supervision):
            said.append(f"{pair}: not known, a supervision is unknown")
        elif low.supervision != high.supervision:
            said.append(f"{pair}: {_NOT_COMPARABLE} ({low.supervision} against {high.supervision})")
    if said:
        return "; ".join(said)
    return f"all rungs have one supervision ({ladder[0].supervision})"


def not_comparable(facts: Mapping[str, str], arch: str) -> str:
    """Which neighbours on an architecture's ladder differ in more than images, of the facts of a study; "" of none."""
    said = str(facts.get(f"comparable {arch}", ""))
    return "; ".join(part for part in said.split("; ") if _NOT_COMPARABLE in part)
