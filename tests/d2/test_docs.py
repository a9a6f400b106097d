"""The snippets of docs/detectron2.md about trainers of one's own, run as they are typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyConfig
from omegaconf import DictConfig

import scaleprior.model_zoo
from tests.d2.conftest import backbone_file
from tests.d2.test_model_zoo import PROJECT, SMALL
from tests.detect.conftest import make_coco

PAGE = Path(__file__).resolve().parents[2] / "docs" / "detectron2.md"


def snippet(having: str) -> str:
    (found,) = [text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if having in text]
    return found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Runs a snippet beside a backbone and two classes of data; what it trains is made small behind its back."""
    monkeypatch.chdir(tmp_path)
    backbone_file(tmp_path / "r152.safetensors")
    path, root = make_coco(tmp_path / "made")
    (tmp_path / "train.json").write_bytes(path.read_bytes())
    (tmp_path / "images").symlink_to(root)
    build = scaleprior.model_zoo.with_backbone

    def small(*args: Any, **kwargs: Any) -> Any:
        cfg = build(*args, **kwargs)
        if not isinstance(cfg, DictConfig):
            kept = dict(zip(SMALL[::2], SMALL[1::2]))
            del kept["DATASETS.TRAIN"], kept["DATASETS.TEST"]
            cfg.merge_from_list([word for pair in kept.items() for word in pair])
        return cfg

    monkeypatch.setattr(scaleprior.model_zoo, "with_backbone", small)

    def execute(code: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(compile(code, str(PAGE), "exec"), names)
        return names

    return execute


def test_a_trainer_of_ones_own(run: Callable) -> None:
    names = run(snippet("DefaultTrainer(cfg)"))
    assert names["cfg"].MODEL.RETINANET.NUM_CLASSES == 2
    assert names["trainer"].iter == 3
    assert names["trainer"].model.head.cls_score.out_channels == 2 * 9  # classes, and anchors of a cell
    assert Path("output/model_final.pth").is_file()


def test_a_projects_config(run: Callable) -> None:
    from detectron2.projects import point_rend

    file = Path(point_rend.__file__).parents[1] / "configs" / PROJECT
    if not file.is_file():
        pytest.skip(f"this Detectron2 came without its projects ({file})")
    code = snippet("add_pointrend_config(cfg)").replace(file.name, str(file))  # who types it stands in its folder
    cfg = run(code)["cfg"]
    assert (cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.ROI_MASK_HEAD.NAME) == (16, "PointRendMaskHead")


def test_a_file_for_the_lazy_tool(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(snippet("lr_multiplier, train = ("))
    cfg = LazyConfig.load(str(tmp_path / "mine.py"))
    assert {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= set(cfg)
    assert (cfg.train.max_iter, cfg.train.init_checkpoint) == (90_000, "r152.safetensors")
    assert cfg.dataloader.test.mapper.image_format == "RGB"
