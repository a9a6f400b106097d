"""Arms: the ways of fine-tuning that a study runs side by side, and what each makes of the config.

Lowest first: the config of ``finetune``, the arm's pieces (files), ``finetune.overrides``, the architecture's keys, the
arm's overrides. So files stand below keys, as everywhere, and of keys the most particular ones win. A piece that keys
of the spec would win over says something that would not be done, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaleprior.config.load import file_keys, parse_overrides
from scaleprior.errors import UserError
from scaleprior.parsing import is_regular
from scaleprior.study.reading import owner_of
from scaleprior.study.sections import ArmSection, StageSection
from scaleprior.study.spec import StudySpec

__all__ = ["arms_of", "check_arms", "describe_arms", "finetune_stage", "pretrain_stage"]

_ONLY_ARM = {"": ArmSection()}


def arms_of(spec: StudySpec, arch: str, images: int) -> tuple[str, ...]:
    """Names of the arms that fine-tune this architecture from so many images; ("",) in a study without arms."""
    return tuple(name for name, arm in (spec.arms or _ONLY_ARM).items() if arm.takes(arch, images))


def pretrain_stage(spec: StudySpec, arch: str) -> StageSection | None:
    """How an architecture is pretrained, for all arms; None in a study of backbones that exist."""
    if spec.pretrain is None:
        return None
    return StageSection(_full(spec.pretrain.config), spec.pretrain.overrides + spec.architectures[arch])


def finetune_stage(spec: StudySpec, arch: str, name: str) -> StageSection:
    """How an arm fine-tunes an architecture."""
    arm = (spec.arms or _ONLY_ARM)[name]
    overrides = spec.finetune.overrides + spec.architectures[arch] + arm.overrides
    return StageSection(_full(spec.finetune.config), overrides, tuple(map(_full, arm.pieces)))


def _full(config: str) -> str:
    """A config of the user's by its full path, since cells also run elsewhere; one of ScalePrior's by its name."""
    return str(Path(config).absolute()) if is_regular(config) else config


def check_arms(spec: StudySpec) -> None:
    """Refuse pieces with keys that would have no effect.

    Raises:
        UserError: weights that no cell would start from; a piece that is not there or sets what a section of the spec
            says for every cell; a key of a piece that ``finetune.overrides`` or an architecture sets to something else.
    """
    shared = dict(parse_overrides(spec.finetune.overrides))
    for name, arm in spec.arms.items():
        where = f"study spec {spec.source}: arms.{name}"
        said = _said_by_pieces(arm, where)
        own = dict(parse_overrides(arm.overrides))
        _refuse_weights(where, name, said, own)
        for arch, keys in spec.architectures.items():
            if arm.architectures is not None and arch not in arm.architectures:
                continue
            over = {"finetune.overrides": shared, f"architectures.{arch}": dict(parse_overrides(keys))}
            for place, key in ((place, key) for place, keys in over.items() for key in said if key in keys):
                (piece, value), winner = said[key], over[place][key]
                if key not in own and _plain(value) != _plain(winner):
                    raise UserError(
                        f"{where}: {piece} sets {key} to {value!r}, {place} to {winner!r}, which would win",
                        hint=f"say under arms.{name}.overrides which of them it is",
                    )


def _refuse_weights(where: str, name: str, said: Mapping[str, tuple[str, Any]], own: Mapping[str, Any]) -> None:
    """Raise UserError where an arm names weights, which none of its cells would start from.

    ``finetune.config`` may name some: what is wanted of it is all else.
    """
    key = "MODEL.WEIGHTS"
    piece, value = said.get(key, ("", ""))
    for place, weights in {piece: value, f"arms.{name}.overrides": own.get(key)}.items():
        if weights:
            raise UserError(
                f"{where}: {place} sets {key} to {weights!r}, and every cell has a backbone of its own",
                hint="say it under backbones",
            )


def _said_by_pieces(arm: ArmSection, where: str) -> dict[str, tuple[str, Any]]:
    """Each key that pieces set, with the piece that has the last word and its value."""
    said: dict[str, tuple[str, Any]] = {}
    for piece in arm.pieces:
        try:
            keys = file_keys(piece)
        except UserError as e:
            raise UserError(f"{where}: {e}") from e
        for key, value in keys.items():
            if (section := owner_of(key)) is not None:
                raise UserError(
                    f"{where}: {piece} sets {key} to {value!r}, which the study itself sets",
                    hint=f"say it under {section}",
                )
            said[key] = piece, value
    return said


def _plain(value: Any) -> Any:
    """Comparable whether YAML gave it or a command line: lists and tuples, and texts of them, are one."""
    value = parse_overrides(["value", value])[0][1]
    return list(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def describe_arms(spec: StudySpec) -> dict[str, str]:
    """What the report shows of the settings: of each arm what it changes, and which cells it has."""
    facts = {}
    for name, arm in spec.arms.items():
        said = " ".join((*arm.pieces, *arm.overrides)) or "the fine-tuning recipe as it is"
        kind = {"": "", "scratch": "; from scratch only", "pretrained": "; pretrained only"}[arm.only]
        of = "" if arm.architectures is None else f"; {', '.join(arm.architectures)} only"
        facts[f"arm {name}"] = f"{said}{kind}{of}"
    return facts
