"""Weights of a timm model by its name, where this machine already has them; nothing is downloaded here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaleprior.errors import UserError

__all__ = ["find_timm", "published"]

_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def published(name: str) -> dict[str, Any]:
    """timm's ``pretrained_cfg`` of a model name, with or without tag.

    Raises:
        UserError: timm has no such model, or not with that tag.
    """
    import timm

    try:
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as e:
        cfg, reason = None, e
    else:
        reason = None
    if cfg is None:
        hint = "timm.list_pretrained('resnet*') lists names with tags"
        raise UserError(f"timm has no model {name!r}", hint=hint) from reason
    return cfg.to_dict()


def find_timm(name: str) -> Path:
    """The weights file of timm's ``name`` ("resnet50.a1_in1k"; without tag: timm's default) in the local caches.

    Looks in Hugging Face's cache (``HF_HOME``, ``HF_HUB_CACHE``) and in torch hub's (``TORCH_HOME``).

    Raises:
        UserError: timm has no such model, or its weights are not here; says where they were looked for.
    """
    facts = published(name)
    folders = []
    hub = facts.get("hf_hub_id")
    if hub:
        # timm writes "timm/" and means its own full name behind it
        repository = f"{hub}{facts['architecture']}.{facts['tag']}" if hub.endswith("/") else hub
        snapshots = _hugging_face() / f"models--{repository.replace('/', '--')}" / "snapshots"
        folders.append(snapshots)
        for file in (
            f for snapshot in sorted(snapshots.glob("*"), reverse=True) for f in map(snapshot.joinpath, _FILES)
        ):
            if file.is_file():
                return file
    url = facts.get("url")
    if url:
        import torch

        file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        folders.append(file)
        if file.is_file():
            return file
    raise UserError(
        f"the weights of timm's {name} are not on this machine (looked at {', '.join(map(str, folders)) or 'nothing'})",
        hint=f"fetch them once with python -c \"import timm; timm.create_model('{name}', pretrained=True)\"",
    )


def _hugging_face() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)
