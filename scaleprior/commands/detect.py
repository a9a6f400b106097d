"""``scaleprior detect train|eval|score|export``: fine-tune a detector from a backbone, and measure COCO AP."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.commands.export import register_detect_export
from scaleprior.commands.tool_flags import add_process_flags, settle_processes
from scaleprior.terminal import say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from scaleprior.detect import DetectionResult
    from scaleprior.detect.calibration import Calibration
    from scaleprior.progress import ProgressFn

__all__ = ["print_results", "register"]

_WEIGHTS = (
    "backbone file, scaleprior://NAME, or a foreign file that says all that matters (default: MODEL.WEIGHTS); "
    "`scaleprior backbone convert` takes what a file does not say"
)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``detect`` parser."""
    parser = subparsers.add_parser("detect", help="fine-tune a detector from a backbone, measure its COCO AP")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    train = actions.add_parser(
        "train",
        help="fine-tune, then evaluate on DATASETS.TEST if there is one",
        description="Fine-tune a Faster R-CNN from a backbone. Ends with OUT/model.safetensors, and, where "
        "DATASETS.TEST names a set, with its COCO AP in OUT/results.json.",
    )
    train.add_argument("--weights", metavar="W", help=_WEIGHTS)
    train.add_argument("--resume", action="store_true", help="go on with the run in OUT; start one if there is none")
    train.add_argument(
        "--extend",
        action="store_true",
        help="go on with the run in OUT under a larger SOLVER.MAX_ITER; run.json and the detector tell of it",
    )
    train.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look at both sets, the weights, disk and memory first (see `scaleprior check`)",
    )
    train.set_defaults(handler=_train)

    evaluate = actions.add_parser("eval", help="evaluate a trained model file on DATASETS.TEST")
    evaluate.add_argument(
        "--weights",
        metavar="W",
        help="model file (default: MODEL.WEIGHTS among the words, else the one `train` left in OUT, else what the file "
        "says)",
    )
    evaluate.set_defaults(handler=_evaluate)

    for action in (train, evaluate):
        action.add_argument(
            "--config-file", metavar="FILE", required=True, help="YAML, e.g. COCO-Detection/faster_rcnn_R_50_FPN.yaml"
        )
        action.add_argument(
            "--engine",
            default="auto",
            metavar="NAME",
            help="auto (default), torchvision, detectron2, ...",
        )
        action.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: OUTPUT_DIR)")
        action.add_argument("--json", action="store_true", help="print the result as one JSON object")
        add_process_flags(action)
        action.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override, e.g. SEED 1")

    score = actions.add_parser(
        "score",
        help="COCO AP of any detector's results file",
        description="COCO AP of a file of detections in COCO's results format, by any detector, against a COCO "
        "instances file. Boxes are scored, and masks where detections and truth all have a segmentation. No images "
        "and no model are needed.",
    )
    score.add_argument("detections", type=Path, metavar="DETECTIONS.json", help="list of detections, as COCO wants it")
    score.add_argument("--gt", type=Path, metavar="COCO.json", required=True, help="the truth: a COCO instances file")
    score.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for results.json and dropped.json (default: none)"
    )
    score.add_argument("--json", action="store_true", help="print the result as one JSON object")
    score.set_defaults(handler=_score)
    register_detect_export(actions)

    for action in (train, evaluate, score):
        action.add_argument(
            "--drop-bad",
            choices=("none", "annotations", "images"),
            help="leave out annotations that cannot be used, or images with such; OUT/dropped.json lists them "
            "(default: SCALEPRIOR.DROP_BAD, else they are an error)",
        )


def _train(args: argparse.Namespace) -> None:
    _in_processes(_train_here, args)


def _evaluate(args: argparse.Namespace) -> None:
    _in_processes(_evaluate_here, args)


