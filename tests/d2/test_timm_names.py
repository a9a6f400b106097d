"""timm's trunks in Detectron2 have one set of names, compute what they computed under others, and are exported."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.solver import get_default_optimizer_params
from detectron2.structures import Boxes

from scaleprior.backbones.trunks import family as registry, register_family
from scaleprior.backbones.trunks.selection import spec_of_model
from scaleprior.backbones.trunks.trunk import Trunk, detection_trunk
from scaleprior.d2.trunks.timm_backbones import TimmBackbone
from scaleprior.errors import UserError
from tests.backbones.trunks.plain_family import Plain
from tests.d2.test_timm_backbones import BIT, CLIP, CONVNEXT, MAPS, config, randomise

CASES = [("resnet50", "FrozenBN", 2), ("resnet18", "BN", 1), (BIT, "GN", 2), (CLIP, "FrozenBN", 2), (CONVNEXT, "LN", 2)]


def both(model: str, norm: str, freeze_at: int, last: int = 4) -> tuple[Trunk, TimmBackbone]:
    """The trunk in its library's modules, and the backbone, from one seed."""
    torch.manual_seed(0)
    trunk = detection_trunk(spec_of_model(model, norm), norm=norm, freeze_stages=freeze_at).keep(MAPS[:last])
    after = torch.rand(1)
    torch.manual_seed(0)
    backbone = TimmBackbone(model, norm=norm, freeze_at=freeze_at, out_features=MAPS[:last])
    assert torch.equal(torch.rand(1), after)  # heads that are built next start as they did
    return trunk, backbone


