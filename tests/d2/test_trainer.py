"""What people override in DefaultTrainer works in ours, or it is said why not."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.modeling import build_model
from detectron2.utils.events import get_event_storage
from torch import nn

from scaleprior.d2 import Trainer, register_coco
from scaleprior.d2.data.loader import ResumableLoader
from scaleprior.d2.weights.norm_eps import trunk_eps
from scaleprior.errors import FailureError, UserError
from tests.d2.conftest import tiny
from tests.detect.conftest import data_overrides, make_coco

SHORT = [
    "SOLVER.MAX_ITER",
    "4",
    "SOLVER.STEPS",
    "(3,)",
    "SOLVER.CHECKPOINT_PERIOD",
    "2",
    "DATASETS.TEST",
    "()",
    "SOLVER.BASE_LR",
    "1e-4",
]
MAPPER: Any = DatasetMapper  # takes a config in place of its arguments, which no checker sees


class Seen(DatasetMapper):
    """A mapper of the user's: it marks what it made."""

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        return {**super().__call__(record), "mine": True}


def mine(cfg: CfgNode) -> Seen:
    make: Any = Seen
    return make(cfg, is_train=True)


class OwnMapper(Trainer):
    """As DeepLab's, PointRend's and Panoptic-DeepLab's tools do it, with our loader."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, mapper: Any = None) -> Iterable[Any]:
        return super().build_train_loader(cfg, mapper=mine(cfg))


class StockLoader(Trainer):
    """As those tools do it, to the letter."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, mapper: Any = None) -> Iterable[Any]:
        build: Any = build_detection_train_loader
        return build(cfg, mapper=mine(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        build: Any = build_detection_test_loader
        return build(cfg, dataset_name)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., CfgNode]:
    """A config for ``Trainer(cfg)``, whose data are named in SCALEPRIOR.DATASETS and registered by nobody."""
    path, root = make_coco(tmp_path / "data", images=6)

    def make(*overrides: str, out: str = "run") -> CfgNode:
        return tiny("FPN", [*data_overrides(path, root), *SHORT, "OUTPUT_DIR", str(tmp_path / out), *overrides]).cfg

    return make


def trained(kind: type[Trainer], cfg: CfgNode, *, resume: bool = False, until: int | None = None) -> Any:
    """A trainer that has trained, ``until`` a step if it is given; ``batches`` has the file names of every step."""
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)  # as default_setup does
    torch.manual_seed(0)
    trainer: Any = kind(cfg)
    trainer.batches = []
    run_step = trainer._trainer.model.forward

    def spy(batch: list[dict[str, Any]]) -> Any:
        trainer.batches.append([Path(image["file_name"]).name for image in batch])
        trainer.mine = all(image.get("mine") for image in batch)
        return run_step(batch)

    trainer._trainer.model.forward = spy
    trainer.resume_or_load(resume)
    if until is not None:
        trainer.max_iter = until
    trainer.train()
    return trainer


def test_a_mapper_of_ones_own_keeps_the_place_in_the_data(config: Callable[..., CfgNode]) -> None:
    whole = trained(OwnMapper, config(out="whole"))
    assert whole.mine
    part = trained(OwnMapper, config(out="part"), until=2)
    rest = trained(OwnMapper, config(out="part"), resume=True)
    assert part.batches + rest.batches == whole.batches
    assert len(whole.batches) == 4
    for ours, theirs in zip(rest.model.state_dict().values(), whole.model.state_dict().values()):
        assert torch.equal(ours, theirs)


def test_a_dense_detector_goes_on_with_the_mean_that_divides_its_losses(config: Callable[..., CfgNode]) -> None:
    """Detectron2 begins RetinaNet's and FCOS' again at a constant."""
    words = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"]
    words += ["MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4', 'res5']", "MODEL.RETINANET.NUM_CONVS", "1"]
    words += ["MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']", "MODEL.RETINANET.NUM_CLASSES", "2"]
    words += ["MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32], [64], [128], [256]]"]
    whole = trained(Trainer, config(*words, out="whole"))
    trained(Trainer, config(*words, out="part"), until=2)
    rest = trained(Trainer, config(*words, out="part"), resume=True)
    assert rest.start_iter == 2
    assert rest.model.loss_normalizer == whole.model.loss_normalizer


