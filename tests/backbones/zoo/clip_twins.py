"""Twins of OpenAI's files: TorchScript archives of CLIP, in half precision, with a text tower beside the trunk."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["jit_archive", "openai_names", "text_tower"]


def openai_names(name: str) -> str:
    """What clip/model.py calls a tensor of timm's trunk."""
    if match := re.fullmatch(r"stem\.conv(\d)\.(conv|bn)\.(\w+)", name):
        return f"visual.{match[2]}{match[1]}.{match[3]}"
    match = re.fullmatch(r"stages\.(\d)\.(\d+)\.(?:conv(\d)_\w+\.(conv|bn)|shortcut\.conv\.(conv|bn))\.(\w+)", name)
    assert match, name
    part = f"{match[4]}{match[3]}" if match[3] else f"downsample.{ {'conv': 0, 'bn': 1}[match[5]] }"
    return f"visual.layer{int(match[1]) + 1}.{match[2]}.{part}.{match[6]}"


def text_tower() -> dict[str, Tensor]:
    """What stands beside the trunk, in small."""
    return {
        "visual.attnpool.positional_embedding": torch.zeros(50, 8),
        "visual.attnpool.k_proj.weight": torch.zeros(8, 8),
        "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(24, 8),
        "token_embedding.weight": torch.zeros(16, 8),
        "positional_embedding": torch.zeros(77, 8),
        "ln_final.weight": torch.zeros(8),
        "text_projection": torch.zeros(8, 8),
        "logit_scale": torch.ones(()),
    }


class _Holder(nn.Module):
    """A node of a tree of modules."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def jit_archive(model: nn.Module, path: Path) -> None:
    """``torch.jit.save`` of a traced tree of modules with OpenAI's names, float16 as theirs."""
    root = _Holder()
    numbers = {"input_resolution": torch.tensor(224), "context_length": torch.tensor(77), "vocab_size": torch.tensor(9)}
    own = {openai_names(name): t for name, t in model.state_dict().items() if not name.startswith("head.")}
    for name, tensor in {**own, **text_tower(), **numbers}.items():
        *parents, last = name.split(".")
        node: nn.Module = root
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, _Holder())
            node = node._modules[parent]  # type: ignore[assignment]
        tensor = tensor.half() if tensor.is_floating_point() else tensor
        if last in ("running_mean", "running_var", "num_batches_tracked") or not tensor.is_floating_point():
            node.register_buffer(last, tensor)
        else:
            node.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    torch.jit.save(torch.jit.trace(root, torch.zeros(1)), path)
