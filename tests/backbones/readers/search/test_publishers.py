"""Checkpoints in the shape of public training scripts: the trunk in them is found, whatever is around it.

Each wrapper is written as the script's own module holds it; the network inside is small or narrow, with random numbers.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import resnet18
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from tests.backbones.readers.search.conftest import Check, prefixed, r18, r50, small, trained


def mlp(*sides: int) -> nn.Sequential:
    layers = [layer for a, b in itertools.pairwise(sides) for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    return nn.Sequential(*layers)


def parts(**modules: nn.Module) -> Any:
    """A module that holds these."""
    whole = nn.Module()
    for name, module in modules.items():
        whole.add_module(name, module)
    return whole


def optimiser(network: nn.Module) -> dict[str, Any]:
    """The state of one step of SGD with momentum."""
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sgd.step()
    return sgd.state_dict()


def moco(query: nn.Module, key: nn.Module) -> nn.Module:
    """facebookresearch/moco, moco/builder.py, within DistributedDataParallel."""
    whole = parts(encoder_q=query, encoder_k=key)
    whole.register_buffer("queue", torch.rand(8, 16))
    whole.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    return parts(module=whole)


@pytest.mark.parametrize("version", [1, 2])
def test_moco(version: int, check: Check) -> None:
    query, key = small(0, num_classes=8), small(1, num_classes=8)
    if version == 2:
        for encoder in (query, key):
            encoder.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), encoder.fc)
    whole = moco(query, key)
    tree = {"epoch": 200, "state_dict": whole.state_dict(), "optimizer": optimiser(whole)}
    report = check(tree, query).report
    assert report.place == "module.encoder_q. in state_dict"
    why = "MoCo's query encoder is what is evaluated"
    both = "module.encoder_q. in state_dict, not module.encoder_k. in state_dict"
    assert f"took {both} ({why}); select chooses" in report.notes
    assert report.dropped["projector"] == ["state_dict.module.queue", "state_dict.module.queue_ptr"]
    assert len(report.dropped["another trunk"]) == 320 + (2 if version == 2 else 0)
    assert len(report.dropped["optimiser"]) == 2 * (161 + (2 if version == 2 else 0))
    assert report.dropped["classifier" if version == 1 else "head"][0].startswith("fc.")
    assert check(tree, key, select="encoder_k").report.place == "module.encoder_k. in state_dict"
    assert check(tree, key, prefix="module.encoder_k.").report.place == "module.encoder_k. in state_dict"


def test_moco_v3(check: Check) -> None:
    base, momentum = small(0), small(1)
    for encoder in (base, momentum):
        encoder.fc = mlp(512, 64, 32)
    whole = parts(module=parts(base_encoder=base, momentum_encoder=momentum, predictor=mlp(32, 64, 32)))
    report = check({"state_dict": whole.state_dict(), "epoch": 1, "scaler": {"scale": 1.0}}, base).report
    assert report.place == "module.base_encoder. in state_dict"
    assert len(report.dropped["projector"]) == 14
    assert "unexpected" not in report.dropped


def test_dino_takes_the_teacher(check: Check) -> None:
    """The full checkpoint of facebookresearch/dino, main_dino.py: both are wrapped, as they have BatchNorm."""
    student, teacher = small(0), small(1)
    for network in (student, teacher):
        network.fc = nn.Identity()
    student = parts(module=parts(backbone=student, head=mlp(512, 64, 16)))
    whole = parts(module=parts(backbone=teacher, head=mlp(512, 64, 16)))
    tree = {
        "student": student.state_dict(), "teacher": whole.state_dict(), "optimizer": optimiser(student), "epoch": 3,
        "args": argparse.Namespace(momentum_teacher=0.996), "dino_loss": {"center": torch.zeros(1, 16)},
    }  # fmt: skip
    report = check(tree, teacher).report
    assert report.place == "module.backbone. in teacher"
    assert "dino_loss.center" in report.dropped["projector"]
    assert len(report.dropped["head"]) == 28
    check(tree, student.module.backbone, select="student")


def test_swav(check: Check) -> None:
    """facebookresearch/swav, src/resnet50.py: the ResNet itself with two more layers."""
    network = r50()
    del network.fc
    network.projection_head, network.prototypes = mlp(2048, 64, 16), nn.Linear(16, 30, bias=False)
    report = check(prefixed(network.state_dict(), "module."), network).report
    assert report.place == "module."
    assert len(report.dropped["projector"]) == 13


def test_barlow_twins_vicreg_and_simsiam(check: Check) -> None:
    network = r50()
    network.fc = nn.Identity()
    barlow = parts(backbone=network, projector=mlp(2048, 64, 64), bn=nn.BatchNorm1d(64, affine=False))
    report = check({"epoch": 1, "model": prefixed(barlow.state_dict(), "module.")}, network).report
    assert report.place == "module.backbone. in model"
    assert report.dropped["beside the trunk"] == ["model.module.bn.running_mean", "model.module.bn.running_var"]
    vicreg = parts(backbone=network, projector=mlp(2048, 64, 64))
    assert check({"epoch": 1, "model": vicreg.state_dict()}, network).report.place == "backbone. in model"
    simsiam = small()
    simsiam.fc = mlp(512, 512, 512)
    whole = parts(module=parts(encoder=simsiam, predictor=mlp(512, 128, 512)))
    assert check({"state_dict": whole.state_dict()}, simsiam).report.place == "module.encoder. in state_dict"


def test_lightly_and_lightning(check: Check) -> None:
    """A Lightning checkpoint of lightly's examples: children by number, moving averages beside, objects beside."""
    network, average = small(0), small(1)
    whole = parts(
        backbone=nn.Sequential(*list(network.children())[:-1]), projection_head=mlp(512, 64, 32),
        backbone_momentum=nn.Sequential(*list(average.children())[:-1]), projection_head_momentum=mlp(512, 64, 32),
    )  # fmt: skip
    tree = {
        "epoch": 9, "global_step": 10, "pytorch-lightning_version": "2.0", "state_dict": whole.state_dict(),
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimiser(whole)], "lr_schedulers": [], "hyper_parameters": {"lr": 0.1},
    }  # fmt: skip
    report = check(tree, network).report
    assert (report.place, report.layout) == ("backbone. in state_dict", "torchvision/timm, children by number")
    assert len(report.dropped["projector"]) == 28
    assert "callbacks.ModelCheckpoint{'monitor': None}.best_model_score" in report.dropped["beside the trunk"]
    check(tree, average, select="backbone_momentum")


