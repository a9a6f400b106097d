"""Facts in timm's configs: those of its models, and the ``config.json`` that its hub puts beside weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.errors import UserError

__all__ = ["folder_facts", "timm_facts"]


def timm_facts(cfg: Mapping[str, Any], origin: str) -> KnownFacts:
    """Facts of a timm ``pretrained_cfg``; its mean and std are on the 0-1 scale, RGB.

    Raises:
        UserError: a mean or std that is not three numbers.
    """
    statistics = {}
    for name in ("mean", "std"):
        value = cfg.get(name)
        if value is not None:
            if (
                not isinstance(value, (list, tuple))
                or len(value) != 3
                or not all(type(v) in (int, float) for v in value)
            ):
                raise UserError(f"{origin}: {name} is {value!r}", hint="three numbers are needed")
            statistics[f"pixel_{name}"] = tuple(round(255 * v, 6) for v in value)
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
    config = path.parent / "config.json"
    try:
        if not config.is_file() or config.stat().st_size > 1 << 20:
            return None
        content = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # a config.json of something else
    if not isinstance(content, dict) or not isinstance(content.get("pretrained_cfg"), dict):
        return None
    return timm_facts({"architecture": content.get("architecture"), **content["pretrained_cfg"]}, str(config))
