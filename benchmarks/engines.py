"""Two engines, one experiment: does Detectron2 measure what the torchvision engine measures?

    python benchmarks/engines.py                                 # a synthetic world, about six minutes on two cores
    python benchmarks/engines.py --masks                         # Mask R-CNN: AP of boxes and of masks
    python benchmarks/engines.py --data FOLDER --backbone W.safetensors --config COCO-Detection/small_images_FPN.yaml

Peer: Detectron2 itself. Three questions, from the exact to the noisy:

1. Features: res4, res5 and the pyramid of one backbone file in timm, the torchvision engine and Detectron2 (R-50 and
   R-152, C4 and FPN). Largest difference relative to a map's largest value; float32 allows 1e-4.
2. Evaluation: every detector that was trained is also evaluated by the other engine. Same weights, so AP may
   differ only by rounding, of floats and of resized pixels, where it turns the order of detections: 0.2 AP.
3. Training: the same backbone is fine-tuned by both engines on the same data under the same YAML, with several seeds.
   The engines share no random stream (fresh layers, order of images, flips, sampled anchors and regions), so two runs
   with one seed differ as two seeds differ, and only means can be compared. The difference of means has the standard
   error se = s * sqrt(2 / n), s the pooled standard deviation over seeds. Tolerance: t * se with Student's 95 %
   quantile for 2n - 2 degrees of freedom (2.78 for 3 seeds), but at least 1 AP: less is no difference to a study whose
   own seeds scatter by about that. A test that could not see 3 AP (t * se above it) proves nothing, and is not met.

With ``--masks`` all of this holds for the AP of masks, too, whose figures begin with "mask_".

A step's cost is the median CPU time of the process between two steps, loading included, with one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit
from scaleprior.errors import FailureError, ScalePriorError, UserError

ENGINES = ("torchvision", "detectron2")
FEATURES, SAME_WEIGHTS, AP, RESOLUTION = 1e-4, 0.2, 1.0, 3.0  # targets; the last three in AP
_WORLD_SPEC = Path(__file__).with_suffix(".yaml")
_ERROR = "benchmarks/engines.py: error: "
_WARM_UP = 3  # steps that are not timed, where there are more
_MASKS = (  # a narrow head, as the other parts of the default config are
    *("MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.NUM_CONV", "2", "MODEL.ROI_MASK_HEAD.CONV_DIM", "64"),
    *("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "2"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with instances_{train,val}.json and {train,val}/ or tars")
    parser.add_argument("--backbone", type=Path, help="canonical file; default: pretrain one on the synthetic world")
    parser.add_argument("--config", default="COCO-Detection/quickstart_FPN.yaml", help="detection config")
    parser.add_argument("--steps", type=int, default=240, help="of fine-tuning (default 240)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds, from 0 (default 3)")
    parser.add_argument("--depths", type=int, nargs="*", default=[50, 152], help="of the table of features")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread (default 2; 0: this one alone)")
    parser.add_argument("--world", type=int, nargs=3, default=[2560, 320, 256], metavar=("CORPUS", "TRAIN", "VAL"))
    parser.add_argument("--masks", action="store_true", help="train Mask R-CNN; of --data, sets with segmentations")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY VALUE", help="further keys, for both engines")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        if args.job:
            run_job(args.job)
            return 0
        if args.seeds < 2:
            raise UserError(f"--seeds {args.seeds}", hint="a standard deviation needs 2 at least")
        if args.steps < 2:
            raise UserError(f"--steps {args.steps}", hint="the time between two steps needs 2 at least")
        import scaleprior.d2  # noqa: F401 (says what is wrong where Detectron2 is not there)

        with tempfile.TemporaryDirectory() as folder:
            report(args, Path(folder))
    except ScalePriorError as e:
        print(f"{_ERROR}{e}", file=sys.stderr)
        return e.exit_code
    return 0


def report(args: argparse.Namespace, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    figures = features(args.depths, folder)
    sets, weights = prepare(args, folder)
    runs = train_all(args, sets, weights, folder)
    crossed = evaluate_crosswise(runs, folder, args.jobs)
    targets = {"feature_difference": FEATURES}
    for prefix in ("", "mask_") if args.masks else ("",):
        figures |= table(runs, crossed, prefix)
        targets |= {
            f"{prefix}ap_same_weights": SAME_WEIGHTS,
            f"{prefix}ap_difference": max(figures[f"{prefix}ap_t_times_se"], AP),
            f"{prefix}ap_t_times_se": RESOLUTION,
        }
    figures |= costs(runs)
    met = all(abs(figures[name]) <= limit for name, limit in targets.items())
    if not met:
        print("NOT MET: " + ", ".join(n for n, limit in targets.items() if abs(figures[n]) > limit))
    print(json.dumps({"bench": "engines", "figures": figures, "targets": targets, "met": met, "commit": commit()}))


def features(depths: Sequence[int], folder: Path) -> dict[str, Any]:
    import torch

    from benchmarks import parity

    image = torch.randint(0, 256, (3, 96, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    columns = "".join(f"{name:>22}" for name in ("torchvision : timm", "detectron2 : timm", "detectron2 : torchv."))
    print(f"{'largest relative difference':32}{columns}")
    found: dict[str, Any] = {"feature_difference": 0.0}
    for depth in depths:
        path = folder / f"r{depth}.safetensors"
        model = parity.write_timm_backbone(depth, path)
        with torch.inference_mode():
            reference = parity.timm_features(model, image)
        for kind in parity.KINDS:
            detectors = parity.build_detectors(kind, depth, path)
            for row in parity.compare_features(kind, image, reference, *detectors):
                name = f"R-{depth} {kind} {row.name}"
                values = (row.torchvision, row.detectron2, row.engines)
                cells = (f"{'-' if v is None else f'{v:.1e}':>22}" for v in values)
                print(f"{name:32}{''.join(cells)}", flush=True)
                found[name] = float(f"{row.largest:.3g}")
                found["feature_difference"] = max(found["feature_difference"], found[name])
        path.unlink()
    return found


def prepare(args: argparse.Namespace, folder: Path) -> tuple[list[list[str]], Path]:
    """Data sets as ``SCALEPRIOR.DATASETS`` takes them, and the backbone that both engines start from."""
    from scaleprior.config import load_config
    from scaleprior.pretrain import pretrain
    from scaleprior.study.prepare import prepare_data
    from scaleprior.study.spec import load_spec

    sets: list[list[str]] = []
    if args.data is not None:
        for split in ("train", "val"):
            images = args.data / split if (args.data / split).is_dir() else args.data / f"{split}-*.tar"
            sets.append([split, str((args.data / f"instances_{split}.json").absolute()), str(images.absolute())])
    if sets and args.backbone is not None:
        return sets, args.backbone.absolute()
    corpus, train, val = args.world
    sizes = ["corpus.world.images", str(corpus), "detection.world.train", str(train), "detection.world.val", str(val)]
    sizes += ["detection.world.masks", "true"] if args.masks else []
    spec = load_spec(_WORLD_SPEC, sizes)
    data = prepare_data(spec, folder / "world")
    sets = sets or [list(data.train), list(data.val)]
    if args.backbone is not None:
        return sets, args.backbone.absolute()
    held_out = min(512, corpus // 4)
    words = [
        *("PRETRAIN.CORPUS", str(data.corpus), "PRETRAIN.FRACTION.IMAGES", str(corpus - held_out)),
        *("PRETRAIN.HELD_OUT.IMAGES", str(held_out), "PRETRAIN.NOISE.RATE", str(spec.noise["rate"]), "SEED", "0"),
        *("PRETRAIN.BATCH_SIZE", str(min(64, corpus - held_out)), "MODEL.RESNETS.DEPTH", "50"),
        *("PRETRAIN.CHECKPOINT_PERIOD", "1000000", "PRETRAIN.BUDGET.AMOUNT", str(float(min(180, corpus)))),
    ]
    start = time.process_time()
    result = pretrain(load_config(spec.pretrain.config, words), folder / "pretrain", resume=False)
    print(f"\nbackbone: R-50-w16 pretrained on {corpus - held_out:,} images, {time.process_time() - start:.0f} CPU s")
    return sets, result.backbone


def train_all(args: argparse.Namespace, sets: list[list[str]], weights: Path, folder: Path) -> dict[tuple, dict]:
    """Results of every (engine, seed), each trained and evaluated in a process of its own."""
    jobs = {}
    train, val = (repr((entry[0],)) for entry in sets)
    for seed in range(args.seeds):
        for engine in ENGINES:
            words = [
                *("SCALEPRIOR.DATASETS", repr(sets), "DATASETS.TRAIN", train, "DATASETS.TEST", val),
                *("SOLVER.MAX_ITER", str(args.steps), "SOLVER.CHECKPOINT_PERIOD", "1000000", "MODEL.DEVICE", "cpu"),
                *("SEED", str(seed), *(_MASKS if args.masks else ()), *args.set),
            ]
            out = str(folder / f"{engine}-{seed}")
            jobs[engine, seed] = {"engine": engine, "config": args.config, "words": words, "out": out}
            jobs[engine, seed]["weights"] = str(weights)
    return run_all(jobs, args.jobs)


def evaluate_crosswise(runs: Mapping[tuple, dict], folder: Path, processes: int) -> dict[tuple, dict]:
    """Results of every trained detector by the engine that did not train it; keys as those of the training."""
    jobs = {}
    for engine, seed in runs:
        other = ENGINES[1 - ENGINES.index(engine)]
        model = folder / f"{engine}-{seed}-for-{other}{Path(runs[other, seed]['model']).suffix}"
        hand_over(Path(runs[engine, seed]["model"]), Path(runs[other, seed]["model"]), model)
        job = {k: runs[other, seed]["job"][k] for k in ("config", "words", "engine")}
        jobs[engine, seed] = {**job, "model": str(model), "out": str(model.with_suffix(""))}
    return run_all(jobs, processes)


def hand_over(source: Path, like: Path, target: Path) -> None:
    """Write the weights of ``source``, of one engine, as a file of the other engine, such as ``like``."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    if like.suffix == ".pth":
        state = torch.load(like, map_location="cpu", weights_only=True)
        tensors = load_file(source)
        if missing := {n for n in state["model"] if not n.endswith("num_batches_tracked")} ^ set(tensors):
            raise FailureError(f"the engines' models have different tensors, such as {min(missing)}")
        torch.save({**state, "model": tensors}, target)
        return
    with safe_open(like, framework="pt") as file:
        metadata = file.metadata()
    tensors = torch.load(source, map_location="cpu", weights_only=True)["model"]
    kept = {n: t.contiguous() for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    save_file(kept, target, metadata=metadata)


def run_all(jobs: Mapping[tuple, dict], processes: int) -> dict[tuple, dict]:
    def run(job: dict) -> dict:
        out = Path(job["out"])
        out.mkdir()
        (out / "job.json").write_text(json.dumps(job))
        if not processes:
            run_job(out / "job.json")
            return {**json.loads((out / "done.json").read_text()), "job": job}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--job", str(out / "job.json")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            kind = UserError if done.returncode == UserError.exit_code else FailureError
            raise kind(f"{out.name}: {last.removeprefix(_ERROR)}")
        return {**json.loads((out / "done.json").read_text()), "job": job}

    pool = ThreadPoolExecutor(max(processes, 1))
    try:
        return dict(zip(jobs, pool.map(run, jobs.values())))
    finally:
        pool.shutdown(cancel_futures=True)  # where one failed, the others are not started


def run_job(path: Path) -> None:
    """One engine's training and evaluation, or evaluation alone, in this process."""
    import cv2
    import torch

    from scaleprior.config import load_config
    from scaleprior.d2.engine import Detectron2Engine
    from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    job, out = json.loads(path.read_text()), path.parent
    engine = {kind.name: kind for kind in (TorchvisionEngine, Detectron2Engine)}[job["engine"]]()
    loaded = load_config(job["config"], job["words"], defaults=engine.default_config())
    marks: list[float] = []
    model = Path(job["model"]) if "model" in job else None
    if model is None:
        progress = lambda done, total, numbers: marks.append(time.process_time())  # noqa: E731
        model = engine.train(loaded, Path(job["weights"]), out, progress=progress)
    steps = [b - a for a, b in itertools.pairwise(marks)]
    (result,) = engine.evaluate(loaded, model, out).values()
    numbers = {"AP": result.ap, "AP50": result.ap50}
    if result.masks is not None:
        numbers |= {f"mask_{name}": result.masks[name] for name in ("AP", "AP50")}
    if steps:
        numbers["step_s"] = statistics.median(steps[_WARM_UP:] or steps)
    (out / "done.json").write_text(json.dumps({**numbers, "model": str(model)}))


def table(runs: Mapping[tuple, dict], crossed: Mapping[tuple, dict], prefix: str = "") -> dict[str, Any]:
    """Print and return what both engines measured.

    Args:
        prefix: "" of boxes, "mask_" of masks.
    """
    from scipy.stats import t

    seeds, ap = sorted({seed for _, seed in runs}), f"{prefix}AP"
    columns = "".join(f"{f'seed {s}':>9}" for s in seeds) + f"{'mean':>9}{'sd':>7}"
    what = "mask AP" if prefix else "AP"
    print(f"\n{f'{what}, trained and evaluated by':38}{columns}")
    figures: dict[str, Any] = {}
    for engine in ENGINES:
        aps = [runs[engine, seed][ap] for seed in seeds]
        mean, sd = statistics.mean(aps), statistics.stdev(aps)
        print(f"{engine:38}" + "".join(f"{each:9.2f}" for each in aps) + f"{mean:9.2f}{sd:7.2f}")
        other = ENGINES[1 - ENGINES.index(engine)]
        print(f"{f'  the same, evaluated by {other}':38}" + "".join(f"{crossed[engine, s][ap]:9.2f}" for s in seeds))
        figures |= {f"{engine}_ap": aps, f"{engine}_mean": mean, f"{engine}_sd": sd}
        figures[f"{engine}_ap50_mean"] = statistics.mean(runs[engine, seed][f"{ap}50"] for seed in seeds)
    differences = [runs["detectron2", s][ap] - runs["torchvision", s][ap] for s in seeds]
    mean = statistics.mean(differences)
    print(f"{'detectron2 - torchvision':38}" + "".join(f"{d:9.2f}" for d in differences) + f"{mean:9.2f}")
    error = ((figures["torchvision_sd"] ** 2 + figures["detectron2_sd"] ** 2) / len(seeds)) ** 0.5
    reach = float(t.ppf(0.975, 2 * len(seeds) - 2)) * error
    same = max(abs(runs[key][ap] - crossed[key][ap]) for key in runs)
    tolerance = f"tolerance {max(reach, AP):.2f} AP (t * se {reach:.2f}, at least {AP})"
    print(f"difference of the means {mean:.2f}, standard error {error:.2f}, {tolerance}")
    print(f"the same weights in both engines: at most {same:.3f} AP apart (tolerance {SAME_WEIGHTS})")
    figures |= {
        "ap_differences": differences,
        "ap_difference": mean,
        "ap_se": error,
        "ap_t_times_se": reach,
        "ap_same_weights": same,
    }
    return {f"{prefix}{k}": _rounded(v) for k, v in figures.items()}


def costs(runs: Mapping[tuple, dict]) -> dict[str, float]:
    """Print and return what a step of training takes in each engine."""
    found = [
        statistics.median(run["step_s"] for (name, _), run in runs.items() if name == engine) for engine in ENGINES
    ]
    ratio = found[1] / found[0]
    print(f"CPU s a step: torchvision {found[0]:.3f}, detectron2 {found[1]:.3f}, ratio {ratio:.2f}")
    named = {f"{engine}_step_cpu_s": seconds for engine, seconds in zip(ENGINES, found)}
    return {name: _rounded(value) for name, value in {**named, "step_cpu_ratio": ratio}.items()}


def _rounded(value: Any) -> Any:
    return [round(x, 4) for x in value] if isinstance(value, list) else round(value, 4)


if __name__ == "__main__":
    sys.exit(main())
