"""From trained detectors to laws: the rows that an engine writes are told apart where they must be."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from scaleprior.backbones import Card, ResNetSpec, build_resnet, save_backbone, to_detectron2
from scaleprior.config import get_cfg
from scaleprior.detect.engines import get_engine
from scaleprior.laws import fit_table, read_table
from scaleprior.pretrain.recipe import recipe_of
from tests.detect.conftest import data_overrides, make_coco, tiny_config

NARROW = ResNetSpec(depth=50, res2_out_channels=16, width_per_group=4)
PIXELS = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB")


def backbone(path: Path, images: int) -> Path:
    """As pretraining saves one: a rung of a ladder."""
    torch.manual_seed(images)
    cfg = get_cfg()
    cfg.PRETRAIN.FRACTION.IMAGES = images
    facts = {"images": images, "steps": 4, "corpus": {"name": "photos", "fingerprint": str(images)}}
    card = Card(path.stem, NARROW, *PIXELS, recipe=recipe_of(cfg), **facts)
    save_backbone(path, to_detectron2(build_resnet(NARROW).state_dict()), card)
    return path


def test_one_ladder_under_two_detectors_is_two_laws(tmp_path: Path) -> None:
    data = data_overrides(*make_coco(tmp_path / "data", images=2))
    results = tmp_path / "all.csv"
    engine = get_engine("torchvision")
    for kind in ("FPN", "C4"):
        for images in (100, 1000, 10000):
            weights, out = tmp_path / f"{images}.safetensors", tmp_path / f"{kind}{images}"
            words = [*data, "SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "1", "SCALEPRIOR.RESULTS", str(results)]
            loaded = tiny_config(kind, words)
            engine.evaluate(loaded, engine.train(loaded, backbone(weights, images), out), out)
    rows = list(csv.DictReader(results.open()))
    assert {row["batch_size"] for row in rows} == {"1"}
    assert {row["comparable"] for row in rows} == {"yes"}
    assert {row["corpus"] for row in rows} == {"photos"}
    for column, values in (
        ("recipe", 1),
        ("settings", 1),
        ("detector_settings", 2),
        ("detector", 2),
        ("images", 3),
        ("run", 6),
    ):
        assert len({row[column] for row in rows}) == values, column
    table = read_table(results)
    names = [f"R-50-w4, detector build_resnet{kind}_backbone" for kind in ("_fpn", "")]
    assert {name: series.images for name, series in table.series.items()} == {
        name: [100, 1000, 10000] for name in names
    }
    assert list(fit_table(table, unit="percent")) == names
