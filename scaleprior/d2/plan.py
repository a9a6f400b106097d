"""From a config and a backbone to something that Detectron2 can start: card applied, classes counted, all checked."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode as FvcoreNode

from scaleprior.backbones.addresses import address_of, text_of
from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.contract import apply_card
from scaleprior.backbones.readers.containers import open_container
from scaleprior.backbones.trunks.selection import check_model_is_read
from scaleprior.backbones.weights import has_card, read_card
from scaleprior.backbones.zoo import local_path
from scaleprior.config import LoadedConfig, add_scaleprior_config
from scaleprior.config.dotted import flat_config, get_key, set_key
from scaleprior.config.keys.key import DETECTRON2
from scaleprior.config.seed import run_seed
from scaleprior.d2.checks import check_keys, detectron2_refuses
from scaleprior.d2.configs.config_node import ConfigNode
from scaleprior.d2.data.classes import CLASS_KEYS, SEMANTIC
from scaleprior.d2.data.datasets import check_annotated, keypoint_count, register_datasets
from scaleprior.d2.evaluation.checks import check_evaluation
from scaleprior.d2.evaluation.places import annotation_files
from scaleprior.d2.ready import scaled
from scaleprior.d2.weights.checkpoint import EXTRA_KEY
from scaleprior.d2.weights.start_detector import follow_detector, require_weights, starting_detector
from scaleprior.detect.faster_rcnn.model_file import is_model_file
from scaleprior.detect.fingerprint import run_fingerprint, run_parts, run_schedule
from scaleprior.detect.identity import tuning_of
from scaleprior.detect.plan import (
    check_class_count,
    check_same_classes,
    follow_training,
    set_names,
    starts_from_detector,
    warn_of_frozen_stages,
)
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import FailureError, UserError
from scaleprior.provenance import created_by
from scaleprior.training.device import resolve_device
from scaleprior.training.extension import Schedule
from scaleprior.wording import parameter

__all__ = [
    "Plan",
    "class_names",
    "default_config",
    "local_file",
    "open_copy",
    "plan_evaluation",
    "plan_training",
    "read_trained",
    "start_file",
]

logger = logging.getLogger(__name__)

# Detectron2 reads this behind a file's name. It asks for names to be matched by suffix, which is always done here.
_HEURISTICS = "?matching_heuristics=True"
_KEYPOINTS = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"
# Keys under MODEL that a trained detector may be evaluated under other values of.
_FREE = ("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.LOAD_PROPOSALS")


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start.

    Attributes:
        cfg: Detectron2's, frozen; what the trainer gets.
        trained: what the trained detector says of itself, or will: it goes into every checkpoint. None where a model
            is evaluated that ScalePrior did not train.
        schedule: of training: what an extended run may have longer.
        made_of: of training: see ``RunFolder``.
    """

    cfg: CfgNode
    trained: TrainedDetector | None
    schedule: Schedule | None = None
    made_of: Mapping[str, Any] = field(default_factory=dict)


def default_config() -> CfgNode:
    """Detectron2's config with our keys; ``MODEL.DEVICE`` "auto" is a GPU where there is one."""
    cfg = ConfigNode(get_cfg())
    add_scaleprior_config(cfg)
    cfg.MODEL.DEVICE = "auto"
    return cfg


def open_copy(cfg: FvcoreNode) -> CfgNode:
    """A copy that may be changed of a config that was loaded on :func:`default_config`."""
    copy = cfg.clone()
    copy.defrost()
    assert isinstance(copy, CfgNode)
    return copy


