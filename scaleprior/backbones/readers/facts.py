"""What a detector must know of foreign weights, and where each fact was found. Nothing is guessed.

A fact comes from the user's options, else from what travels with the weights (a card, a detector's config, timm's
``config.json``), else from what the publishers of exactly this architecture and file format state; else it is an
error that names the option to give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from scaleprior.backbones.trunks.published import KnownFacts, Triple
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["ReadOptions", "UnknownFactsError", "needed_option", "resolve"]

_NEEDED = {
    "pixel_mean": "A B C",
    "pixel_std": "A B C",
    "channel_order": "RGB|BGR",
    "stride_in_1x1": "yes|no",
}
"""Facts that no backbone goes without -> what the command line shows behind their options."""


class UnknownFactsError(UserError):
    """Nobody says a fact that matters.

    Attributes:
        absent: the names of those facts; the options that say them are called the same.
    """

    def __init__(self, message: str, *, absent: Sequence[str]) -> None:
        super().__init__(message, hint="give " + " ".join(map(needed_option, absent)))
        self.absent: tuple[str, ...] = tuple(absent)


def needed_option(name: str) -> str:
    """The option of a needed fact, for a message, with what it takes."""
    return parameter(name, words=_NEEDED[name])


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
        for field in fields(self):
            value = getattr(self, field.name)
            fits, hint = _FITTING[field.name]
            if not fits(value) and not (value is None and field.default is None):
                raise UserError(f"{parameter(field.name)} is {value!r}", hint=hint)


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
    **dict.fromkeys(("depth", "images", "labels"), _WHOLE),
    "prefix": (lambda value: isinstance(value, str), 'give a text such as "module.encoder_q."'),
    "pixel_mean": (_is_triple, "give three finite numbers on the 0-255 scale"),
    "pixel_std": (
        lambda value: _is_triple(value) and min(value) > 0,
        "give three positive finite numbers on the 0-255 scale",
    ),
    "channel_order": (lambda value: _is_text(value) and value in ("RGB", "BGR"), "take RGB or BGR"),
    "norm": (lambda value: _is_text(value) and value in ("GN", "FrozenBN"), "take GN or FrozenBN"),
    "norm_eps": (lambda value: _is_number(value) and value >= 0, "give a number of at least 0 such as 1e-3"),
}
"""Option -> (whether a value can be one, else what to give)."""


def resolve(options: ReadOptions, known: list[KnownFacts], where: str) -> tuple[dict[str, Any], dict[str, str]]:
    """(facts by name, where each was found); the first source that says something wins.

    Raises:
        UnknownFactsError: nobody says a fact that matters; names the options.
        UserError: pixel statistics that would be read in another channel order than they were published in.
    """
    facts: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for field in fields(KnownFacts):
        if field.name in ("origin", "kind"):
            continue
        given = getattr(options, field.name, None)
        if given is not None:
            facts[field.name], origins[field.name] = given, "given"
            continue
        for place in known:
            if getattr(place, field.name) is not None:
                facts[field.name], origins[field.name] = getattr(place, field.name), place.origin
                break
    absent = [name for name in _NEEDED if name not in facts]
    if absent:
        raise UnknownFactsError(
            f"{where} does not say {', '.join(absent)}, and a wrong value costs AP without any warning", absent=absent
        )
    for name in ("pixel_mean", "pixel_std"):
        published = next((p.channel_order for p in known if getattr(p, name) is not None), None)
        if origins[name] != "given" and published not in (None, facts["channel_order"]):
            raise UserError(
                f"{where}: {name} {facts[name]} is {published} ({origins[name]}), {parameter('channel_order')} says "
                f"{facts['channel_order']}",
                hint=f"give {needed_option(name)} in that order, too",
            )
    return facts, origins
