"""Which of a model's tensors a backbone fills, and what of either is left over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.trunk import canonical_shapes
from scaleprior.d2.weights.built import note_around, note_inside
from scaleprior.d2.weights.places import TrunkPlace, dotted, find_trunks
from scaleprior.errors import UserError

__all__ = ["COUNTER", "TrunkMatch", "fresh_groups", "match_trunk"]

COUNTER = ".num_batches_tracked"
"""End of the names of BN's counters, which no backbone has."""
_OFFSETS = ".conv2_offset."  # deformable convolutions add these; no backbone has them


@dataclass(frozen=True)
class TrunkMatch:
    """Which of a model's tensors a backbone fills.

    Attributes:
        filled: name in the model -> name in the file.
        unused: names of the file that the model has no place for: whole stages, such as res5 in an RPN on res4.
        places: the trunks that are filled.
        left: what does not fit, in words; empty unless that was allowed.
    """

    filled: Mapping[str, str]
    unused: tuple[str, ...]
    places: tuple[TrunkPlace, ...]
    left: tuple[str, ...] = ()


def match_trunk(model: nn.Module, tensors: Mapping[str, Tensor], card: Card, *, strict: bool = True) -> TrunkMatch:
    """Where each tensor of a canonical backbone goes in ``model``; ``places.py`` says how names are found.

    Args:
        strict: every trunk in the model must be filled completely; else what fits is taken.

    Raises:
        UserError: nothing fits; or, if ``strict``: a trunk is not filled completely, shapes differ, or a part of a
            stage is left over.
    """
    state = model.state_dict()
    places = find_trunks(state, tensors, card.arch)
    if not places:
        raise UserError(
            f"none of the {len(tensors)} tensors of backbone {card.name} fits this model", hint=_hint(model, [])
        )
    filled: dict[str, str] = {}
    left: list[str] = []
    for place in places:
        fits = {name: src for name, src in place.filled.items() if state[name].shape == tensors[src].shape}
        for what, names in _problems(state, place, tensors, card):
            where = f" the trunk at {place.path}" if len(places) > 1 else ""
            said = f"{len(names)} {what}, first: {names[0]}"
            if strict:
                raise UserError(
                    f"backbone {card.name} ({card.arch.name}) does not fit{where}: {said}",
                    hint=_hint(model, places, place),
                )
            left.append(f"{said}{f' ({place.path})' if where else ''}")
        filled.update(fits)
    if not filled:
        raise UserError(
            f"none of the {len(tensors)} tensors of backbone {card.name} has its shape here", hint=_hint(model, places)
        )
    used = set(filled.values())
    return TrunkMatch(filled, tuple(name for name in tensors if name not in used), tuple(places), tuple(left))


def _problems(
    state: Mapping[str, Tensor], place: TrunkPlace, tensors: Mapping[str, Tensor], card: Card
) -> Iterable[tuple[str, list[str]]]:
    """What is wrong with a trunk, each with the tensors that it is about."""
    part_of = card.arch.family.part_of
    stages = {part_of(name) for name in canonical_shapes(card.arch)}
    used = set(place.filled.values())
    # A stage is in use when its convolutions are: BiT's res4 also passes the first norm of the stage behind it.
    convolved = {part_of(name) for name in used if tensors[name].ndim > 1}
    found = {
        "tensors of the model's trunk are not in it": [
            name
            for name in state
            if name not in place.filled
            and not name.endswith(COUNTER)
            and _OFFSETS not in name
            and any(name.startswith(p) and part_of(name[len(p) :]) in stages for p in place.prefixes)
        ],
        "tensors have other shapes": [
            f"{name} is {tuple(state[name].shape)}, the file's {tuple(tensors[source].shape)}"
            for name, source in place.filled.items()
            if state[name].shape != tensors[source].shape
        ],
        "of its tensors have no place in the model": [
            name for name in tensors if name not in used and part_of(name) in convolved
        ],
    }
    return ((what, names) for what, names in found.items() if names)


def _hint(model: nn.Module, places: Sequence[TrunkPlace], failing: TrunkPlace | None = None) -> str:
    note = note_around(model, failing.path) if failing else note_inside(model)
    if note is not None:
        hint = "take weights of the architecture that the config describes (MODEL.RESNETS.*, MODEL.TIMM.MODEL)"
    else:
        hint = f"take weights of the architecture that {dotted('model', failing.path if failing else '')} has"
    if len(places) > 1:
        hint += "; of several trunks, each can be given its own: DetectionCheckpointer(model.PART).load(FILE)"
    if failing:
        way = "SCALEPRIOR.CONTRACT warn" if note and note.has_keys else 'scaleprior.d2.contract_mode("warn")'
        hint += f"; a trunk that was changed on purpose takes what fits of it with {way}"
    return hint


def fresh_groups(missing: Sequence[str], places: Sequence[TrunkPlace]) -> str:
    """Tensors that no backbone fills, counted by the part of the model they are in: "proposal_generator (6), ...".

    What was added inside a trunk counts under the trunk's path, the rest under the first name that tells parts apart.
    """
    paths = [place.path for place in places]
    outside = [name for name in missing if not any(name.startswith(f"{path}.") for path in paths)]
    depth = 1
    while outside and len({tuple(n.split(".")[:depth]) for n in outside}) == 1 and depth < outside[0].count("."):
        depth += 1
    counts: dict[str, int] = {}
    for name in missing:
        inside = next((path for path in paths if name.startswith(f"{path}.")), None)
        group = inside or ".".join(name.split(".")[:depth])
        counts[group] = counts.get(group, 0) + 1
    return ", ".join(f"{group} ({count})" for group, count in counts.items())
