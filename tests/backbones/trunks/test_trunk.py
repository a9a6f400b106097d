"""Names and shapes against Detectron2's recorded ones, and behaviour of the trunk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from scaleprior.backbones import (
    ResNetSpec,
    TimmSpec,
    Trunk,
    build_resnet,
    build_trunk,
    freeze_at,
    from_detectron2,
    to_detectron2,
)
from scaleprior.backbones.trunks.family import known_models
from scaleprior.backbones.trunks.freezing import FrozenBatchNormAct, freeze_norms
from scaleprior.backbones.trunks.resnet.names import names_and_shapes
from scaleprior.backbones.trunks.selection import spec_of_model
from scaleprior.backbones.trunks.trunk import detection_trunk
from scaleprior.errors import UserError

# Written from Detectron2 02b5c4e's build_resnet_backbone; blocks of a stage that are alike share an entry.
RECORDED = json.loads((Path(__file__).parents[1] / "detectron2_resnets.json").read_text())
NARROW = ResNetSpec(res2_out_channels=32, width_per_group=8)
SPECS = {
    "R-18": ResNetSpec(depth=18),
    "R-50": ResNetSpec(depth=50),
    "R-101": ResNetSpec(depth=101),
    "R-152": ResNetSpec(depth=152),
    "R-50-w16": ResNetSpec(depth=50, res2_out_channels=64, width_per_group=16),
}


def randomise_norms(module: nn.Module, seed: int = 0) -> None:
    """Random statistics, gains and biases, as after training, so that no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in ((layer.weight, 0.5), (layer.bias, -0.5), (layer.running_mean, -0.5)):
                tensor.data = torch.rand(tensor.shape, generator=generator) + low
            layer.running_var = torch.rand(layer.running_var.shape, generator=generator) + 0.5


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_names_and_shapes_are_detectron2s(name: str) -> None:
    expected = {
        f"{block}.{tensor}": tuple(shape)
        for group in RECORDED[name]
        for block in group["blocks"]
        for tensor, shape in group["tensors"].items()
    }
    assert SPECS[name].name == name
    assert names_and_shapes(SPECS[name]) == expected


@pytest.mark.parametrize(
    ("spec", "width", "out"),
    [
        (ResNetSpec(num_groups=32, width_per_group=8), 256, 256),  # Detectron2's X_101_32x8d widths
        (ResNetSpec(width_per_group=7), 7, 256),  # 64 * 7 / 64 is 7 only if rounding is kind
        (ResNetSpec(res2_out_channels=52, width_per_group=11), 11, 52),
    ],
)
def test_widths_are_num_groups_times_width_per_group_and_double(spec: ResNetSpec, width: int, out: int) -> None:
    shapes = names_and_shapes(spec)
    for stage in range(2, 6):
        scale = 2 ** (stage - 2)
        assert shapes[f"res{stage}.0.conv2.weight"] == (width * scale, width * scale // spec.num_groups, 3, 3)
        assert shapes[f"res{stage}.0.conv3.weight"][0] == out * scale == spec.out_channels[f"res{stage}"]


@pytest.mark.parametrize(
    "spec",
    [
        ResNetSpec(depth=34),
        NARROW,
        ResNetSpec(norm="GN"),
        ResNetSpec(norm="FrozenBN", depth=18),
        ResNetSpec(num_groups=32, width_per_group=8, stride_in_1x1=True),
        ResNetSpec(depth=101, res2_out_channels=52, width_per_group=11),
    ],
    ids=lambda s: f"{s.name}-{s.norm}",
)
def test_names_and_shapes_are_those_of_the_trunk_that_is_built(spec: ResNetSpec) -> None:
    with torch.device("meta"):
        built = to_detectron2(build_resnet(spec).state_dict())
    assert names_and_shapes(spec) == {name: tuple(t.shape) for name, t in built.items()}


def test_narrow_res2_has_no_shortcut_when_the_stem_is_as_wide() -> None:
    assert "res2.0.shortcut.weight" not in names_and_shapes(SPECS["R-50-w16"])
    assert "res2.0.shortcut.weight" in names_and_shapes(NARROW)


def test_torchvision_weights_give_torchvision_features_exactly() -> None:
    torch.manual_seed(0)
    theirs = resnet50(weights=None).eval()
    randomise_norms(theirs)
    ours = build_resnet(ResNetSpec(depth=50)).eval()
    canonical = to_detectron2(theirs.state_dict())
    missing, unexpected = ours.load_state_dict(from_detectron2(canonical), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(stem))))
        assert torch.equal(ours(x), expected)


def test_stride_moves_to_the_first_convolution_of_res3_to_res5() -> None:
    trunk = build_resnet(ResNetSpec(res2_out_channels=32, width_per_group=8, stride_in_1x1=True))
    strides = [(stage[0].conv1.stride[0], stage[0].conv2.stride[0]) for stage in (trunk.layer1, trunk.layer2)]
    assert strides == [(1, 1), (2, 1)]
    assert trunk(torch.rand(2, 3, 64, 64)).shape == (2, 256, 2, 2)
    assert build_resnet(NARROW).layer2[0].conv2.stride == (2, 2)


