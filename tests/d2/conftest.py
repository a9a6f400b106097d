"""Small configs, data and backbones for the tests of the plugin, which run under the real Detectron2."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from scaleprior.backbones import (
    Card,
    ResNetSpec,
    TimmSpec,
    build_resnet,
    build_trunk,
    save_backbone,
    to_detectron2,
)
from scaleprior.config import LoadedConfig, load_config
from tests.backbones.trunks.test_trunk import randomise_norms
from tests.detect.conftest import TINY, TINY_FPN, data_overrides, make_coco

HALF = (127.5, 127.5, 127.5)
# The narrow trunk of TINY, and detections of anything at all, so that AP is a number after a few steps.
NARROW = ResNetSpec(depth=50, res2_out_channels=16, width_per_group=4)
FEW_STEPS = ["SOLVER.MAX_ITER", "6", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.001"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_data_sets(request: pytest.FixtureRequest) -> Iterator[None]:
    """Data sets that a test registers are gone after it: Detectron2's catalogues belong to the process."""
    if request.node.get_closest_marker("detectron2") is None:
        yield
        return
    catalogs = pytest.importorskip("detectron2.data", reason="Detectron2 is not installed")
    before = set(catalogs.DatasetCatalog.list())
    yield
    for name in set(catalogs.DatasetCatalog.list()) - before:
        catalogs.DatasetCatalog.remove(name)
        catalogs.MetadataCatalog.remove(name)


@pytest.fixture
def detectron2_loggers() -> Iterator[None]:
    """What Detectron2's set-up does to its loggers is undone."""
    from detectron2.utils import logger as detectron2_logger

    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [(each.handlers[:], each.propagate, each.level) for each in loggers]
    yield
    for each, (handlers, each.propagate, level) in zip(loggers, before):
        each.handlers[:] = handlers
        each.setLevel(level)
    detectron2_logger.setup_logger.cache_clear()
    detectron2_logger._cached_log_stream.cache_clear()


def backbone_file(path: Path, spec: ResNetSpec = NARROW, *, seed: int = 0, **card: object) -> Card:
    """A canonical file with random weights and norm statistics; RGB, [-1, 1]."""
    torch.manual_seed(seed)
    trunk = build_resnet(spec, zero_init_last=False)
    randomise_norms(trunk)
    facts = {"pixel_mean": HALF, "pixel_std": HALF, "channel_order": "RGB", "images": 1000, **card}
    return save_backbone(path, to_detectron2(trunk.state_dict()), Card(name=path.stem, arch=spec, **facts))


def timm_file(path: Path, model: str) -> Path:
    """A canonical file of a trunk of timm's as it is initialised; RGB, [-1, 1]."""
    torch.manual_seed(0)
    spec = TimmSpec(model)
    facts = {"pixel_mean": HALF, "pixel_std": HALF, "channel_order": "RGB", "images": 1000}
    card = Card(name=path.stem, arch=spec, norm_eps=spec.family.eps, **facts)
    save_backbone(path, build_trunk(spec).canonical_state(), card)
    return path


def tiny(kind: str, overrides: Sequence[str] = ()) -> LoadedConfig:
    """A config of kind "C4" or "FPN" for Detectron2 that trains in seconds; pixel statistics are left to the card."""
    from scaleprior.d2.plan import default_config

    base = "Base-RCNN-C4.yaml" if kind == "C4" else "Base-RCNN-FPN.yaml"
    words = [*(TINY if kind == "C4" else TINY_FPN), *FEW_STEPS, *overrides]
    loaded = load_config(f"COCO-Detection/{base}", words, defaults=default_config())
    pixels = {"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"}
    return LoadedConfig(loaded.cfg, loaded.explicit - pixels, loaded.source)


@pytest.fixture
def coco(tmp_path: Path) -> list[str]:
    """Overrides that train and evaluate on one small set."""
    path, root = make_coco(tmp_path / "data", images=8)
    return data_overrides(path, root)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    backbone_file(tmp_path / "w.safetensors")
    return str(tmp_path / "w.safetensors")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """Gives the plugin's warnings since the last call that hold a text, whoever sets Detectron2's loggers up."""
    ours = logging.getLogger("detectron2.scaleprior")
    monkeypatch.setattr(ours, "propagate", False)  # its parent may hand on to pytest or not
    ours.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING)

    def said(text: str) -> list[str]:
        found = [r.getMessage() for r in caplog.records if text in r.getMessage() and "scaleprior" in r.name]
        caplog.clear()
        return found

    yield said
    ours.removeHandler(caplog.handler)