def plan_training(loaded: LoadedConfig, weights: str | Path | None, out: Path) -> Plan:
    """Apply the backbone's card and count the classes.

    Args:
        loaded: on ``default_config()``.
        weights: backbone to start from: a file with a card, ``scaleprior://NAME``, whatever Detectron2's paths know
            (``detectron2://...``), or a foreign file that says all that matters, which is converted once, into the
            cache. None = ``MODEL.WEIGHTS``; "" = from scratch. A whole detector where ``SCALEPRIOR.START`` says so.
        out: folder of the run, for ``OUTPUT_DIR``.

    Raises:
        UserError: config, data or weights do not fit each other; names the key and what to use.
    """
    weights = text_of(loaded.cfg.MODEL.WEIGHTS if weights is None else weights)
    card, start, cfg = None, {}, loaded.cfg
    if starts_from_detector(cfg):
        require_weights(weights)
        before, file = read_trained(weights), local_file(weights)
        cfg = follow_detector(loaded, weights, before, _fixed(cfg))
        start = starting_detector(weights, file)
        weights = f"{file}{_HEURISTICS}" if weights.endswith(_HEURISTICS) else str(file)
    elif weights:
        weights = str(start_file(weights))
        card = read_card(weights)
        cfg = apply_card(loaded, card)
    else:
        warn_of_frozen_stages(cfg)
    check_model_is_read(cfg)
    cfg = open_copy(cfg)
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = weights, str(out)
    cfg.SEED = run_seed(cfg)  # -1 gives every run of Detectron2's one data order and other weights
    cfg.MODEL.DEVICE = str(resolve_device(cfg.MODEL.DEVICE))
    cfg = scaled(cfg)  # before anything counts steps: what is checked, recorded and shown is what runs
    _register(cfg, "DATASETS.TRAIN")
    names = _set_classes(cfg, loaded, "DATASETS.TRAIN")
    _set_keypoints(cfg, loaded)
    cfg.freeze()
    check_keys(cfg, training=True)
    check_annotated(cfg, training=True)
    check_evaluation(cfg)
    annotations = [path for name in cfg.DATASETS.TRAIN for path in annotation_files(name)]
    detector = start.get("sha256")
    trained = TrainedDetector(
        class_names=names,
        category_ids=None,
        config=_fixed(cfg),
        card=card,
        seed=cfg.SEED,
        max_iter=cfg.SOLVER.MAX_ITER,
        fingerprint=run_fingerprint(cfg, card, annotations, detector=detector),
        created_by=created_by(),
        tuning=tuning_of(cfg),
        start=start,
    )
    schedule = run_schedule(cfg, card, annotations, detector=detector)
    return Plan(cfg, trained, schedule, run_parts(cfg, card, annotations, engine=DETECTRON2, detector=detector))


def plan_evaluation(loaded: LoadedConfig, model: str | Path, out: Path) -> Plan:
    """The config that a trained detector is evaluated under: keys that nobody set are as it was trained.

    Raises:
        UserError: no such file; a backbone; a key that was set contradicts the model; other classes.
    """
    trained = read_trained(model)
    cfg = loaded.cfg
    if trained is not None:
        cfg = follow_training(loaded, trained.config, _fixed(cfg))
    else:
        logger.warning("%s was not written by ScalePrior: nothing says which config it was trained with", model)
    cfg = open_copy(cfg)
    text = text_of(model)  # with what Detectron2 reads of it: an address, and the query behind a name
    file = text if address_of(text) is not None or text.endswith(_HEURISTICS) else str(local_path(text))
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = file, str(out)
    cfg.MODEL.DEVICE = str(resolve_device(cfg.MODEL.DEVICE))
    _register(cfg, "DATASETS.TEST")
    if trained is not None:
        for name in cfg.DATASETS.TEST:
            check_same_classes(f"data set {name}", class_names(name), trained.class_names)
    else:
        _set_classes(cfg, loaded, "DATASETS.TEST")
    check_keys(cfg, training=False)
    check_annotated(cfg, training=False)
    check_evaluation(cfg)
    cfg.freeze()
    return Plan(cfg, trained)


def read_trained(model: str | Path) -> TrainedDetector | None:
    """What our engine or tool wrote into a checkpoint; None for a file of Detectron2's own.

    Raises:
        UserError: no such file, a damaged one, a backbone, or a detector of the torchvision engine.
    """
    path = local_file(model)
    if not path.is_file():
        raise UserError(f"model not found: {model}", hint="give the model_final.pth that training wrote")
    if has_card(path):
        raise UserError(f"{model} is a backbone, not a trained detector", hint="fine-tune it first, or train with it")
    if is_model_file(path):
        raise UserError(
            f"{model} is a detector of the torchvision engine",
            hint=f"evaluate it with {parameter('engine', 'torchvision')}, or give a model_final.pth",
        )
    if path.suffix != ".pth":
        return None
    content = open_container(path).tree
    text = content.get(EXTRA_KEY) if isinstance(content, dict) else None
    raw = json.loads(text) if isinstance(text, str) else None
    # A Trainer that no plan stands behind said {} at first.
    return TrainedDetector.from_dict(raw, where=str(model)) if raw else None