@pytest.mark.parametrize(("model", "norm", "freeze_at"), CASES)
def test_names_of_modules_parameters_and_tensors_are_the_files(model: str, norm: str, freeze_at: int) -> None:
    trunk, backbone = both(model, norm, freeze_at)
    names = trunk.canonical_names()
    state = backbone.state_dict()
    assert {names[own] for own in trunk.body.state_dict()} == set(state)
    assert all(torch.equal(tensor, state[names[own]]) for own, tensor in trunk.body.state_dict().items())
    named = dict([*backbone.named_parameters(), *backbone.named_buffers()])
    assert set(named) == set(state)
    assert all(named[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())
    # optimisers' states count parameters, so that checkpoints from before go on
    assert [n for n, _ in backbone.named_parameters()] == [names[n] for n, _ in trunk.body.named_parameters()]
    for name in state:
        assert isinstance(backbone.get_submodule(name.rpartition(".")[0]), nn.Module)


@pytest.mark.parametrize(("model", "norm", "freeze_at"), CASES)
def test_maps_and_gradients_are_the_trunks_to_the_bit(model: str, norm: str, freeze_at: int) -> None:
    trunk, backbone = both(model, norm, freeze_at, last=3)
    x = torch.rand(2, 3, 64, 64)
    expected, maps = trunk.features(x, normalised=True), backbone(x)
    assert list(maps) == MAPS[:3]
    assert all(torch.equal(maps[name], expected[name]) for name in maps)
    for found in (expected, maps):
        sum(value.square().sum() for value in found.values()).backward()
    names = trunk.canonical_names()
    gradients = {names[own]: parameter.grad for own, parameter in trunk.body.named_parameters()}
    for name, parameter in backbone.named_parameters():
        expected_one = gradients[name]
        assert (parameter.grad is None) == (expected_one is None)
        assert expected_one is None or torch.equal(parameter.grad, expected_one)


def test_rules_by_name_and_averages_by_name_work() -> None:
    """What is said of a parameter by its name in a file holds for it in an optimiser and in an average."""
    detector = build_model(config("resnet50", **{"MODEL.BACKBONE.FREEZE_AT": 0}))
    parameters = dict(detector.named_parameters())
    weight = parameters["backbone.bottom_up.res3.0.shortcut.weight"]
    groups = get_default_optimizer_params(
        detector, base_lr=1.0, lr_factor_func=lambda name: 0.1 if "bottom_up.res3." in name else 1.0
    )
    (slow,) = (group["params"] for group in groups if group["lr"] == 0.1)
    assert any(parameter is weight for parameter in slow)
    assert len(slow) == 4 * 3 + 1  # 4 blocks of 3 convolutions, and a shortcut
    state = detector.state_dict()
    assert all(state[name].data_ptr() == p.data_ptr() for name, p in parameters.items())
    for twin in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        assert twin.state_dict().keys() == state.keys()
        x = torch.rand(1, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(twin.backbone.bottom_up(x)["res5"], detector.backbone.bottom_up(x)["res5"])
    assert any(isinstance(module, BottleneckBlock) for module in detector.modules())


def test_norms_that_are_exchanged_take_part() -> None:
    """Programs that go through a model's modules and put others in their place reach what computes."""
    backbone = TimmBackbone("resnet18", norm="BN")
    changed = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(backbone))
    assert not any(type(module) is nn.BatchNorm2d for module in changed.modules())
    assert isinstance(changed.stem.conv1.norm, nn.SyncBatchNorm)
    changed.stem.conv1.norm = nn.Identity()
    x = torch.rand(1, 3, 32, 32)
    changed.eval(), backbone.eval()
    backbone.stem.conv1.norm.running_var.fill_(4.0)
    with torch.no_grad():
        assert not torch.equal(changed.stem(x), backbone.stem(x))


@pytest.mark.parametrize(
    ("model", "norm"), [("resnet18", "FrozenBN"), (BIT, "GN"), (CLIP, "FrozenBN"), (CONVNEXT, "LN")]
)
def test_a_scripted_trunk_gives_the_same_maps(model: str, norm: str) -> None:
    backbone = TimmBackbone(model, norm=norm, freeze_at=2, out_features=MAPS[:3]).eval()
    randomise(backbone)
    before = list(backbone.state_dict())
    scripted = torch.jit.script(backbone)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps, expected = scripted(x), backbone(x)
    assert list(maps) == MAPS[:3]
    assert all(torch.equal(maps[name], expected[name]) for name in maps)
    assert list(backbone.state_dict()) == before


@pytest.mark.parametrize("model", ["resnet18", CLIP])
def test_a_pyramid_is_scripted_with_detectron2s_own_preparation(model: str) -> None:
    pyramid = build_backbone(config(model)).eval()
    scripted = torch.jit.script(pyramid)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps, expected = scripted(x), pyramid(x)
    assert all(torch.equal(maps[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_detector_is_scripted_and_traced_as_detectron2_exports_it() -> None:
    torch.manual_seed(0)
    detector: Any = build_model(config(CLIP, retinanet=True)).eval()
    randomise(detector.backbone.bottom_up)
    images = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}]
    adapter = TracingAdapter(detector, images)
    with torch.no_grad():
        traced = torch.jit.trace(adapter, adapter.flattened_inputs)
        pairs = zip(traced(*adapter.flattened_inputs), adapter(*adapter.flattened_inputs))
        assert all(torch.equal(a, b) for a, b in pairs)
        prepared = detector.preprocess_image(
            images
        )  # a scripted detector gives what it found before it is fitted to the image
        features = [detector.backbone(prepared.tensor)[name] for name in detector.head_in_features]
        (expected,) = detector.forward_inference(prepared, features, detector.head(features))
        fields = {"pred_boxes": Boxes, "scores": Tensor, "pred_classes": Tensor}
        found = scripting_with_instances(copy.deepcopy(detector), fields)(images)[0]
    assert len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_a_family_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions find their way in the backbone itself; one whose modules and files have two names is refused."""
    monkeypatch.setattr(registry, "_REGISTERED", {})

    class Renamed(Plain):
        name = "renamed"
        models: ClassVar = {"renamed_tiny": Plain.models["plain_tiny"]}

        def canonical_names(self, own: Any) -> dict[str, str]:
            return {name: f"net.{name}" for name in own}

    register_family(Plain())
    register_family(Renamed())
    maps = TimmBackbone("plain_tiny", norm="BN").eval()(torch.rand(1, 3, 32, 32))
    assert [tuple(value.shape[1:]) for value in maps.values()] == [(8, 8, 8), (16, 4, 4), (32, 2, 2), (64, 1, 1)]
    with pytest.raises(UserError, match=r"renamed_tiny: its family calls the tensor net.stem.0.weight in files and st"):
        TimmBackbone("renamed_tiny", norm="BN")


def test_files_from_before_are_read(tmp_path: Any) -> None:
    """Their names are those of then: canonical, as a state dict has always spoken."""
    trunk, _ = both("resnet18", "BN", 0)
    names = trunk.canonical_names()
    torch.save({"model": {names[own]: t + 1 for own, t in trunk.body.state_dict().items()}}, tmp_path / "old.pth")
    backbone = TimmBackbone("resnet18", norm="BN")
    said = DetectionCheckpointer(backbone)
    said.load(str(tmp_path / "old.pth"))
    own = {theirs: ours for ours, theirs in names.items()}
    assert all(torch.equal(t, trunk.body.state_dict()[own[n]] + 1) for n, t in backbone.state_dict().items())
