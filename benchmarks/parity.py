"""Do the two engines see the same features? One backbone file in timm, in the torchvision engine and in Detectron2.

Shapes: one image of H x W pixels; map resN and pN is [1, C, H / 2**N, W / 2**N]. C4 has its res5 in the head: there it
is that of regions pooled from res4, [R, 2048, 7, 7].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import roi_align

from benchmarks.exactness import randomise
from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import apply_card
from scaleprior.backbones.trunks.published import IMAGENET_MEAN, IMAGENET_STD
from scaleprior.backbones.trunks.resnet.names import to_detectron2
from scaleprior.backbones.trunks.resnet.spec import ResNetSpec
from scaleprior.backbones.weights import save_backbone
from scaleprior.config import load_config
from scaleprior.d2.plan import default_config
from scaleprior.detect.faster_rcnn.model import Detector, build_detector
from scaleprior.detect.faster_rcnn.model_file import model_names, start_from_backbone

__all__ = ["KINDS", "Difference", "build_detectors", "compare_features", "timm_features", "write_timm_backbone"]

KINDS = ("C4", "FPN")
_REGIONS = ((4.0, 6.0, 60.0, 50.0), (20.0, 0.0, 64.0, 90.0), (0.0, 30.0, 40.0, 95.0))  # xyxy, pixels


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference between two engines' values of a map, relative to the map's largest value.

    Attributes:
        kind: "C4" or "FPN".
        name: of the map.
        torchvision, detectron2: against timm; None for the pyramid, which timm has not.
        engines: Detectron2 against the torchvision engine.
    """

    kind: str
    name: str
    torchvision: float | None
    detectron2: float | None
    engines: float

    @property
    def largest(self) -> float:
        """Of the comparisons that there are."""
        return max(self.torchvision or 0.0, self.detectron2 or 0.0, self.engines)


def write_timm_backbone(depth: int, path: Path, *, seed: int = 0) -> nn.Module:
    """timm's own ResNet with random weights and norm statistics, written to ``path`` as a canonical file; eval mode."""
    torch.manual_seed(seed)
    model = randomise(timm.create_model(f"resnet{depth}", pretrained=False, zero_init_last=False), seed)
    facts = {"pixel_mean": IMAGENET_MEAN, "pixel_std": IMAGENET_STD, "channel_order": "RGB"}
    save_backbone(path, to_detectron2(model.state_dict()), Card(f"resnet{depth}", ResNetSpec(depth=depth), **facts))
    return model


def build_detectors(kind: str, depth: int, weights: Path) -> tuple[Detector, nn.Module]:
    """The detectors that both engines make of ``faster_rcnn_R_{depth}_{kind}.yaml``, each with the backbone it loads.

    A pyramid's weights are the torchvision engine's fresh ones, with random biases, copied to Detectron2's by name.
    """
    config, overrides = f"COCO-Detection/faster_rcnn_R_{depth}_{kind}.yaml", ["MODEL.DEVICE", "cpu"]
    loaded = load_config(config, overrides)
    ours = build_detector(loaded.cfg).eval()
    _, card = start_from_backbone(ours, weights)
    theirs = build_model(apply_card(load_config(config, overrides, defaults=default_config()), card)).eval()
    DetectionCheckpointer(theirs).load(str(weights))
    if kind == "FPN":
        for name, tensor in ours.backbone.fpn.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(tensor, std=0.1)
        names = model_names(ours)
        pyramid = {names[n]: t for n, t in ours.state_dict().items() if n.startswith("backbone.fpn.")}
        assert len(pyramid) == 16  # four lateral and four output convolutions with their biases
        state = theirs.state_dict()
        assert pyramid.keys() <= state.keys()
        # With the rest of the model's own: Detectron2's FrozenBN resets statistics that a state dict leaves out.
        theirs.load_state_dict(state | pyramid)
    return ours, theirs


def timm_features(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """timm's res4 and res5 of ``image`` uint8 [3, H, W] RGB, and "res5 of regions"."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    maps = model.forward_intermediates((image[None] - mean) / std, intermediates_only=True)
    pooled = roi_align(maps[3], [torch.tensor(_REGIONS)], 14, 1 / 16, sampling_ratio=0, aligned=True)
    return {"res4": maps[3], "res5": maps[4], "res5 of regions": model.layer4(pooled)}


def compare_features(
    kind: str, image: Tensor, reference: Mapping[str, Tensor], ours: Detector, theirs: nn.Module
) -> list[Difference]:
    """Run ``image`` uint8 [3, H, W] RGB, H and W multiples of 32, through both detectors as each takes images.

    Args:
        reference: from :func:`timm_features`.
    """
    with torch.inference_mode():
        batch = theirs.preprocess_image([{"image": image}]).tensor
        if kind == "C4":
            mine, their = ours.backbone(ours.batch(image[None], [tuple(image.shape[1:])])), theirs.backbone(batch)
            regions, heads = torch.tensor(_REGIONS), ours.roi_heads
            pooled = heads.pooler([mine["res4"]], regions, torch.zeros(len(regions), dtype=torch.int64))
            mine["res5 of regions"] = heads.box_head.res5(pooled)
            their["res5 of regions"] = theirs.roi_heads._shared_roi_transform([their["res4"]], [Boxes(regions)])
        else:
            mine = ours.backbone.bottom_up(ours.batch(image[None], [tuple(image.shape[1:])])) | ours.backbone(
                ours.batch(image[None], [tuple(image.shape[1:])])
            )
            their = theirs.backbone.bottom_up(batch) | theirs.backbone(batch)
    rows = []
    for name in their:
        against = reference.get(name)
        if against is None and name.startswith("res"):
            continue  # res2 and res3 are on the way to res4
        rows.append(
            Difference(
                kind,
                name,
                None if against is None else _relative(mine[name], against),
                None if against is None else _relative(their[name], against),
                _relative(their[name], mine[name]),
            )
        )
    return rows


def _relative(a: Tensor, b: Tensor) -> float:
    gap = float((a - b).abs().max() / b.abs().max())
    return gap if gap == gap else float("inf")