def _in_processes(work: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """``work(args)`` in the processes that the flags ask for, once they are known to make sense."""
    from scaleprior.config import load_config
    from scaleprior.detect import get_engine
    from scaleprior.detect.engines import check_processes
    from scaleprior.training.launching import check_counts, check_gpus, launch

    settle_processes(args)
    check_counts(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    engine = get_engine(args.engine)
    check_processes(engine, args.num_gpus * args.num_machines)
    loaded = load_config(args.config_file, _words(args), defaults=engine.default_config())  # wrong keys are said once
    check_gpus(loaded.cfg.MODEL.DEVICE, args.num_gpus)
    launch(
        work,
        (args,),
        processes=args.num_gpus,
        machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
    )


def _train_here(args: argparse.Namespace) -> None:
    """One process' share; of several the first speaks for all."""
    from scaleprior.config import load_config
    from scaleprior.detect import get_engine
    from scaleprior.detect.check import check_detection
    from scaleprior.detect.engines import can_extend, check_processes
    from scaleprior.detect.start import start_from
    from scaleprior.progress import progress_bar
    from scaleprior.training.processes import place_in_group

    engine, (rank, processes) = get_engine(args.engine), place_in_group()
    check_processes(engine, processes)  # of torchrun's, too
    _log_of(rank)
    further = can_extend(engine) if args.extend else {}
    loaded = load_config(args.config_file, _words(args), defaults=engine.default_config())
    out = args.out or Path(loaded.cfg.OUTPUT_DIR)
    if args.check and rank == 0:
        with progress_bar("checking", unit="images") as progress:
            report = check_detection(loaded, args.weights, out, engine=engine, processes=processes, progress=progress)
        report.refuse()
    loaded, weights = start_from(loaded, args.weights, engine)
    with _bar("fine-tuning", rank) as progress:
        model = engine.train(loaded, weights, out, resume=args.resume, progress=progress, **further)
    results: dict[str, DetectionResult] = {}
    if loaded.cfg.DATASETS.TEST:
        with _bar("evaluating", rank, unit="images") as progress:
            results = engine.evaluate(loaded, model, out, progress=progress)
    if rank == 0:
        print_results(results, engine.name, model, as_json=args.json)


def _evaluate_here(args: argparse.Namespace) -> None:
    """One process' share; of several the first speaks for all."""
    from scaleprior.config import load_config
    from scaleprior.detect import get_engine
    from scaleprior.detect.engines import check_processes
    from scaleprior.detect.start import model_to_evaluate
    from scaleprior.training.processes import place_in_group

    engine, (rank, processes) = get_engine(args.engine), place_in_group()
    check_processes(engine, processes)
    _log_of(rank)
    loaded = load_config(args.config_file, _words(args), defaults=engine.default_config())
    out = args.out or Path(loaded.cfg.OUTPUT_DIR)
    model = Path(model_to_evaluate(engine, loaded, out, given=args.weights, words=args.opts))
    with _bar("evaluating", rank, unit="images") as progress:
        results = engine.evaluate(loaded, model, out, progress=progress)
    if rank == 0:
        print_results(results, engine.name, model, as_json=args.json)


def _bar(label: str, rank: int, *, unit: str = "steps") -> contextlib.AbstractContextManager[ProgressFn | None]:
    """A bar on the terminal, of the first process."""
    from scaleprior.progress import progress_bar

    return progress_bar(label, unit=unit) if rank == 0 else contextlib.nullcontext()


def _log_of(rank: int) -> None:
    """Logging as ``main`` sets it up, for processes that we started; what all would say alike the first one says."""
    import logging

    from scaleprior.progress import StandardError

    logging.basicConfig(handlers=[StandardError("%(levelname)s %(name)s: %(message)s")])
    if rank:
        logging.getLogger("scaleprior").setLevel(logging.ERROR)


def _words(args: argparse.Namespace) -> list[str]:
    """The overrides, with the key of ``--drop-bad``."""
    return [*args.opts, *([] if args.drop_bad is None else ["SCALEPRIOR.DROP_BAD", args.drop_bad])]


def _score(args: argparse.Namespace) -> None:
    from scaleprior.detect.metrics import results_to_dict
    from scaleprior.detect.score import score_detections
    from scaleprior.pages.numbers import some

    result = score_detections(args.detections, args.gt, drop_bad=args.drop_bad or "none", out=args.out)
    if args.json:
        say_json({"truth": str(args.gt), "scored": str(args.detections), **results_to_dict({"": result})}, indent=None)
        return
    counts = f"{some(result.images or 0, 'image')}, {some(result.detections or 0, 'detection')}"
    say(f"boxes: {_said(result)} ({counts})")
    for line in _further(result, boxes="boxes: "):
        say(line)


def print_results(results: Mapping[str, DetectionResult], engine: str, model: Path, *, as_json: bool) -> None:
    """One JSON object (flat for one set, by name of the set for more), or the model's path and a line of AP per set."""

    from scaleprior.detect.metrics import results_to_dict
    from scaleprior.pages.numbers import some

    if as_json:
        say_json({"engine": engine, "model": str(model), **results_to_dict(results)}, indent=None)
        return
    say(f"model: {model}")
    for name, result in results.items():
        images = "? images" if result.images is None else some(result.images, "image")
        head = f"{name}: " if len(results) > 1 else ""
        for kind, said in (("", result), ("with test-time augmentation: ", result.augmented)):
            if said is not None:
                say(f"{head}{kind}{_said(said)} (engine {engine}, {images})")
                for line in _further(said):
                    say(f"{head}{kind}{line}")


def _said(result: DetectionResult) -> str:
    """Box AP, or without boxes the numbers of every task that are of the whole set."""
    from scaleprior.ap_names import AP_NAMES

    if result.has_boxes:
        return _figures({AP_NAMES[column]: ap for column, ap in result.named().items()})
    parts = []
    for task, figures in (result.metrics or {}).items():
        parts.append(f"{task}: {_figures({name: value for name, value in figures.items() if '-' not in name})}")
    return "; ".join(parts) or "nothing to compare with"


def _further(result: DetectionResult, *, boxes: str = "") -> list[str]:
    """Lines of AR and calibration, and those of masks, where they are known; ``boxes`` begins those of boxes."""
    from scaleprior.ap_names import AP_NAMES, AR_NAMES

    def recall(words: Mapping[str, float | None], calibration: Calibration | None) -> dict[str, float | None]:
        return {**words, **({} if calibration is None else {"D-ECE": calibration.d_ece})}

    masks = result.masks or {}
    of_masks = [{word: masks[word] for word in names.values() if word in masks} for names in (AP_NAMES, AR_NAMES)]
    lines = [
        (boxes, recall({AR_NAMES[name]: ar for name, ar in result.recalls().items()}, result.calibration)),
        ("masks: ", of_masks[0]),
        ("masks: ", recall(of_masks[1], result.masks_calibration)),
    ]
    return [f"{head}{_figures(figures)}" for head, figures in lines if figures]


def _figures(named: Mapping[str, float | None]) -> str:
    return ", ".join(f"{word} {'-' if value is None else format(value, '.2f')}" for word, value in named.items())