@pytest.mark.parametrize("other", ["momentum_backbone", "teacher_backbone", "student_backbone"])
def test_solo_learn_and_lightlys_benchmarks(other: str, check: Check) -> None:
    network, follower = small(0), small(1)
    network.fc = follower.fc = nn.Identity()
    whole = parts(backbone=network, classifier=nn.Linear(512, 10), **{other: follower}, momentum_projector=mlp(512, 8))
    report = check({"state_dict": whole.state_dict(), "hyper_parameters": {"method": "byol"}}, network).report
    assert report.place == "backbone. in state_dict"
    assert report.dropped["classifier"] == ["state_dict.classifier.weight", "state_dict.classifier.bias"]


def test_openmmlab(check: Check) -> None:
    network = r50()
    network.fc = nn.Identity()
    whole = parts(backbone=network, neck=nn.Conv2d(8, 8, 1), bbox_head=parts(cls=nn.Conv2d(8, 8, 3)))
    tree = {"meta": {"epoch": 12, "CLASSES": ("a",)}, "state_dict": whole.state_dict(), "optimizer": optimiser(whole)}
    report = check(tree, network).report
    assert report.place == "backbone. in state_dict"
    assert len(report.dropped["detector"]) == 4


def test_mmselfsup_keeps_a_network_under_two_names(check: Check) -> None:
    network, target, neck = small(0), small(1), mlp(512, 8)
    network.fc = target.fc = nn.Identity()
    byol = parts(backbone=network, neck=neck, target_net=parts(module=nn.Sequential(target, copy.deepcopy(neck))))
    assert check({"state_dict": byol.state_dict()}, network).report.place == "backbone. in state_dict"
    moco = parts(encoder_q=nn.Sequential(network, neck), encoder_k=nn.Sequential(target, neck), backbone=network)
    report = check({"state_dict": moco.state_dict()}, network).report
    assert report.place == "encoder_q.0. in state_dict"
    assert "the same numbers stand in backbone. in state_dict" in report.notes