def test_frozen_norm_equals_evaluating_bn_and_follows_nothing() -> None:
    # In float64, where the other order of the same operations shows at 1e-13, not in the compared digits.
    trunk = build_resnet(NARROW, zero_init_last=False).eval()
    randomise_norms(trunk)
    trunk.double()
    x = torch.rand(2, 3, 48, 48, dtype=torch.float64)
    with torch.inference_mode():
        expected = trunk(x)
        source = trunk.bn1
        frozen = freeze_norms(trunk)
        torch.testing.assert_close(frozen(x), expected, rtol=1e-9, atol=1e-9)
        source.weight.zero_()
        torch.testing.assert_close(frozen(x), expected, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())


@pytest.mark.parametrize("stages", range(6))
def test_freeze_at_freezes_exactly_the_first_stages(stages: int) -> None:
    trunk = freeze_at(build_resnet(NARROW), stages)
    parts = [nn.ModuleList([trunk.conv1, trunk.bn1]), trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
    for number, part in enumerate(parts, start=1):
        learns = [p.requires_grad for p in part.parameters()]
        assert all(learns) == (number > stages)
        assert any(learns) == (number > stages)
        assert any(isinstance(m, FrozenBatchNorm2d) for m in part.modules()) == (number <= stages)
        assert any(isinstance(m, nn.BatchNorm2d) for m in part.modules()) == (number > stages)


def test_freeze_at_refuses_other_numbers() -> None:
    with pytest.raises(UserError, match=r"FREEZE_AT is 6.*0 to 5"):
        freeze_at(build_resnet(NARROW), 6)


def test_group_norm_trunk_runs_and_frozen_trunk_keeps_its_gains() -> None:
    assert build_resnet(ResNetSpec(depth=50, norm="GN"))(torch.rand(1, 3, 32, 32)).shape == (1, 2048, 1, 1)
    frozen = build_resnet(ResNetSpec(depth=18, norm="FrozenBN"))
    assert frozen.layer1[0].bn2.weight.min() == 1  # a zero here could never be learned away
    assert build_resnet(ResNetSpec(depth=18)).layer1[0].bn2.weight.max() == 0


def test_names_round_trip_and_refuse_strangers() -> None:
    names = {name: i for i, name in enumerate(build_resnet(NARROW).state_dict())}
    kept = {k: v for k, v in names.items() if not k.endswith("num_batches_tracked")}
    assert from_detectron2(to_detectron2(names)) == kept
    assert to_detectron2({"fc.weight": 1, "bn1.num_batches_tracked": 2}) == {}
    with pytest.raises(UserError, match=r"'module.conv1.weight' is not a parameter of a timm"):
        to_detectron2({"module.conv1.weight": 0})
    with pytest.raises(UserError, match=r"'backbone.res2.0.conv1.weight' is not a parameter of Detectron2"):
        from_detectron2({"backbone.res2.0.conv1.weight": 0})


BIT, CLIP = TimmSpec("resnetv2_50x1_bit"), TimmSpec("resnet50_clip")
MAPS = ("res2", "res3", "res4", "res5")


def random_trunk(arch: ResNetSpec | TimmSpec) -> Trunk:
    torch.manual_seed(0)
    trunk = build_trunk(arch).eval()
    randomise_norms(trunk)
    return trunk


def test_bit_maps_for_detectors_are_what_its_next_stage_sees() -> None:
    trunk, seen = random_trunk(BIT), []
    norms = [stage.blocks[0].norm1 for stage in list(trunk.body.stages)[1:]] + [trunk.body.norm]
    hooks = [norm.register_forward_hook(lambda m, i, o: seen.append(o.clone())) for norm in norms]
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        raw = trunk.features(x)
        for hook in hooks:
            hook.remove()
        maps = trunk.features(x, normalised=True)
        assert all(torch.equal(maps[name], expected) for name, expected in zip(MAPS, seen))
        assert torch.equal(maps["res5"], raw["res5"])
        assert raw["res4"].std() > 10 * maps["res4"].std()  # what a pyramid without norms would be fed
        clip = random_trunk(CLIP)
        assert all(torch.equal(a, b) for a, b in zip(clip(x).values(), clip.features(x, normalised=True).values()))


@pytest.mark.parametrize("arch", [BIT, CLIP, NARROW], ids=lambda a: a.name)
@pytest.mark.parametrize("count", [1, 3])
def test_dropping_stages_changes_no_map_and_leaves_no_idle_parameter(arch: ResNetSpec | TimmSpec, count: int) -> None:
    trunk, x = random_trunk(arch), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = trunk.features(x, normalised=True)
    kept = set(trunk.keep(MAPS[:count][-1:]).body.state_dict())
    maps = trunk.features(x, normalised=True)
    assert list(maps) == list(trunk.channels) == list(MAPS[:count])
    assert all(torch.equal(maps[name], expected[name]) for name in maps)
    assert kept < set(random_trunk(arch).body.state_dict())
    sum(m.square().sum() for m in maps.values()).backward()
    assert [n for n, p in trunk.named_parameters() if p.grad is None] == []


def test_maps_that_no_trunk_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"OUT_FEATURES is \['stem', 'res4'\]; take some of res2, res3"):
        build_trunk(CLIP).keep(["stem", "res4"])


