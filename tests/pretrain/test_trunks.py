"""A trunk of any family is pretrained on a fraction, named by the keys that detection reads, and enters a detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scaleprior.backbones import TimmSpec, apply_card
from scaleprior.backbones.weights import load_canonical
from scaleprior.config import load_config
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.model_file import fill_backbone
from scaleprior.errors import UserError
from scaleprior.pretrain import evaluate_pretrained, pretrain
from scaleprior.pretrain.network.pretrainer import Pretrainer
from scaleprior.pretrain.plan import planned_card
from scaleprior.pretrain.recipe import recipe_fingerprint, recipe_of

TRUNKS = [("resnetv2_50x1_bit", "GN", 1e-5), ("resnet50_clip", "BN", 1e-5), ("convnext_tiny", "LN", 1e-6)]


def words(model: str, norm: str, size: int = 32) -> tuple[str, ...]:
    """The three overrides that name a trunk, in a study's ``architectures`` as here; then a short run."""
    trunk = ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.MODEL", model, "MODEL.RESNETS.NORM", norm)
    crops = ("PRETRAIN.INPUT.SIZE", str(size), "PRETRAIN.INPUT.RESIZE", str(size))
    return (*trunk, *crops, "PRETRAIN.FRACTION.IMAGES", "16", "PRETRAIN.BUDGET.AMOUNT", "2")


@pytest.mark.parametrize(("model", "norm", "eps"), TRUNKS)
def test_a_trunk_of_any_family_goes_from_a_fraction_into_a_detector(
    model: str, norm: str, eps: float, small_config: Callable, tmp_path: Path
) -> None:
    loaded = small_config(*words(model, norm), "PRETRAIN.HELD_OUT.IMAGES", "8")
    result = pretrain(loaded, tmp_path / "run")
    tensors, card = load_canonical(result.backbone)
    assert (card.arch, card.norm, card.norm_eps, card.images) == (TimmSpec(model), norm, eps, 16)
    assert card.name == f"{model}_tiny-16_seed0"
    assert card.recipe["MODEL"]["TIMM"] == {"MODEL": model}
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert result.metrics.held_out == evaluate_pretrained(loaded, tmp_path / "run")

    detection = load_config("COCO-Detection/quickstart_FPN.yaml", words(model, norm)[:6])
    cfg = apply_card(detection, card)
    detector = build_detector(cfg)
    report = fill_backbone(detector, tensors, "the run")
    assert len(report.matched) == len(tensors)
    assert report.unexpected == ()
    # what fine-tuning is given is what pretraining promised before it began
    promised = planned_card(loaded.cfg)
    for field in ("arch", "pixel_mean", "pixel_std", "channel_order", "norm_eps"):
        assert getattr(card, field) == getattr(promised, field)