def test_mmengine_swaps_the_average_with_the_weights(check: Check) -> None:
    """Its ``state_dict`` is the average, its ``ema_state_dict`` what was trained."""
    average, raw = small(0), small(1)
    tree = {
        "state_dict": prefixed(average.state_dict(), "backbone."),
        "ema_state_dict": {"steps": torch.tensor(3), **prefixed(raw.state_dict(), "module.backbone.")},
        "message_hub": {}, "meta": {},
    }  # fmt: skip
    report = check(tree, average).report
    assert report.place == "backbone. in state_dict"
    assert any("mmengine saves the average as state_dict" in note for note in report.notes)


def test_torchvisions_detector(check: Check) -> None:
    model = trained(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3))
    for norm in (m for m in model.modules() if type(m).__name__ == "FrozenBatchNorm2d"):
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
        norm.eps = 1e-5
    report = check({"model": model.state_dict(), "epoch": 3}, BodyOf(model.backbone.body)).report
    assert report.place == "backbone.body. in model"
    assert set(report.dropped) == {"detector", "counter"}


class BodyOf:
    """A body by which torchvision gives features, with the attributes of a network."""

    def __init__(self, body: Any) -> None:
        self.__dict__.update(dict(body.items()))


def test_detr(check: Check) -> None:
    network = r50()
    network.fc = nn.Identity()
    whole = parts(
        transformer=nn.TransformerEncoderLayer(16, 2, 16), class_embed=nn.Linear(16, 3),
        query_embed=nn.Embedding(5, 16), input_proj=nn.Conv2d(2048, 16, 1), backbone=nn.Sequential(parts(body=network)),
    )  # fmt: skip
    report = check({"model": whole.state_dict(), "args": argparse.Namespace(dilation=False)}, network).report
    assert report.place == "backbone.0.body. in model"
    assert set(report.dropped) == {"detector", "counter"}


@pytest.mark.parametrize("prefix", ["", "encoder.", "f.", "module.0."])
@pytest.mark.parametrize("last", [None, -1, -2], ids=["whole", "no classifier", "no pool"])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_children_by_number(prefix: str, last: int | None, library: str, check: Check) -> None:
    network = r18() if library == "torchvision" else trained(timm.create_model("resnet18"))
    network.relu = nn.ReLU()
    children = [child for name, child in network.named_children() if name != "relu" or library == "torchvision"]
    report = check(prefixed(nn.Sequential(*children[:last]).state_dict(), prefix), network).report
    assert report.dropped.get("classifier", []) == ([] if last else ["9.weight", "9.bias"])


def test_vissl(check: Check) -> None:
    network = r50()
    network.fc = nn.Identity()
    tree = {
        "phase_idx": 1,
        "classy_state_dict": {
            "base_model": {
                "model": {
                    "trunk": prefixed(network.state_dict(), "_feature_blocks."),
                    "heads": prefixed(mlp(2048, 16).state_dict(), "0.clf."),
                },
                "meta": {"input_size": None},
            },
            "optimizer": {"optim": optimiser(network)},
        },
    }
    report = check(tree, network).report
    assert report.place == "_feature_blocks. in classy_state_dict.base_model.model.trunk"


