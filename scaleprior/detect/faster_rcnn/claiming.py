"""What a run of the torchvision engine is made of, and whose folder it wants: settled before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import apply_card
from scaleprior.backbones.weights import read_card
from scaleprior.config import LoadedConfig
from scaleprior.config.seed import run_seed
from scaleprior.detect.data.coco import DetectionSet, dataset_paths, load_dataset
from scaleprior.detect.faster_rcnn import model_file as weights_io
from scaleprior.detect.faster_rcnn.keys import check_keys
from scaleprior.detect.faster_rcnn.trainer import checkpoint_steps
from scaleprior.detect.fingerprint import run_fingerprint, run_parts, run_schedule
from scaleprior.detect.plan import check_class_count, set_names
from scaleprior.detect.workers import check_share, other_schedule_told, scaled
from scaleprior.errors import UserError
from scaleprior.provenance import created_by
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.crews import TRAINED_BY
from scaleprior.training.run_folder import RunFolder

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["MODEL_FILE", "TrainingPlan", "claim", "last_crew", "load_sets", "plan_training"]

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
_ENGINE = "torchvision"


@dataclass(frozen=True)
class TrainingPlan:
    """A run that could start.

    Attributes:
        cfg: the backbone's card applied, classes counted, scaled to the processes.
        start: the backbone's canonical file. card: its card. Both None from scratch.
        sets: to train on.
    """

    cfg: CfgNode
    start: Path | None
    card: Card | None
    sets: Sequence[DetectionSet]


def plan_training(loaded: LoadedConfig, weights: Path | str | None, *, processes: int) -> TrainingPlan:
    """Read the card and the sets, and settle the config.

    Args:
        weights: as for ``engines.Engine.train``.
        processes: that share out a batch.

    Raises:
        UserError: config, data or weights are not fit.
    """
    if weights is None and loaded.cfg.MODEL.WEIGHTS:
        weights = loaded.cfg.MODEL.WEIGHTS
    start = None if weights is None else canonical_file(weights)
    card = None if start is None else read_card(start)
    loaded = loaded if card is None else LoadedConfig(apply_card(loaded, card), loaded.explicit, loaded.source)
    cfg = scaled(loaded.cfg, processes)  # before anything counts steps
    check_share(cfg, processes)
    sets = load_sets(cfg, "DATASETS.TRAIN")
    for name in cfg.DATASETS.TEST:
        dataset_paths(name, cfg)  # a wrong name should not show only after the training
    cfg = _with_classes(LoadedConfig(cfg, loaded.explicit, loaded.source), sets[0])
    check_keys(cfg)
    return TrainingPlan(cfg, start, card, sets)


def claim(
    plan: TrainingPlan, out: Path, *, processes: int, resume: bool = False, extend: bool = False
) -> tuple[RunFolder, bool]:
    """The folder that the run may use, and whether it holds this very run, finished; nothing is written.

    Raises:
        UserError: another run is to be resumed, or one that cannot be extended.
    """
    cfg, card, sources = plan.cfg, plan.card, [data.source for data in plan.sets]
    identity = {
        "fingerprint": run_fingerprint(cfg, card, sources),
        "seed": run_seed(cfg),
        "created_by": created_by(),
    }
    schedule = run_schedule(cfg, card, sources)
    made_of = run_parts(cfg, card, sources, engine=_ENGINE)
    folder = RunFolder(out, identity, parts="config, backbone or data", schedule=schedule, made_of=made_of)
    if not (resume or extend):
        return folder, False
    with other_schedule_told(cfg, out, now=processes, then=last_crew(folder)):
        folder = folder.resumed(extend=extend, steps_done=lambda: _steps_done(out)) or folder
    target = out / MODEL_FILE
    finished = target.is_file() and weights_io.read_trained(target).fingerprint == folder.fingerprint
    if finished:
        logger.info("%s is complete", target)
    return folder, finished


def last_crew(folder: RunFolder) -> int | None:
    """How many processes trained the run in the folder last; None where there is none, or nobody knows."""
    crews = (folder.known() or {}).get(TRAINED_BY)
    last = crews[-1] if isinstance(crews, list) and crews else None
    number = last.get("processes") if isinstance(last, dict) else None
    return number if isinstance(number, int) else None


def load_sets(cfg: CfgNode, key: str) -> list[DetectionSet]:
    """The sets under ``key``, "DATASETS.TRAIN" or "DATASETS.TEST".

    Raises:
        UserError: there are none, one is not fit, or they have different categories.
    """
    sets = [load_dataset(name, cfg, evaluated=key == "DATASETS.TEST") for name in set_names(cfg, key)]
    for other in sets[1:]:
        if (other.category_ids, other.class_names) != (sets[0].category_ids, sets[0].class_names):
            raise UserError(
                f"{sets[0].name} and {other.name} in {key} have different categories",
                hint="use sets with the same ones",
            )
    return sets


def _steps_done(out: Path) -> int:
    """Of the checkpoint to go on from.

    Raises:
        UserError: the run is finished.
    """
    steps = checkpoint_steps(Checkpoints(out))
    if steps is not None:
        return steps
    if (out / MODEL_FILE).is_file():
        raise UserError(
            f"{out} holds a finished run, which the torchvision engine cannot extend: its optimiser's state was "
            f"removed when {MODEL_FILE} was written",
            hint="train anew in another folder; the detectron2 engine keeps what a finished run needs to go on",
        )
    return 0


def _with_classes(loaded: LoadedConfig, data: DetectionSet) -> CfgNode:
    """The config with NUM_CLASSES of the data.

    Raises:
        UserError: it was set to another number.
    """
    classes = len(data.class_names)
    check_class_count(loaded, "MODEL.ROI_HEADS.NUM_CLASSES", classes, data.source)
    cfg = loaded.cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    cfg.freeze()
    return cfg
