"""Every declared detection key: Detectron2's default, and read by the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

import scaleprior.config
from scaleprior.config import LoadedConfig, load_config
from scaleprior.config.defaults import add_detection_config
from scaleprior.errors import UserError
from tests.detect.conftest import add_outlines, data_overrides, make_coco, tiny_config


def _leaves(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for name, value in node.items():
        leaves.update(_leaves(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {f"{prefix}{name}": value})
    return leaves


def _declared() -> dict[str, Any]:
    cfg = CfgNode()
    add_detection_config(cfg)
    return _leaves(cfg)


def test_defaults_are_detectron2s_but_for_the_device() -> None:
    path = Path(scaleprior.config.__file__).parent / "detectron2_defaults.json"
    theirs = json.loads(path.read_text())
    ours = json.loads(json.dumps({k: v for k, v in _declared().items() if not k.startswith("SCALEPRIOR.")}))
    assert ours.pop("MODEL.DEVICE") == "auto"
    assert ours == {key: theirs[key] for key in ours}


@pytest.mark.detectron2
def test_types_are_detectron2s() -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.config import get_cfg

    theirs = _leaves(get_cfg())
    for key, value in _declared().items():
        if not key.startswith("SCALEPRIOR."):
            assert type(value) is type(theirs[key]), key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.META_ARCHITECTURE", "RetinaNet"),
        ("MODEL.KEYPOINT_ON", "True"),
        ("INPUT.CROP.ENABLED", "True"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"),
        ("SOLVER.NUM_DECAYS", "5"),
    ],
)
def test_a_key_of_detectron2_that_is_not_honoured_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{key}.*needs the detectron2 engine"):
        load_config(None, [key, value])


class _Recording(CfgNode):
    """Remembers the dotted names of the keys that are looked up."""

    seen: set[str] = set()  # noqa: RUF012 (shared by all nodes on purpose)

    def __getattr__(self, name: str) -> Any:
        self._note(name)
        return super().__getattr__(name)

    def __getitem__(self, name: str) -> Any:
        self._note(name)
        return super().__getitem__(name)

    def _note(self, name: str) -> None:
        if dict.__contains__(self, name):
            _Recording.seen.add(self.__dict__["_path"] + name)


def _record(node: CfgNode, path: str = "") -> _Recording:
    copy = _Recording()
    copy.__dict__["_path"] = path
    for name, value in node.items():
        dict.__setitem__(copy, name, _record(value, f"{path}{name}.") if isinstance(value, CfgNode) else value)
    return copy


def _unseen(function: Callable[[CfgNode], Any]) -> Callable[[CfgNode], Any]:
    """``function``, whose look-ups do not count."""

    def call(cfg: CfgNode) -> Any:
        before = set(_Recording.seen)
        try:
            return function(cfg)
        finally:
            _Recording.seen = before

    return call


def test_every_key_is_read_by_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation looks at every key, so its look-ups do not count: what remains has to use them."""
    from scaleprior.detect.faster_rcnn import claiming, engine as torchvision_engine, model, model_file as weights

    for module in (model, claiming, torchvision_engine):
        monkeypatch.setattr(module, "check_keys", _unseen(module.check_keys))
    monkeypatch.setattr(weights, "fixed_values", _unseen(weights.fixed_values))
    engine = torchvision_engine.TorchvisionEngine()
    data = [*data_overrides(*make_coco(tmp_path / "data", change=add_outlines)), "SOLVER.MAX_ITER", "1"]
    _Recording.seen.clear()
    cases = [
        ("C4", ["MODEL.MASK_ON", "True"]),
        ("FPN", ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"]),
        ("FPN", ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"]),
        ("FPN", ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"]),
    ]
    for number, (kind, overrides) in enumerate(cases):
        loaded = tiny_config(kind, [*data, *overrides])
        loaded = LoadedConfig(_record(loaded.cfg), loaded.explicit, loaded.source)
        out = tmp_path / str(number)
        engine.evaluate(loaded, engine.train(loaded, None, out), out)
    # The commands read OUTPUT_DIR. The others have one legal value per architecture, which check_keys enforces.
    elsewhere = {"OUTPUT_DIR", "VERSION", "MODEL.ROI_BOX_HEAD.NAME", "MODEL.ROI_MASK_HEAD.NAME"}
    assert set(_declared()) - _Recording.seen == elsewhere
