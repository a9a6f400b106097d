"""Which of Detectron2's evaluators a data set gets, by its ``evaluator_type``: those of its own ``tools/train_net.py``.

And what each of them needs of the model, and of Python's packages, so that it can be asked for before the training.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from types import FunctionType

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

from scaleprior.d2.evaluation.coco import Evaluator
from scaleprior.errors import UserError

__all__ = ["Part", "build_evaluator", "evaluator_type", "imported_late", "missing_modules", "parts_of", "parts_of_kind"]


@dataclass(frozen=True)
class Part:
    """One evaluator of a kind of sets.

    Attributes:
        evaluator: the class.
        build: (config, data set, output folder) -> the evaluator.
        reads: entries of the model's output of which one has to be there.
        masks: the instances have to have masks.
    """

    evaluator: type[DatasetEvaluator]
    build: Callable[[CfgNode, str, str], DatasetEvaluator]
    reads: tuple[str, ...]
    masks: bool = False


_COCO = Part(
    Evaluator,
    lambda cfg, name, out: Evaluator(name, out, oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS),
    ("instances", "proposals"),
)
_SEM_SEG = Part(SemSegEvaluator, lambda cfg, name, out: SemSegEvaluator(name, output_dir=out), ("sem_seg",))
_KINDS = {
    "coco": (_COCO,),
    "sem_seg": (_SEM_SEG,),
    "coco_panoptic_seg": (
        _SEM_SEG,
        _COCO,
        Part(COCOPanopticEvaluator, lambda cfg, name, out: COCOPanopticEvaluator(name, out), ("panoptic_seg",)),
    ),
    "cityscapes_instance": (
        Part(
            CityscapesInstanceEvaluator,
            lambda cfg, name, out: CityscapesInstanceEvaluator(name),
            ("instances",),
            masks=True,
        ),
    ),
    "cityscapes_sem_seg": (
        Part(CityscapesSemSegEvaluator, lambda cfg, name, out: CityscapesSemSegEvaluator(name), ("sem_seg",)),
    ),
    "pascal_voc": (
        Part(PascalVOCDetectionEvaluator, lambda cfg, name, out: PascalVOCDetectionEvaluator(name), ("instances",)),
    ),
    "lvis": (
        Part(LVISEvaluator, lambda cfg, name, out: LVISEvaluator(name, output_dir=out), ("instances", "proposals")),
    ),
}


def evaluator_type(name: str) -> str | None:
    """What the registered set ``name`` says of its evaluation."""
    return MetadataCatalog.get(name).get("evaluator_type")


def parts_of(name: str) -> tuple[Part, ...]:
    """The evaluators of the registered set ``name``.

    Raises:
        UserError: it names none, or one that Detectron2's own tool does not know either.
    """
    kind = evaluator_type(name)
    if kind not in _KINDS:
        known = ", ".join(_KINDS)
        said = "says not how it is evaluated" if kind is None else f"has the evaluator type {kind!r}"
        raise UserError(
            f"data set {name} {said}",
            hint=f"set MetadataCatalog.get({name!r}).evaluator_type to one of {known}, override build_evaluator, or "
            "leave the set out of DATASETS.TEST",
        )
    return _KINDS[kind]


def parts_of_kind(kind: str) -> tuple[Part, ...]:
    """The evaluators of an evaluator type that is known."""
    return _KINDS[kind]


def build_evaluator(cfg: CfgNode, name: str, output_folder: str) -> DatasetEvaluator:
    """What evaluates the registered set ``name``, writing into ``output_folder``.

    Raises:
        UserError: as :func:`parts_of`.
    """
    evaluators = [part.build(cfg, name, output_folder) for part in parts_of(name)]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def missing_modules(user: type | FunctionType) -> list[str]:
    """Modules of other packages that ``user`` imports only when it is called, and that are not installed here.

    Detectron2's evaluators and loaders import their packages (lvis, panopticapi, Cityscapes' scripts) inside their
    functions, under names that have changed; what this Detectron2 imports is therefore read from its source.
    """
    return [module for module in imported_late(user) if not _is_there(module)]


def imported_late(user: type | FunctionType) -> list[str]:
    """Modules that are imported inside the functions of the module that defines ``user``; of a function, in itself."""
    source = inspect.getsource(user if inspect.isfunction(user) else sys.modules[user.__module__])
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    found = [module for function in functions for module in _imports(function)]
    return [module for module in dict.fromkeys(found) if module.split(".")[0] != "detectron2"]


def _imports(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _is_there(module: str) -> bool:
    try:
        return module in sys.modules or find_spec(module) is not None
    except (ImportError, ValueError):  # a package above it is missing; or it is half imported
        return False