@pytest.mark.parametrize("model", [model for model, _, _ in TRUNKS])
def test_gradients_reach_every_parameter(model: str) -> None:
    """BiT's last norm and ConvNeXt's, which the head reads through, among them."""
    torch.manual_seed(0)
    learner = Pretrainer(TimmSpec(model), 3, pixel_mean=(0.0,) * 3, pixel_std=(255.0,) * 3, bias=0.0)
    for name, parameter in learner.named_parameters():  # fresh last norms of CLIP's blocks are 0 and let nothing by
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.0, generator=torch.Generator().manual_seed(len(name)))
    learner(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)).square().sum().backward()
    assert [n for n, p in learner.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            words("resnet50_clip", "BN", size=24),
            r"INPUT.SIZE is 24; resnet50_clip leaves nothing of so few pixels; set",
        ),
        (words("convnext_small", "BN"), r"NORM is 'BN' with MODEL.TIMM.MODEL 'convnext_small'; it takes LN"),
        (words("resnet50_clip", "FrozenBN"), r"NORM is 'FrozenBN': pretraining needs a norm that learns"),
        (
            words("resnet50_clip", "SyncBN"),
            r"NORM is 'SyncBN': .* in each process; set .* to BN, GN or LN",
        ),
        (words("swin", "LN"), r"MODEL.TIMM.MODEL is 'swin'; known: resnet18, .*convnext_tiny"),
        (
            ("MODEL.TIMM.MODEL", "convnext_tiny"),
            r"TIMM.MODEL is 'convnext_tiny' with MODEL.BACKBONE.NAME 'build_resnet_backbone', .*; "
            r'use MODEL.BACKBONE.NAME build_timm_fpn_backbone, or MODEL.TIMM.MODEL ""',
        ),
        (
            ("MODEL.BACKBONE.NAME", "build_tim_fpn_backbone", "MODEL.TIMM.MODEL", "convnext_tiny"),
            r"BACKBONE.NAME is 'build_tim_fpn_backbone'; take one of build_resnet_backbone, .*_timm_fpn",
        ),
        (("MODEL.RESNETS.NORM", "LN"), r"MODEL.RESNETS.NORM is 'LN'; take one of BN, FrozenBN, GN"),
    ],
)
def test_what_no_trunk_can_do_is_refused_before_anything_is_written(
    overrides: tuple[str, ...], message: str, small_config: Callable, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(small_config(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_runs_identity_names_the_trunk_only_where_the_config_does(small_config: Callable) -> None:
    plain, pyramid = small_config().cfg, small_config("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone").cfg
    assert "TIMM" not in recipe_of(plain)["MODEL"]
    assert recipe_fingerprint(plain) == recipe_fingerprint(pyramid)  # the same trunk
    bit, clip = (small_config(*words(model, "GN")).cfg for model in ("resnetv2_50x1_bit", "resnetv2_101x1_bit"))
    assert len({recipe_fingerprint(plain), recipe_fingerprint(bit), recipe_fingerprint(clip)}) == 3


def test_going_on_from_norms_of_another_eps_says_so_and_keeps_it(small_config: Callable, tmp_path: Path) -> None:
    first = pretrain(small_config("MODEL.NORM_EPS", "1e-3", "PRETRAIN.BUDGET.AMOUNT", "1"), tmp_path / "first")
    tensors, parent = load_canonical(first.backbone)
    assert parent.norm_eps == 1e-3
    plain = load_canonical(pretrain(small_config("PRETRAIN.BUDGET.AMOUNT", "1"), tmp_path / "plain").backbone)[0]
    assert not all(torch.equal(tensors[name], tensor) for name, tensor in plain.items())  # it was trained with it
    words = ("MODEL.WEIGHTS", str(first.backbone), "PRETRAIN.BUDGET.AMOUNT", "1", "PRETRAIN.HELD_OUT.IMAGES", "8")
    with pytest.raises(UserError, match=r"MODEL.NORM_EPS is -1.0; use MODEL.NORM_EPS 0.001"):
        pretrain(small_config(*words), tmp_path / "next")
    loaded = small_config(*words, "MODEL.NORM_EPS", "1e-3")
    result = pretrain(loaded, tmp_path / "next")
    assert load_canonical(result.backbone)[1].norm_eps == 1e-3
    assert result.metrics.held_out == evaluate_pretrained(loaded, tmp_path / "next")
    with pytest.raises(UserError, match=r"holds norms with eps 0.001, the config builds 1e-05; use MODEL.NORM_EPS 0.0"):
        evaluate_pretrained(small_config("PRETRAIN.HELD_OUT.IMAGES", "8"), tmp_path / "next")
    # what it is trained with is in its recipe; what is not set is in no recipe of before
    assert recipe_of(loaded.cfg)["MODEL"]["NORM_EPS"] == 1e-3
    assert "NORM_EPS" not in recipe_of(small_config().cfg)["MODEL"]
    model = Pretrainer(parent.arch, 3, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, bias=0.0, norm_eps=1e-3)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