def test_any_other_loader_trains_and_a_resume_that_starts_its_data_again_is_said(
    config: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Detectron2's own set-up, by the trainer, lets its messages go no further than its handlers
    monkeypatch.setattr(logging.getLogger("detectron2.scaleprior"), "handlers", [caplog.handler])
    part = trained(StockLoader, config(), until=2)
    said = "the training loader is a AspectRatioGroupedDataset, which has no position: a resumed run takes its data"
    assert len({id(each) for each in caplog.records if said in each.getMessage()}) == 1
    rest = trained(StockLoader, config(), resume=True)
    assert rest.mine
    assert (len(part.batches), len(rest.batches)) == (2, 2)
    assert rest.batches == part.batches  # Detectron2's way; ours goes on
    assert rest.start_iter == 2
    caplog.clear()
    trained(OwnMapper, config(out="own"), until=1)
    assert said not in caplog.text


def test_errors_of_a_run_with_another_loader_are_as_clear(config: Callable[..., CfgNode]) -> None:
    """A loss that is not finite, with no images to name; an error of ours that the user's mapper raises at step 2."""
    with pytest.raises(FailureError, match=r"^step \d: [^;]*; lower SOLVER.BASE_LR") as error:
        trained(StockLoader, config("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0"))
    assert "images" not in str(error.value)

    class Refuses(StockLoader):
        @classmethod
        def build_train_loader(cls, cfg: CfgNode, mapper: Any = None) -> Iterable[Any]:
            batches = super().build_train_loader(cfg)

            def refuse() -> Iterable[Any]:
                yield from itertools.islice(batches, 3)
                raise UserError("image 4 is mine alone")

            return refuse()

    cfg = config("SOLVER.CHECKPOINT_PERIOD", "0", out="refused")
    with pytest.raises(UserError, match="image 4 is mine alone; the 3 steps before it are saved"):
        trained(Refuses, cfg)
    saved = torch.load(Path(cfg.OUTPUT_DIR) / "model_0000002.pth", weights_only=True)
    assert saved["iteration"] == saved["trainer"]["iteration"] == 2


def test_dataset_is_there(config: Callable[..., CfgNode]) -> None:
    trainer: Any = OwnMapper(config())
    dataset = trainer.data_loader.dataset
    assert len(dataset) == 6
    assert dataset[5]["mine"]
    assert {Path(dataset[i]["file_name"]).name for i in range(6)} == {f"{i:03d}.png" for i in range(6)}


def test_a_mapper_may_pass_over_images(config: Callable[..., CfgNode]) -> None:
    """In training, as Detectron2's may; another image comes in its place, the same one whenever the step is run."""
    cfg = config()
    Trainer(cfg)  # registers the data

    def but_first(record: dict[str, Any]) -> dict[str, Any] | None:
        return None if record["file_name"].endswith("000.png") else {"file_name": record["file_name"]}

    def names(start: int) -> list[list[str]]:
        loader = ResumableLoader.from_config(cfg, but_first)
        loader.go_to(start)
        return [[image["file_name"][-7:] for image in batch] for batch in itertools.islice(loader, 9)]

    plain = [
        [image["file_name"][-7:] for image in batch] for batch in itertools.islice(ResumableLoader.from_config(cfg), 9)
    ]
    found = names(0)
    assert any("000.png" in batch for batch in plain)
    assert [[b for a, b in zip(x, y) if a != "000.png"] for x, y in zip(plain, found)] == [
        [a for a in x if a != "000.png"] for x in plain
    ]
    assert not any("000.png" in batch for batch in found)
    assert names(4)[:5] == found[4:]
    with pytest.raises(UserError, match="the mapper gave nothing for 1000 images in a row"):
        next(iter(ResumableLoader.from_config(cfg, lambda record: None)))


def test_data_and_sampler_of_ones_own(config: Callable[..., CfgNode]) -> None:
    """Records that are no files, in an order of the user's; what cannot be grouped is said."""
    cfg = config("DATALOADER.ASPECT_RATIO_GROUPING", "False", "DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler")
    records = [{"number": number} for number in range(5)]
    loader = ResumableLoader.from_config(cfg, dict, dataset=records, sampler=TrainingSampler(5, shuffle=False))
    loader.go_to(1)
    assert next(iter(loader)) == [{"number": 2}, {"number": 3}]
    grouped = config("DATALOADER.ASPECT_RATIO_GROUPING", "True")
    with pytest.raises(UserError, match=r"has no width and height, .* nor 'file_name'"):
        ResumableLoader.from_config(grouped, dict, dataset=records)

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(records)

    with pytest.raises(UserError, match="the data set is a Stream, which has no places to go on from"):
        ResumableLoader.from_config(cfg, dict, dataset=cast("Any", Stream()))


class Order(HookBase):
    """Notes what the storage holds when the hook is called."""

    def after_step(self) -> None:
        get_event_storage().put_scalar("mine", self.trainer.iter, smoothing_hint=False)


class OwnHooks(Trainer):
    """Inserts a hook before the last, which in Detectron2 writes the metrics, as many recipes for a validation loss."""

    def build_hooks(self) -> list[HookBase]:
        found = super().build_hooks()
        assert isinstance(found[0], hooks.IterationTimer)
        assert isinstance(found[-1], hooks.PeriodicWriter)
        found.insert(-1, Order())
        return found


class BareHooks(Trainer):
    """Asks neither Detectron2 nor us for hooks."""

    def build_hooks(self) -> list[HookBase]:
        return [hooks.LRScheduler(), hooks.PeriodicCheckpointer(self.checkpointer, 2)]


def test_hooks_are_detectron2s_in_their_order_and_may_be_changed(config: Callable[..., CfgNode]) -> None:
    trainer = trained(OwnHooks, config())
    (line,) = [json.loads(line) for line in (Path(trainer.cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()]
    assert (line["iteration"], line["mine"]) == (3, 3)  # written in the step, not after it
    stock = [type(hook) for hook in DefaultTrainer.build_hooks(trainer) if hook is not None]
    assert [type(hook) for hook in trainer._hooks if not isinstance(hook, Order)] == stock


def test_hooks_that_are_all_the_users_still_save_our_checkpoints(config: Callable[..., CfgNode]) -> None:
    trainer = trained(BareHooks, config())
    assert type(trainer.checkpointer) is not DetectionCheckpointer
    assert all(h.checkpointer is trainer.checkpointer for h in trainer._hooks if hasattr(h, "checkpointer"))
    assert (Path(trainer.cfg.OUTPUT_DIR) / "model_final.pth").is_file()


class OwnModel(Trainer):
    """Builds the model without asking ours, and its optimiser with a group for each parameter."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        groups = [
            {"params": [p], "lr": cfg.SOLVER.BASE_LR * (0.1 if name.startswith("backbone") else 1)}
            for name, p in model.named_parameters()
        ]
        return torch.optim.AdamW(groups)


def test_a_model_and_an_optimiser_of_ones_own(config: Callable[..., CfgNode]) -> None:
    """MODEL.NORM_EPS holds all the same; a resumed run has each group's own rate."""
    words = ["MODEL.NORM_EPS", "1e-3", "SOLVER.WARMUP_ITERS", "0", "SOLVER.STEPS", "(1,)"]
    trained(OwnModel, config(*words), until=2)
    trainer: Any = OwnModel(config(*words))
    assert trunk_eps(trainer.model) == {1e-3}
    trainer.resume_or_load(True)
    assert trainer.start_iter == 2
    assert {round(group["lr"], 12) for group in trainer.optimizer.param_groups} == {1e-5, 1e-6}


def test_a_config_of_detectron2s_alone_trains(tmp_path: Path) -> None:
    """``get_cfg()`` and nothing of ours declared; what is trained is what the declared config gives."""
    path, root = make_coco(tmp_path / "data", images=4)
    register_coco("mine", path, root)
    whole = tiny("FPN", [*SHORT, "DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)"]).cfg
    cfg = get_cfg()
    known = {key: value for key, value in whole.items() if key in cfg}
    known["MODEL"] = CfgNode({key: value for key, value in whole.MODEL.items() if key in cfg.MODEL})
    cfg.merge_from_other_cfg(CfgNode(known))
    cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = str(tmp_path / "run"), 1, ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    assert "SCALEPRIOR" not in cfg
    before = cfg.dump()
    trainer = trained(Trainer, cfg)
    assert trainer._last_eval_results["bbox"]["AP"] >= 0
    assert cfg.dump() == before  # the user's own stays as it is
    assert isinstance(trainer.data_loader, ResumableLoader)
    assert Trainer.test(cfg, trainer.model)["bbox"]["AP"] == trainer._last_eval_results["bbox"]["AP"]
    assert next(iter(ResumableLoader.from_config(cfg)))


def test_trainer_registers_the_data_sets_of_its_config(config: Callable[..., CfgNode]) -> None:
    assert "tiny" not in DatasetCatalog.list()
    cfg = config("DATASETS.TEST", "('tiny',)")
    Trainer(cfg)
    assert MetadataCatalog.get("tiny").thing_classes == ["block", "square"]


def test_names_that_nobody_knows_are_left_to_the_users_loaders(config: Callable[..., CfgNode]) -> None:
    records = [{"file_name": "0.png", "width": 1, "height": 1}]

    class Own(Trainer):
        @classmethod
        def build_train_loader(cls, cfg: CfgNode, mapper: Any = None) -> Iterable[Any]:
            return [records]

        @classmethod
        def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
            return [records]

    cfg = config("DATASETS.TRAIN", "('elsewhere',)", "DATASETS.TEST", "('elsewhere_too',)")
    assert Own(cfg).data_loader == [records]
    with pytest.raises(UserError, match="elsewhere"):
        Trainer(cfg)
    with pytest.raises(UserError, match="elsewhere_too"):  # now, not when all is trained
        Trainer(config("DATASETS.TEST", "('elsewhere_too',)"))


def test_fewer_classes_than_the_data_have_are_refused_and_more_are_said(
    config: Callable[..., CfgNode], said: Callable[[str], list[str]]
) -> None:
    """Of one class too few Detectron2 makes background, without a word; the default of 80 is the tutorial's slip."""
    Trainer(config("MODEL.ROI_HEADS.NUM_CLASSES", "2"))
    assert not said("NUM_CLASSES")
    Trainer(config())
    (line,) = said("NUM_CLASSES")
    assert (
        "MODEL.ROI_HEADS.NUM_CLASSES is 80, and data set tiny has 2 classes: use MODEL.ROI_HEADS.NUM_CLASSES 2" in line
    )
    few = config("MODEL.ROI_HEADS.NUM_CLASSES", "1")
    with pytest.raises(UserError, match=r"NUM_CLASSES is 1, and data set tiny has 2 classes; use MODEL.*NUM_CLASSES 2"):
        Trainer(few)
    OwnMapper(few)  # whose mapper may have made them one
    assert said("NUM_CLASSES is 1, and data set tiny has 2 classes")