def test_torchvisions_script_with_model_ema(check: Check) -> None:
    network, average = small(0), small(1)
    averaged = AveragedModel(average, use_buffers=True)
    tree = {
        "model": network.state_dict(), "optimizer": optimiser(network), "lr_scheduler": {"last_epoch": 3}, "epoch": 3,
        "model_ema": averaged.state_dict(), "args": argparse.Namespace(model_ema=True),
    }  # fmt: skip
    report = check(tree, average).report
    assert report.place == "module. in model_ema"
    assert "model_ema.n_averaged" in report.dropped["counter"]
    check(tree, network, select="model")
    check(tree, network, state="model")


@pytest.mark.parametrize("keys", ["model_state_dict", "net", "ema", "ema.module", "model", "a.b.c.d", "state.dict"])
def test_wrappers_of_any_name_and_depth(keys: str, check: Check) -> None:
    tree: Any = (network := small()).state_dict()
    for key in reversed(keys.split(".")):
        tree = {key: tree, "step": 3}
    assert check(tree, network).report.place == keys
    check(tree, network, state=keys)
    assert check({keys: network.state_dict()}, network, state=keys).report.place == keys  # a key with dots in it
    assert check([1, {"x": [network.state_dict()]}], network).report.place == "1.x.0"


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "_orig_mod.module.", "module.module.", "_orig_mod."])
def test_wrappers_of_torch_in_any_order(prefix: str, check: Check) -> None:
    network = small()
    report = check(prefixed(network.state_dict(), prefix), network).report
    assert set(report.dropped) == {"classifier", "counter"}
    check(prefixed(network.state_dict(), prefix), network, prefix=prefix)


def test_wrappers_of_torch_in_the_middle_of_names(check: Check) -> None:
    network = small()
    wrapped = {
        f"model._fsdp_wrapped_module.{n.replace('.conv', '._checkpoint_wrapped_module.conv')}": v
        for n, v in network.state_dict().items()
    }
    assert check(wrapped, network).report.place == "model."


def test_a_wrappers_prefix_on_some_names_only(check: Check) -> None:
    network = small()
    state = {f"module.{n}" if n < "layer2" else n: v for n, v in network.state_dict().items()}
    report = check(state, network).report
    assert "module." in report.place
    assert set(report.dropped) == {"classifier", "counter"}


def test_a_trunk_in_two_parts(check: Check) -> None:
    """As in a detector that keeps its last stage in its head; here of a student and a teacher."""
    student, teacher = small(0), small(1)
    tree: dict[str, Any] = {"modelStudent.head.queue": torch.zeros(2)}
    for name, network in (("modelStudent", student), ("modelTeacher", teacher)):
        for key, value in network.state_dict().items():
            tree[f"{name}.{'roi_heads' if key.startswith('layer4') else 'backbone'}.{key}"] = value
    report = check(tree, teacher).report
    assert report.place == "modelTeacher.backbone. and modelTeacher.roi_heads."


def test_mean_teacher_of_detectron2(check: Check) -> None:
    from scaleprior.backbones import to_detectron2

    student, teacher = small(0), small(1)
    tree = {
        **prefixed(to_detectron2(student.state_dict()), "modelStudent.backbone.bottom_up."),
        **prefixed(to_detectron2(teacher.state_dict()), "modelTeacher.backbone.bottom_up."),
        "modelTeacher.proposal_generator.rpn_head.conv.weight": torch.zeros(3),
    }
    report = check({"model": tree, "iteration": 9}, teacher).report
    assert report.place == "modelTeacher.backbone.bottom_up. in model"
    assert "the file is a whole detector; its backbone was cut out" in report.notes


