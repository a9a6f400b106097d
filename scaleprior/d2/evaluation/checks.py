"""Whether the model of a config can be evaluated on its test sets, asked before anything is trained."""

from __future__ import annotations

from collections.abc import Collection

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from scaleprior.d2.evaluation.augmented import check_augmentation
from scaleprior.d2.evaluation.expected import check_expected
from scaleprior.d2.evaluation.kinds import Part, evaluator_type, missing_modules, parts_of, parts_of_kind
from scaleprior.d2.evaluation.places import check_lvis, check_places, needs_package
from scaleprior.detect.data.names import own_sets
from scaleprior.errors import UserError

__all__ = ["check_evaluation", "check_test_set"]

# What Detectron2's own architectures put into their output; of another nobody here knows it.
_GIVES = {
    "GeneralizedRCNN": {"instances"},
    "RetinaNet": {"instances"},
    "ProposalNetwork": {"proposals"},
    "SemanticSegmentor": {"sem_seg"},
    "PanopticFPN": {"instances", "sem_seg", "panoptic_seg"},
}
_WITH_MASKS = ("GeneralizedRCNN", "PanopticFPN")
_REMEDY = {
    "instances": "take a detector",
    "sem_seg": "take MODEL.META_ARCHITECTURE SemanticSegmentor or PanopticFPN",
    "panoptic_seg": "take MODEL.META_ARCHITECTURE PanopticFPN and MODEL.PANOPTIC_FPN.COMBINE.ENABLED True",
}


def check_evaluation(cfg: CfgNode, *, own_evaluators: bool = False, looked_at: Collection[str] = ()) -> None:
    """Refuse a ``DATASETS.TEST`` that the model could not be evaluated on.

    Of sets that are not registered yet only those of SCALEPRIOR.DATASETS are looked at.

    Args:
        cfg: with our keys (``add_scaleprior_config``).
        own_evaluators: the caller builds them, and nothing is known of what they need.
        looked_at: sets whose files somebody else asks for.

    Raises:
        UserError: an evaluator that nobody knows, or whose package is not installed; files that are not there; a model
            that does not put out what is evaluated; TEST.AUG and TEST.EXPECTED_RESULTS that cannot be honoured.
    """
    registered = [] if own_evaluators else [name for name in cfg.DATASETS.TEST if name in DatasetCatalog]
    for name in () if own_evaluators else own_sets(cfg):
        if name in cfg.DATASETS.TEST:  # COCO's kind, registered or not
            for part in parts_of_kind("coco"):
                _check_output(cfg, name, "coco", part)
    for name in registered:
        check_test_set(cfg, name, files=name not in looked_at)
    check_augmentation(cfg, registered)
    check_expected(cfg)


def check_test_set(cfg: CfgNode, name: str, *, files: bool = True) -> None:
    """:func:`check_evaluation` of one registered set."""
    parts, kind = parts_of(name), str(evaluator_type(name))
    for part in parts:
        _check_output(cfg, name, kind, part)
    for part in parts:
        needs_package(f"data set {name} is evaluated by {part.evaluator.__name__}", missing_modules(part.evaluator))
    if kind == "lvis":
        check_lvis()
    _check_metadata(name)
    if files:
        check_places(name, evaluated=True)


def _check_output(cfg: CfgNode, name: str, kind: str, part: Part) -> None:
    architecture = cfg.MODEL.META_ARCHITECTURE
    gives = _GIVES.get(architecture)
    if gives is None:
        return
    if architecture == "PanopticFPN" and not cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED:
        gives = gives - {"panoptic_seg"}
    if not gives & set(part.reads):
        raise UserError(
            f"data set {name} has the evaluator type {kind!r}, which measures {part.reads[0]!r}; "
            f"MODEL.META_ARCHITECTURE {architecture} puts out {', '.join(sorted(gives))}",
            hint=f"{_REMEDY[part.reads[0]]}, or leave the set out of DATASETS.TEST",
        )
    if part.masks and not (architecture in _WITH_MASKS and cfg.MODEL.MASK_ON):
        raise UserError(
            f"data set {name} has the evaluator type {kind!r}, which measures masks; MODEL.META_ARCHITECTURE is "
            f"{architecture} with MODEL.MASK_ON {cfg.MODEL.MASK_ON}",
            hint="take Mask R-CNN (MODEL.MASK_ON True), or leave the set out of DATASETS.TEST",
        )


def _check_metadata(name: str) -> None:
    """What evaluators ask a set's metadata for, and would miss at the end."""
    kind, metadata = evaluator_type(name), MetadataCatalog.get(name)
    wanted = {
        "sem_seg": ("stuff_classes", "ignore_label"),
        "coco_panoptic_seg": ("stuff_classes", "ignore_label", "sem_seg_root", "panoptic_json", "panoptic_root"),
        "pascal_voc": ("dirname", "split", "year", "thing_classes"),
        "lvis": ("json_file",),
        "cityscapes_instance": ("gt_dir", "thing_classes"),
        "cityscapes_sem_seg": ("gt_dir",),
    }.get(kind or "", ())
    missing = [key for key in wanted if metadata.get(key) is None]
    if missing == ["sem_seg_root"] and f"{name}_separated" in DatasetCatalog:
        raise UserError(
            f"data set {name} has no semantic masks, which the evaluator type {kind!r} measures, too",
            hint=f"take {name}_separated",
        )
    if missing:
        raise UserError(
            f"the metadata of data set {name} lack {', '.join(missing)}, which the evaluator type {kind!r} reads",
            hint=f"MetadataCatalog.get({name!r}).set(...)",
        )
