"""``scaleprior.detect(...)``: fine-tune a detector and measure its COCO AP, from a Python program or a notebook."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.config.sources import ConfigSource, open_config
from scaleprior.detect.data.problems import DropBad
from scaleprior.detect.engines import Engine, can_extend, check_processes, get_engine
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn, watched

if TYPE_CHECKING:
    from scaleprior.backbones.backbone import Backbone
    from scaleprior.config import LoadedConfig
    from scaleprior.detect.metrics import DetectionResult

__all__ = ["DetectRun", "detect"]

DataSource = str | tuple[str | Path, str | Path]
"""A detection set: its name (``coco_2017_val``, or of ``SCALEPRIOR.DATASETS``), or (COCO JSON, folder of images)."""


@dataclass(frozen=True)
class DetectRun:
    """What :func:`detect` left.

    Attributes:
        model: the trained detector's file.
        engine: name of the engine that made and measured it; AP of different engines are not mixed in one law.
        results: COCO AP by set of ``DATASETS.TEST``; empty if there is none.
    """

    model: Path
    engine: str
    results: Mapping[str, DetectionResult]

    @property
    def ap(self) -> float:
        """AP in [0, 100] on the one set that was evaluated.

        Raises:
            UserError: there are none or several; ``results`` has them by name.
        """
        if len(self.results) != 1:
            raise UserError(
                f"{len(self.results)} sets were evaluated: {', '.join(self.results)}", hint="take `results`"
            )
        (result,) = self.results.values()
        return result.ap


def detect(
    config: ConfigSource,
    out: str | Path | None = None,
    *,
    weights: str | Path | Backbone | None = None,
    model: str | Path | None = None,
    train: DataSource | None = None,
    val: DataSource | None = None,
    engine: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    extend: bool = False,
    drop_bad: DropBad | None = None,
    check: bool = True,
    progress: ProgressFn | bool = False,
) -> DetectRun:
    """Fine-tune a detector from a backbone, then measure its COCO AP; with ``model``, measure only.

    ::

        sp.detect("COCO-Detection/faster_rcnn_R_50_FPN_jft10m.yaml", out="det", weights="r50/backbone.safetensors",
                  train=("instances_train.json", "images"), val=("instances_val.json", "images"))

    Under torchrun every process calls this with the same arguments (torchvision engine); process 0 writes.

    Args:
        config: a YAML file, by path or by its name in ``configs/``; a mapping of keys; or a config that is loaded.
        out: folder of the run; by default the config's ``OUTPUT_DIR``.
        weights: the backbone: a file of any known kind, ``timm:NAME``, ``scaleprior://NAME``, or one in memory; by
            default ``MODEL.WEIGHTS``.
        model: a trained detector to evaluate in place of training one.
        train, val: sets in place of ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        engine: ``auto``, ``torchvision``, ``detectron2``, or one that another package announces.
        overrides: other keys, ``{"SOLVER.MAX_ITER": 10}`` or nested.
        resume: go on with a run of the same config in ``out``; start one if there is none.
        extend: go on with the run in ``out`` under a larger ``SOLVER.MAX_ITER`` (and other ``SOLVER.STEPS``), which
            ``run.json`` and the detector then tell of: it is not the run that was trained so from the start.
        drop_bad: leave out "annotations" that cannot be used, or the "images" that have such, instead of refusing the
            set (``SCALEPRIOR.DROP_BAD``); ``out/dropped.json`` lists them.
        check: look at both sets, the weights, disk and memory before anything is trained; see ``scaleprior.check``.
        progress: True for a bar on the terminal; or a function that is called with (done, total, numbers), once a step
            and then once an image.

    Raises:
        UserError: config, data or weights are not fit, or contradict each other; nothing is written then.
        FailureError: the loss is not finite, or the disk is full.
    """
    if model is not None and (weights is not None or train is not None or resume or extend):
        raise UserError(
            "model is a trained detector, which is only evaluated", hint="leave out weights, train, resume, extend"
        )
    from scaleprior.detect.start import start_from
    from scaleprior.training.processes import place_in_group

    chosen = get_engine(engine)
    rank, processes = place_in_group()
    check_processes(chosen, processes)
    further = can_extend(chosen) if extend else {}
    loaded = open_config(config, overrides, defaults=chosen.default_config())
    loaded = open_config(loaded, _dataset_keys(loaded, train, val))
    if drop_bad is not None:
        loaded = open_config(loaded, {"SCALEPRIOR.DROP_BAD": drop_bad})
    folder = Path(out or loaded.cfg.OUTPUT_DIR)
    if model is None:
        with _named(weights) as named:
            if check and rank == 0:  # who looks for all
                _check(chosen, loaded, named, folder, progress, processes)
            loaded, start = start_from(loaded, named, chosen)
            with watched(progress, "fine-tuning") as report:
                trained = chosen.train(loaded, start, folder, resume=resume, progress=report, **further)
    else:
        trained = Path(model)  # engines put an address right that became a path
    return DetectRun(trained, chosen.name, _evaluate(chosen, loaded, trained, folder, progress))


def _check(
    engine: Engine,
    loaded: LoadedConfig,
    start: str | Path | None,
    out: Path,
    progress: ProgressFn | bool,
    processes: int,
) -> None:
    """Refuse what would stop the run."""
    from scaleprior.detect.check import check_detection

    # a function of the caller's counts steps
    with watched(progress is True, "checking", unit="images") as report:
        check_detection(loaded, start, out, engine=engine, processes=processes, progress=report).refuse()


def _evaluate(
    engine: Engine, loaded: LoadedConfig, model: Path, out: Path, progress: ProgressFn | bool
) -> Mapping[str, DetectionResult]:
    if not loaded.cfg.DATASETS.TEST:
        return {}
    with watched(progress, "evaluating", unit="images") as report:
        return engine.evaluate(loaded, model, out, progress=report)


def _dataset_keys(loaded: LoadedConfig, train: DataSource | None, val: DataSource | None) -> dict[str, Any]:
    """``DATASETS`` and ``SCALEPRIOR.DATASETS`` for sets that are given by name or by files."""
    keys: dict[str, Any] = {}
    own = [list(entry) for entry in loaded.cfg.SCALEPRIOR.DATASETS]
    stems = [Path(source[0]).stem for source in (train, val) if source is not None and not isinstance(source, str)]
    for key, role, source in (("DATASETS.TRAIN", "train", train), ("DATASETS.TEST", "val", val)):
        if source is None:
            continue
        if isinstance(source, str):
            name = source
        else:
            if len(source) != 2:
                raise UserError(f"{role} is {source!r}", hint="give a set's name, or its JSON and its folder of images")
            json, images = (str(Path(place).absolute()) for place in source)
            name = Path(json).stem if len(set(stems)) == len(stems) else f"{Path(json).stem}_{role}"
            own.append([name, json, images])
        keys[key] = (name,)
    return {**keys, "SCALEPRIOR.DATASETS": own} if keys else {}


@contextlib.contextmanager
def _named(weights: str | Path | Backbone | None) -> Iterator[str | Path | None]:
    """What names the backbone; one in memory is a file within the block.

    That one is not in the run's folder, whose files the engine alone writes, once it has checked all; the trained
    model carries the card, and a run that goes on has the weights in its checkpoint.
    """
    from scaleprior.backbones.backbone import Backbone

    if not isinstance(weights, Backbone):
        yield weights
        return
    with tempfile.TemporaryDirectory(prefix="scaleprior-") as folder:
        start = Path(folder) / "start.safetensors"
        weights.save(start)
        yield start