def test_frozen_norms_of_clip_keep_their_activation_and_their_eps() -> None:
    trunk = random_trunk(CLIP).double()
    for layer in trunk.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-2
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = trunk(x)
        freeze_norms(trunk)
        for name, value in trunk(x).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in trunk.modules())


@pytest.mark.parametrize("arch", [BIT, CLIP], ids=lambda a: a.name)
@pytest.mark.parametrize("stages", [0, 1, 2, 4, 5])
def test_freezing_timm_trunks_freezes_exactly_the_first_stages(arch: TimmSpec, stages: int) -> None:
    trunk = build_trunk(arch).freeze_at(stages)
    last = [trunk.body.norm] if arch == BIT else []
    parts = [trunk.body.stem, *trunk.body.stages]
    for number, part in enumerate(parts, start=1):
        members = nn.ModuleList([part, *(last if number == 5 else [])])
        learns = {p.requires_grad for p in members.parameters()}
        assert learns == {number > stages}
        if arch == CLIP:
            assert any(isinstance(m, FrozenBatchNorm2d) for m in members.modules()) == (number <= stages)
            assert any(isinstance(m, nn.BatchNorm2d) for m in members.modules()) == (number > stages)


def test_freezing_timm_trunks_refuses_other_numbers() -> None:
    with pytest.raises(UserError, match=r"FREEZE_AT is 6.*0 to 5"):
        build_trunk(BIT).freeze_at(6)


@pytest.mark.parametrize(
    ("norm", "kinds"),
    [
        ("FrozenBN", {"FrozenBatchNormAct"}),
        ("BN", {"FrozenBatchNormAct", "BatchNormAct2d"}),
        ("SyncBN", {"FrozenBatchNormAct", "SyncBatchNormAct"}),
    ],
)
def test_norms_of_a_detectors_trunk(norm: str, kinds: set[str]) -> None:
    trunk = detection_trunk(spec_of_model("resnet50_clip", norm), norm=norm, freeze_stages=2).keep(["res4"])
    assert {type(m).__name__ for m in trunk.modules() if hasattr(m, "running_var")} == kinds
    assert {type(m).__name__ for m in trunk.body.stages[0].modules() if hasattr(m, "running_var")} == {
        "FrozenBatchNormAct"
    }
    assert list(trunk.channels) == ["res2", "res3", "res4"]


def test_a_frozen_norm_with_an_activation_is_torchvisions_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    norm = FrozenBatchNormAct(5, 1e-3, nn.ReLU())
    for tensor in norm.buffers():
        tensor.copy_(torch.rand(5, generator=generator))
    x = torch.randn(2, 5, 3, 3, generator=generator)
    assert torch.equal(norm(x), FrozenBatchNorm2d.forward(norm, x).relu())


def test_the_trunk_that_a_config_names() -> None:
    assert spec_of_model("resnet34", "SyncBN") == ResNetSpec(depth=34, norm="BN")
    assert spec_of_model("resnet101", "GN") == ResNetSpec(depth=101, norm="GN")
    named = known_models(named=True)
    assert [spec_of_model(name, f.norm) for name, f in named.items()] == [TimmSpec(name) for name in named]
    with pytest.raises(UserError, match=r"MODEL.TIMM.MODEL is 'resnet51'; known: resnet18, .*resnet50x64_clip"):
        spec_of_model("resnet51", "BN")
    with pytest.raises(UserError, match=r"MODEL.TIMM.MODEL is not set; known: resnet18"):
        spec_of_model("", "BN")
    with pytest.raises(UserError, match=r"NORM is 'FrozenBN' with MODEL.TIMM.MODEL 'resnetv2_50x1_bit'; it takes GN"):
        spec_of_model("resnetv2_50x1_bit", "FrozenBN")
    with pytest.raises(UserError, match=r"NORM is 'GN' with .*'resnet50_clip'; it takes BN, FrozenBN, SyncBN"):
        spec_of_model("resnet50_clip", "GN")


def test_canonical_names_are_those_of_backbone_files() -> None:
    trunk = build_trunk(NARROW)
    names = trunk.canonical_names()
    assert list(names) == list(trunk.body.state_dict())
    counters = {theirs for theirs in names.values() if theirs.endswith("num_batches_tracked")}
    assert set(names.values()) - counters == set(names_and_shapes(NARROW))
    assert names["layer2.0.downsample.1.num_batches_tracked"] == "res3.0.shortcut.norm.num_batches_tracked"
    assert all(ours == theirs for ours, theirs in build_trunk(BIT).canonical_names().items())
