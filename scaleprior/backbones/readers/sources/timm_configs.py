"""Facts in timm's configs: those of its models, and the ``config.json`` that its hub puts beside weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaleprior.backbones.readers.sources.values import json_beside, scaled, three_numbers
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.errors import UserError
from scaleprior.wording import shown

__all__ = ["folder_facts", "timm_facts"]


def timm_facts(cfg: Mapping[str, Any], origin: str) -> KnownFacts:
    """Facts of a timm ``pretrained_cfg``; its mean and std are on the 0-1 scale, RGB.

    Raises:
        UserError: a mean or std that is not three numbers.
    """
    statistics = {}
    for name in ("mean", "std"):
        if (value := cfg.get(name)) is not None:
            if (numbers := three_numbers(value)) is None:
                raise UserError(f"{origin}: {name} is {shown(value)}", hint="three numbers are needed")
            statistics[f"pixel_{name}"] = scaled(numbers)
    size = cfg.get("input_size")
    licence, hub = cfg.get("license"), cfg.get("hf_hub_id")
    name = ".".join(str(cfg[key]) for key in ("architecture", "tag") if cfg.get(key))
    if hub:
        hub = f"https://huggingface.co/{hub}{name if str(hub).endswith('/') else ''}"
    return KnownFacts(
        origin,
        **statistics,
        channel_order="RGB",
        stride_in_1x1=False,
        input_size=int(size[-1]) if isinstance(size, (list, tuple)) and size and type(size[-1]) is int else None,
        licence=licence if isinstance(licence, str) and licence else None,
        source=hub or None,
        name=name or None,
    )


def folder_facts(path: Path) -> KnownFacts | None:
    """Facts of the ``config.json`` with which timm and its hub publish weights, if one lies beside the file."""
    content = json_beside(path, "config.json")
    if not isinstance(content.get("pretrained_cfg"), dict):
        return None
    facts = {"architecture": content.get("architecture"), **content["pretrained_cfg"]}
    return timm_facts(facts, str(path.parent / "config.json"))