def class_names(name: str) -> tuple[str, ...]:
    """Classes 0, 1, ... of a registered data set; of one for semantic segmentation alone, those of its pixels."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and metadata.get("stuff_classes") is None:
        with detectron2_refuses():
            DatasetCatalog.get(name)  # Detectron2 learns them when it reads the annotations
    names = metadata.get("thing_classes") or metadata.get("stuff_classes")
    if names is None:
        raise UserError(
            f"data set {name} says not which classes it has",
            hint=f"MetadataCatalog.get({name!r}).thing_classes = [...]",
        )
    return tuple(names)


def local_file(weights: str | Path) -> Path:
    """The file behind a path, or an address that Detectron2 knows; it need not be there, unless it is downloaded first.

    Raises:
        FailureError: the download failed.
        UserError: the zoo has no such name; an address that Detectron2 does not know either.
    """
    text = text_of(weights).removesuffix(_HEURISTICS)
    if address_of(text) is None:
        return local_path(text)
    try:
        found = PathManager.get_local_path(text)
    except OSError as e:
        raise FailureError(
            f"MODEL.WEIGHTS {text} cannot be had: {e}", hint="download it by other means and give its path"
        ) from e
    # It takes an address that it does not know for a path.
    return local_path(text) if found == text else Path(found)


def start_file(weights: str | Path) -> Path:
    """The canonical file to start from: of a path, a name of the zoo, or what Detectron2's paths know.

    Raises:
        UserError, FailureError: as :func:`local_file` and ``canonical_file``.
    """
    text = text_of(weights).removesuffix(_HEURISTICS)
    return canonical_file(text if address_of(text) is None else local_file(text)).absolute()


def _register(cfg: CfgNode, key: str) -> None:
    set_names(cfg, key)
    if key == "DATASETS.TEST":  # what a detector was trained on need not be here to evaluate it
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TRAIN = ()
    register_datasets(cfg)


def _set_classes(cfg: CfgNode, loaded: LoadedConfig, sets: str) -> tuple[str, ...]:
    """The classes of the data sets under the key ``sets``, whose number is set for every head that has one.

    Raises:
        UserError: the sets differ, or another number was set for the detector that is built.
    """
    first, *others = get_key(cfg, sets)
    names = class_names(first)
    for other in others:
        if class_names(other) != names:
            raise UserError(f"{first} and {other} in {sets} have different classes", hint="use sets with the same ones")
    stuff = MetadataCatalog.get(first).get("stuff_classes") or ()
    for key, architectures in CLASS_KEYS.items():
        count = len(stuff) if key == SEMANTIC else len(names)
        if count and cfg.MODEL.META_ARCHITECTURE in architectures:
            check_class_count(loaded, key, count, first)
        if count:
            set_key(cfg, key, count)
    return names


def _set_keypoints(cfg: CfgNode, loaded: LoadedConfig) -> None:
    """As many keypoints as an object of the first training set has, unless somebody said a number."""
    count = keypoint_count(cfg.DATASETS.TRAIN[0])
    if count is not None and _KEYPOINTS not in loaded.explicit:
        set_key(cfg, _KEYPOINTS, count)


def _fixed(cfg: FvcoreNode) -> dict[str, Any]:
    """The keys that a detector's weights depend on, with their values in JSON's types."""
    values = {k: v for k, v in flat_config(cfg) if k == "INPUT.FORMAT" or (k.startswith("MODEL.") and not _is_free(k))}
    return json.loads(json.dumps(values))


def _is_free(key: str) -> bool:
    return key in _FREE or "TEST" in key.rsplit(".", 1)[-1]