@pytest.mark.parametrize("prefix", ["resnet.", "", "model.backbone.", "backbone.conv_encoder.model."])
def test_hugging_face(prefix: str, check: Check) -> None:
    network = r18()
    state = {}
    for name, value in network.state_dict().items():
        first, _, rest = name.partition(".")
        if first in ("conv1", "bn1"):
            kind = {"conv1": "convolution", "bn1": "normalization"}[first]
            state[f"{prefix}embedder.embedder.{kind}.{rest}"] = value
        elif first != "fc":
            block, part, rest = rest.split(".", 2)
            if part == "downsample":
                which, rest = rest.split(".", 1)
                part = f"shortcut.{('convolution', 'normalization')[int(which)]}"
            else:
                part = f"layer.{int(part[-1]) - 1}.{'convolution' if part.startswith('conv') else 'normalization'}"
            state[f"{prefix}encoder.stages.{int(first[-1]) - 1}.layers.{block}.{part}.{rest}"] = value
    report = check(state, network).report
    assert report.layout == "hugging face"
    assert set(report.dropped) == {"counter"}


def test_sizes_of_the_file_do_not_matter(check: Check) -> None:
    """A classifier of another name, and a network of one's own that keeps the trunk as ``self.resnet``."""
    network = resnet18()
    trained(network)
    whole = parts(resnet=network, my_special_thing=mlp(512, 3), memory=nn.Embedding(4, 4))
    report = check({"net": whole.state_dict(), "acc": 93.1}, network).report
    assert report.place == "resnet. in net"
    assert len(report.dropped["beside the trunk"]) == 7


def test_averages_of_others_than_mmengine(check: Check) -> None:
    """Without mmengine's meta or message hub beside it, ``state_dict`` is what was trained."""
    raw, average = small(0), small(1)
    fixmatch = {"epoch": 1, "state_dict": raw.state_dict(), "ema_state_dict": average.state_dict(), "best_acc": 0.9}
    assert check(fixmatch, average).report.place == "ema_state_dict"
    callback = {"EMACallback": {"ema_state_dict": prefixed(average.state_dict(), "model.")}}
    lightning = {"state_dict": prefixed(raw.state_dict(), "model."), "callbacks": callback}
    assert check(lightning, average).report.place == "model. in callbacks.EMACallback.ema_state_dict"
    semi = {"model": prefixed(raw.state_dict(), "module."), "ema_model": prefixed(average.state_dict(), "module.")}
    assert check(semi, average).report.place == "module. in ema_model"


def test_mmengines_average_without_its_message_hub(check: Check) -> None:
    """As a script that takes checkpoints apart may leave it."""
    raw, average = prefixed(small(0).state_dict(), "backbone."), small(1)
    tree = {"meta": {}, "state_dict": prefixed(average.state_dict(), "backbone."), "ema_state_dict": raw}
    assert check(tree, average).report.place == "backbone. in state_dict"


def test_lightnings_weight_averaging(check: Check) -> None:
    """pytorch-lightning's callback saves the average in the place of the weights."""
    raw, average = parts(model=small(0)), parts(model=small(1))
    tree = {
        "state_dict": average.state_dict(), "current_model_state": raw.state_dict(),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    }  # fmt: skip
    assert check(tree, average.model).report.place == "model. in state_dict"


def test_pixpro_and_byol(check: Check) -> None:
    """A trained encoder beside its moving average, in the words of three repositories."""
    network, average = small(0), small(1)
    network.fc = average.fc = nn.Identity()
    pixpro = parts(module=parts(encoder=network, encoder_k=average, projector=nn.Conv2d(8, 8, 1)))
    assert check({"model": pixpro.state_dict()}, network).report.place == "module.encoder. in model"
    online, target = (parts(encoder=nn.Sequential(*list(body.children())[:-1])) for body in (network, average))
    tree = {"online_network_state_dict": online.state_dict(), "target_network_state_dict": target.state_dict()}
    assert check(tree, network).report.place == "encoder. in online_network_state_dict"
    byol = parts(net=network, online_encoder=parts(net=network), target_encoder=parts(net=average))
    report = check(byol.state_dict(), network).report
    assert "BYOL's online network is what is evaluated" in " ".join(report.notes)
