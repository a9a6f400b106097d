"""What a detector must know of foreign weights, and who says it. Nothing is guessed in silence or called a fact then.

A fact comes from the user's options; else from what travels with the weights (a card, a detector's config, a
``config.json``); else from their publisher, where it is proven that they are his. What nobody states is asked for; or a
set of usual values is assumed on the user's word, and then called so in the card.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from scaleprior.backbones.trunks.published import FACT_KINDS, USUAL, KnownFacts, Origin, Triple
from scaleprior.backbones.trunks.resnet.spec import BLOCKS_PER_STAGE
from scaleprior.errors import UserError
from scaleprior.wording import Wording, either, parameter

__all__ = [
    "ReadOptions",
    "Resolved",
    "UnknownFactsError",
    "by_kind",
    "leaves_unsaid",
    "needed_option",
    "places_of",
    "resolve",
    "with_norm",
]


@dataclass(frozen=True)
class ReadOptions:
    """What the user knows better than the file.

    Attributes:
        name: the backbone's name (default: the file's).
        pixel_mean, pixel_std: three numbers, 0-255 scale, in ``channel_order``.
        channel_order: "RGB" or "BGR".
        stride_in_1x1: stages downsample in the first 1x1 convolution.
        norm: kind of norms that have no running statistics: "GN" or "FrozenBN".
        norm_eps: what the weights' norms add to the variance, if not what the family's do (1e-5; ConvNeXt's 1e-6); put
            into the running variances where they can take it, else it stays in the card.
        depth: of a ResNet some of whose stages are absent.
        timm_model: timm's name (with or without tag) whose published facts hold, e.g. "resnet50.a1_in1k".
        assume: name in ``USUAL`` of the values to take for what nobody states; the card calls them assumed.
        state: the dict to look in, keys joined by dots ("state_dict", "model.ema").
        prefix: what stands in front of the trunk's names there ("module.encoder_q."; "" = nothing).
        select: a word of where the trunk stands, which only one of several has ("encoder_k").
        images, labels, corpus, licence, source: for the card.
        allow_partial: fill what is missing or mis-shaped with fresh weights, and leave out what is unexpected.
        allow_nonfinite: accept NaN and infinity.
    """

    name: str | None = None
    pixel_mean: Triple | None = None
    pixel_std: Triple | None = None
    channel_order: str | None = None
    stride_in_1x1: bool | None = None
    norm: str | None = None
    norm_eps: float | None = None
    depth: int | None = None
    timm_model: str | None = None
    assume: str | None = None
    state: str | None = None
    prefix: str | None = None
    select: str | None = None
    images: int | None = None
    labels: int | None = None
    corpus: str | None = None
    licence: str | None = None
    source: str | None = None
    allow_partial: bool = False
    allow_nonfinite: bool = False

    def __post_init__(self) -> None:
        """Raises UserError: a value of another type or one that cannot be; names the option."""
        for name in ("pixel_mean", "pixel_std"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        for option in fields(self):
            value = getattr(self, option.name)
            fits, hint = _FITTING[option.name]
            if not fits(value) and not (value is None and option.default is None):
                raise UserError(f"{parameter(option.name)} is {value!r}", hint=hint)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_triple(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_number, value))


_TEXT = (_is_text, "give a text, not an empty one")
_FLAG = (_is_flag, "give True or False; a text such as 'no' would count as yes")
_WHOLE = (_is_whole, "give a whole number of at least 1")
_FITTING: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("name", "timm_model", "state", "select", "corpus", "licence", "source"), _TEXT),
    **dict.fromkeys(("stride_in_1x1", "allow_partial", "allow_nonfinite"), _FLAG),
    **dict.fromkeys(("images", "labels"), _WHOLE),
    "depth": (lambda value: _is_whole(value) and value in BLOCKS_PER_STAGE, f"take one of {sorted(BLOCKS_PER_STAGE)}"),
    "prefix": (lambda value: isinstance(value, str), 'give a text such as "module.encoder_q."'),
    "pixel_mean": (_is_triple, "give three finite numbers on the 0-255 scale"),
    "pixel_std": (
        lambda value: _is_triple(value) and min(value) > 0,
        "give three positive finite numbers on the 0-255 scale",
    ),
    "channel_order": (lambda value: _is_text(value) and value in ("RGB", "BGR"), "take RGB or BGR"),
    "norm": (lambda value: _is_text(value) and value in ("GN", "FrozenBN"), "take GN or FrozenBN"),
    "assume": (lambda value: _is_text(value) and value in USUAL, f"take {', '.join(USUAL)}"),
    "norm_eps": (lambda value: _is_number(value) and value >= 0, "give a number of at least 0 such as 1e-3"),
}
"""Option -> (whether a value can be one, else what to give)."""


_NEEDED: dict[str, tuple[str, str, str]] = {
    "pixel_mean": ("(A, B, C)", "A B C", "on the 0-255 scale, in the channel order; pixels in 0..1: 0, 0, 0"),
    "pixel_std": ("(A, B, C)", "A B C", "on the 0-255 scale, in the channel order; pixels in 0..1: 255, 255, 255"),
    "channel_order": ("'RGB'", "RGB|BGR", "of the images it was trained on: Pillow gives RGB, OpenCV BGR"),
    "stride_in_1x1": ("False", "yes|no", "torchvision's and timm's ResNets: no; MSRA's, Caffe's and caffe-style: yes"),
    "norm_eps": ("1e-5", "E", "what its norms add to the variance: 1e-5 by default in PyTorch, 1e-3 in Keras"),
}
"""Fact that a detector needs -> how Python and the command line write its option, and what to know of it."""
_OPTIONAL = ("input_size", "licence", "source", "name", "images", "labels", "corpus")
"""Facts that may stay unknown."""


class UnknownFactsError(UserError):
    """Nobody says what a detector must know of foreign weights; the message asks for it.

    Args:
        absent: names of the facts.
        where: the file.

    Attributes:
        absent: names of the facts; the options that say them are called the same.
        said: what is wrong, without what to do about it.
    """

    def __init__(self, absent: Sequence[str], where: str) -> None:
        self.absent: tuple[str, ...] = tuple(absent)
        options = [(needed_option(name), [_NEEDED[name][2]]) for name in absent]
        sets = [(parameter("assume", name), [f"{usual.who}:", usual.words]) for name, usual in USUAL.items()]
        self.said: str = f"{where} does not say {', '.join(absent)}, and a wrong value costs AP without any warning"
        super().__init__(
            self.said,
            hint="give what you know of it, or take usual values for what nobody says; "
            "the card then calls them assumed",
            lines=[*_table(options), *_table(sets)],
        )


def needed_option(name: str) -> str:
    """The option of a needed fact, for a message, with what it takes."""
    python, shell, _ = _NEEDED[name]
    return either(f"{name}={python}", Wording(parameter(name, words=shell)).flags)


def _table(rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """An option and lines about it, in two columns in either wording."""
    texts = [(Wording(option), lines) for option, lines in rows]
    python, shell = max(len(text) for text, _ in texts), max(len(text.flags) for text, _ in texts)
    return [
        f"{either(option.ljust(python), option.flags.ljust(shell))}  {line}"
        for text, lines in texts
        for option, line in zip([text, *[Wording("")] * (len(lines) - 1)], lines, strict=True)
    ]


@dataclass(frozen=True)
class Resolved:
    """What is known of weights.

    Attributes:
        facts: by name, and ``origins`` who says each.
        missing: what a detector needs and nobody says.
        notes: what a reader should hear, in sentences.
    """

    facts: dict[str, Any]
    origins: dict[str, Origin]
    missing: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def resolve(
    options: ReadOptions,
    known: Iterable[KnownFacts],
    where: str,
    *,
    implied: Mapping[str, tuple[Any, str]] | None = None,
) -> Resolved:
    """For each fact what the best of those who state it says: an option, the file, the publisher, a usual value.

    Args:
        known: from all places, those of one kind best first.
        implied: fact -> (value, why): what the architecture leaves no choice of; beats only what would be assumed.

    Raises:
        UserError: pixel statistics that would be read in another channel order than they were stated in.
    """
    usual = [USUAL[options.assume].facts] if options.assume else []
    places = by_kind([*places_of(options), *known, *usual])
    taken: dict[str, KnownFacts] = {}
    notes = []
    for name in (*_NEEDED, *_OPTIONAL):
        stated = [place for place in places if getattr(place, name) is not None]
        if implied is not None and name in implied:
            stated = [place for place in stated if place.kind != "assumed"] or [_implied(name, *implied[name])]
        if stated:
            taken[name] = stated[0]
            notes += _contradicted(name, stated) if name in _NEEDED else []
    facts = {name: getattr(place, name) for name, place in taken.items()}
    origins = {name: Origin(place.kind, place.origin) for name, place in taken.items()}
    missing = tuple(name for name in _NEEDED if name not in facts)
    _check_order(facts, taken, where)
    if options.assume and not any(origin.kind == "assumed" for origin in origins.values()):
        notes.append("nothing had to be assumed")
    return Resolved(facts, origins, missing, notes)


def leaves_unsaid(
    options: ReadOptions, known: Iterable[KnownFacts], where: str, *, implied: Mapping[str, tuple[Any, str]]
) -> bool:
    """Whether neither the user nor the file says all that a detector needs, so that it matters whose the file is.

    Raises:
        UserError: as :func:`resolve`.
    """
    origins = resolve(replace(options, assume=None), known, where, implied=implied).origins
    return any(name not in origins or origins[name].kind not in ("user", "file") for name in _NEEDED)


def by_kind(places: Iterable[KnownFacts]) -> list[KnownFacts]:
    """The best first; those of one kind stay in their order."""
    return sorted(places, key=lambda place: FACT_KINDS.index(place.kind))


def places_of(options: ReadOptions) -> list[KnownFacts]:
    """What the user says: a place for each option."""
    given = {name: getattr(options, name, None) for name in (*_NEEDED, *_OPTIONAL, "norm")}
    return [KnownFacts("given", kind="user", **{name: value}) for name, value in given.items() if value is not None]


def with_norm(options: ReadOptions, known: Iterable[KnownFacts]) -> ReadOptions:
    """The options with the kind of norms that the best of those says who say one."""
    places = by_kind([*places_of(options), *known])
    return replace(options, norm=next((place.norm for place in places if place.norm is not None), None))


def _implied(name: str, value: Any, why: str) -> KnownFacts:
    return KnownFacts(why, kind="file", **{name: value})


def _contradicted(name: str, stated: list[KnownFacts]) -> list[str]:
    """Sentences on places that state something else than the one that is believed; usual values are no statements."""
    best, *others = stated
    value = getattr(best, name)
    return [
        f"{name} is {value} ({best.origin}); {other.origin} says {getattr(other, name)}"
        for other in others
        if other.kind != "assumed" and getattr(other, name) != value
    ]


def _check_order(facts: Mapping[str, Any], taken: Mapping[str, KnownFacts], where: str) -> None:
    """Raises UserError: statistics stated for one channel order would be read in the other."""
    for name in ("pixel_mean", "pixel_std"):
        place = taken.get(name)
        if place is None or place.channel_order in (None, facts.get("channel_order")) or len(set(facts[name])) == 1:
            continue
        raise UserError(
            f"{where}: {name} {facts[name]} is {place.channel_order} ({place.origin}), "
            f"{_says(taken['channel_order'])} {facts['channel_order']}",
            hint=f"give {needed_option(name)} in that order, too",
        )


def _says(place: KnownFacts) -> str:
    return f"{parameter('channel_order')} says" if place.kind == "user" else f"{place.origin} says"
