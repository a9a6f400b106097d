"""A name of the catalogue's whose weights are not public, and a user's own file that takes it. Torch-free.

Configs name such backbones (``scaleprior://paper-R-50-jft-10m``); who makes one may give it that name. The name then
still has to mean what the catalogue says, as far as a card can tell it: trunk, pixels, number of images and start are
held against the entry; corpus, labels and recipe may be one's own, and are told with both values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from scaleprior.backbones.card import UNKNOWN, Card
from scaleprior.backbones.settings import config_lines
from scaleprior.backbones.zoo.entry import Entry
from scaleprior.config import load_config
from scaleprior.config.dotted import flat_config
from scaleprior.config.fingerprint import recipe_settings
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["NEAR", "fill"]

NEAR = 0.05
"""How far the number of images may be from the entry's, as a share of it: so many a corpus may lack (``corpus build``
stands 5 % of unusable files, and the held-out tail is left out). On the axis of log(images), where rungs are half a
decade apart, that is 0.02. What is plotted is the card's number, never the entry's."""
_NO_RECIPE = ("PRETRAIN.RECIPE", "PRETRAIN.FRACTION.", "PRETRAIN.HELD_OUT.")  # a name, and what is compared by itself
_DEFAULT = "at its default"


def fill(rung: Entry, own: Entry, *, where: str) -> Entry:
    """``own`` as the backbone that stands for ``rung`` from now on.

    Args:
        rung: an entry of kind ``paper``.
        own: the user's entry of that name, with its card.
        where: whose file it is, for error messages.

    Returns:
        ``own``, with what was compared.

    Raises:
        UserError: the card contradicts the entry, or does not say how many images there were; with both values.
    """
    card = own.card
    assert card is not None, "an own backbone has a card"
    misfits = list(_misfits(rung, card))
    if misfits:
        hint = "choose another name; those that are not in the catalogue take any backbone"
        if card.images is None and len(misfits) == 1:
            hint = f"say it: `scaleprior backbone convert` takes {parameter('images')}"
        raise UserError(f"{where} cannot be {rung.name}: {'; '.join(misfits)}", hint=hint)
    return replace(own, fills=rung.source, checked=_checked(rung, card), **_told(rung, card))


def _misfits(rung: Entry, card: Card) -> Iterator[str]:
    """What of the card contradicts the entry, each with both values."""
    if card.arch.name != rung.arch:
        yield f"its trunk is {card.arch.name}, the entry's {rung.arch}"
        return
    # What the two need of a detector's config: pixels, channel order, stride, norm, eps, widths.
    theirs, own = (dict(line.split(" ", 1) for line in lines) for lines in (rung.detection_lines(), config_lines(card)))
    for key in dict.fromkeys((*theirs, *own)):
        if own.get(key) != theirs.get(key):
            yield f"it needs {key} {own.get(key, _DEFAULT)}, the entry {theirs.get(key, _DEFAULT)}"
    assert rung.images is not None, "an entry of the paper's says its images"
    if card.images is None:
        yield f"its card does not say how many images it learned from, the entry {rung.images:,}"
    elif abs(card.images - rung.images) > NEAR * rung.images:
        yield f"it learned from {card.images:,} images, the entry from {rung.images:,} (within {NEAR:.0%})"
    if card.parent is not None and rung.parent is None:
        yield f"it began from {card.parent.get('name', UNKNOWN)}, the entry from random weights"
    elif card.parent is None and rung.parent is not None and card.steps is not None:
        yield f"it began from random weights, the entry from {rung.parent}"


def _checked(rung: Entry, card: Card) -> tuple[str, ...]:
    """What :func:`_misfits` found to agree."""
    images = f"images {card.images:,} (the entry: {rung.images:,}, within {NEAR:.0%})"
    start = ("start",) if card.steps is not None else ()  # a card that counts no steps does not tell it
    return (f"trunk {rung.arch}", "stride", "norm and eps", "pixels", "channel order", images, *start)


def _told(rung: Entry, card: Card) -> dict[str, tuple[str, ...]]:
    """What differs, with both values, and what the card does not tell: neither is refused."""
    differs, unchecked = [], []
    facts = (
        ("corpus", card.corpus.get("name", UNKNOWN), rung.corpus),
        ("labels", UNKNOWN if card.labels is None else f"{card.labels:,}", f"{rung.labels:,}"),
    )
    for what, own, theirs in facts:
        if own == UNKNOWN:
            unchecked.append(what)
        elif own != theirs:
            differs.append(f"{what} {own} (the entry: {theirs})")
    own = _recipe(card.recipe)
    if own:
        theirs = _recipe_of_entry(rung.recipe)
        keys = [key for key in dict.fromkeys((*theirs, *own)) if own.get(key) != theirs.get(key)]
        differs += [f"{key} {own.get(key, _DEFAULT)} (the entry: {theirs.get(key, _DEFAULT)})" for key in keys]
    else:
        unchecked.append("recipe")
    if card.steps is None:
        unchecked.append("start")
    elif rung.parent is not None and card.parent is not None:
        unchecked.append(f"whether {card.parent.get('name', UNKNOWN)}, its start, is {rung.parent}")
    return {"differs": tuple(differs), "unchecked": tuple(unchecked)}


def _recipe(nested: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of pretraining in a card's recipe, without those that are compared by themselves."""
    return {k: v for k, v in flat_config(nested) if k.startswith("PRETRAIN.") and not k.startswith(_NO_RECIPE)}


@lru_cache
def _recipe_of_entry(words: tuple[str, ...]) -> dict[str, Any]:
    return _recipe(recipe_settings(load_config(words[0], words[1:]).cfg))
