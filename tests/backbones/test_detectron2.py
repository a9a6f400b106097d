"""Our trunk against the real Detectron2: same names, shapes and features. Skipped where it does not import."""

from __future__ import annotations

import pytest
import torch

from scaleprior.backbones import ResNetSpec, build_resnet, freeze_at, to_detectron2
from tests.backbones.trunks.test_trunk import randomise_norms

pytestmark = pytest.mark.detectron2


def detectron2_trunk(spec: ResNetSpec, *, freeze: int = 0):
    config = pytest.importorskip("detectron2.config", reason="detectron2 does not import here")
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.resnet import build_resnet_backbone

    cfg = config.get_cfg()
    node = cfg.MODEL.RESNETS
    node.DEPTH, node.NORM, node.RES2_OUT_CHANNELS = spec.depth, spec.norm, spec.res2_out_channels
    node.WIDTH_PER_GROUP, node.NUM_GROUPS = spec.width_per_group, spec.num_groups
    node.STRIDE_IN_1X1, node.OUT_FEATURES = spec.stride_in_1x1, ["res2", "res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize(
    "spec",
    [
        *(ResNetSpec(depth=d) for d in (18, 34, 50, 101, 152)),
        *(ResNetSpec(depth=d, res2_out_channels=64, width_per_group=16) for d in (50, 152)),
        ResNetSpec(depth=50, stride_in_1x1=True),
        ResNetSpec(depth=50, num_groups=32, width_per_group=4),
        ResNetSpec(depth=50, norm="GN"),
        ResNetSpec(depth=50, norm="FrozenBN"),
    ],
    ids=lambda s: f"{s.name}-{s.norm}-{s.stride_in_1x1}",
)
def test_names_shapes_and_features(spec: ResNetSpec) -> None:
    torch.manual_seed(0)
    theirs = detectron2_trunk(spec).eval()
    ours = build_resnet(spec, zero_init_last=False).eval()
    randomise_norms(ours)
    state = to_detectron2(ours.state_dict())
    expected = {k: v.shape for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in state.items()} == expected
    theirs.load_state_dict(state, strict=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        features = theirs(x)
        y = ours.maxpool(ours.act1(ours.bn1(ours.conv1(x))))
        for name, stage in zip(features, (ours.layer1, ours.layer2, ours.layer3, ours.layer4)):
            y = stage(y)
            # FrozenBN folds its numbers in another order there; everything else runs the same kernels.
            torch.testing.assert_close(y, features[name], rtol=1e-4, atol=1e-4 * float(features[name].abs().max()))


@pytest.mark.parametrize("stages", range(6))
def test_freeze_at_means_what_detectron2_means(stages: int) -> None:
    spec = ResNetSpec(depth=50, res2_out_channels=64, width_per_group=16)
    ours = freeze_at(build_resnet(spec), stages)
    learns = {id(p) for p in ours.parameters() if p.requires_grad}
    tensors = dict(ours.named_parameters())
    renamed = to_detectron2({name: id(p) in learns for name, p in tensors.items()})
    theirs = {name: p.requires_grad for name, p in detectron2_trunk(spec, freeze=stages).named_parameters()}
    assert renamed == theirs
