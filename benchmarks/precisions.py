"""Does a detector that was fine-tuned in float16 or bfloat16 measure what one in float32 measures? In both engines.

    python benchmarks/precisions.py                              # on a GPU about two minutes; on a CPU see below
    python benchmarks/precisions.py --data FOLDER --backbone W.safetensors --config COCO-Detection/small_images_FPN.yaml

The same backbone is fine-tuned on the same data under the same YAML (``engines.py``, whose world and backbone these are
by default) in float32, in float16 with a scaled loss and in bfloat16, with several seeds; each detector is evaluated in
float32. On a CPU Detectron2 mixes no precisions, and float16 is many times slower: there it is the torchvision engine
in float32 and bfloat16.

Runs with one seed see the same images in the same order and begin with the same weights; but a rounding decides which
regions are sampled, so that after a few steps they differ as two seeds do, and only means can be compared. Peer of each
is float32 in the same engine. Tolerance of the difference of the means: Student's t (95 %, 2n - 2 degrees of freedom)
times its standard error, but at least 1 AP; where that reach is above 3 AP the test is too blunt, and is not met.

All runs are processes of one thread, as many at once as ``--jobs``; seed after seed, so that what has no time left is
missing in every row alike.
"""

from __future__ import annotations

import argparse
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

from benchmarks import engines
from benchmarks.commit import commit
from benchmarks.engines import AP, ENGINES, RESOLUTION

PRECISIONS = ("float32", "float16", "bfloat16")
Key = tuple[str, str, int]
"""(engine, precision, seed)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with instances_{train,val}.json and {train,val}/ or tars")
    parser.add_argument("--backbone", type=Path, help="canonical file; default: pretrain one on the synthetic world")
    parser.add_argument("--config", default="COCO-Detection/quickstart_FPN.yaml", help="detection config")
    parser.add_argument("--steps", type=int, default=160, help="of fine-tuning (default 160)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds, from 0 (default 3)")
    parser.add_argument("--jobs", type=int, help="processes at once (default: all on a GPU, 2 on a CPU)")
    parser.add_argument("--seconds", type=float, default=600.0, help="in all, at most (default 600)")
    parser.add_argument("--world", type=int, nargs=3, default=[2560, 320, 256], metavar=("CORPUS", "TRAIN", "VAL"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY VALUE", help="further keys, for all runs")
    parser.set_defaults(masks=False)
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds {args.seeds}: a standard deviation needs 2 at least")
    with tempfile.TemporaryDirectory() as folder:
        report(args, Path(folder))
    return 0


def report(args: argparse.Namespace, folder: Path) -> None:
    import torch

    gpu = torch.cuda.is_available()
    deadline = time.monotonic() + args.seconds
    torch.set_num_threads(4 if gpu else 1)
    sets, weights = engines.prepare(args, folder)
    jobs = jobs_of(args, sets, weights, folder, gpu=gpu)
    print(f"{len(jobs)} runs, {deadline - time.monotonic():.0f} s left", flush=True)
    processes = args.jobs or (len(jobs) if gpu else 2)
    with ThreadPoolExecutor(processes) as pool:
        found = dict(zip(jobs, pool.map(lambda job: run(job, deadline), jobs.values())))
    figures = table({key: value["AP"] for key, value in found.items() if "AP" in value}, range(args.seeds))
    failed = {"-".join(map(str, key)): value["failed"] for key, value in found.items() if "failed" in value}
    for name, why in failed.items():
        print(f"{name}: {why}")
    met = bool(figures) and not failed and all(row["met"] for row in figures.values() if "met" in row)
    device = torch.cuda.get_device_name() if gpu else "CPU"
    said = {"bench": "precisions", "device": device, "torch": torch.__version__, "figures": figures, "failed": failed}
    print(json.dumps({**said, "targets": {"ap": AP, "reach": RESOLUTION}, "met": met, "commit": commit()}))


def jobs_of(
    args: argparse.Namespace, sets: Sequence[Sequence[str]], weights: Path, folder: Path, *, gpu: bool
) -> dict[Key, dict[str, Any]]:
    """What ``engines.run_job`` takes, for every run that the device can make, seed after seed."""
    train, val = (repr((entry[0],)) for entry in sets)
    jobs = {}
    for seed in range(args.seeds):
        for engine in ENGINES if gpu else ENGINES[:1]:
            for precision in PRECISIONS if gpu else ("float32", "bfloat16"):
                words = [
                    *("SCALEPRIOR.DATASETS", repr([list(entry) for entry in sets]), "DATASETS.TRAIN", train),
                    *("DATASETS.TEST", val, "SOLVER.MAX_ITER", str(args.steps), "SOLVER.CHECKPOINT_PERIOD", "0"),
                    *("MODEL.DEVICE", "cuda" if gpu else "cpu", "SEED", str(seed), *precision_words(precision)),
                    *args.set,
                ]
                out = str(folder / f"{engine}-{precision}-{seed}")
                job = {"engine": engine, "config": args.config, "words": words, "out": out, "weights": str(weights)}
                jobs[engine, precision, seed] = job
    return jobs


def precision_words(precision: str) -> list[str]:
    if precision == "float32":
        return []
    return ["SOLVER.AMP.ENABLED", "True", "SCALEPRIOR.AMP_DTYPE", precision]


def run(job: Mapping[str, Any], deadline: float) -> dict[str, Any]:
    """What a run found, in a process of its own, or why it did not."""
    left = deadline - time.monotonic()
    if left <= 0:
        return {"failed": "no time was left"}
    out = Path(job["out"])
    out.mkdir()
    (out / "job.json").write_text(json.dumps(job))
    line = [sys.executable, str(Path(engines.__file__)), "--job", str(out / "job.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=left, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {left:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads((out / "done.json").read_text())


def table(aps: Mapping[Key, float], seeds: Sequence[int]) -> dict[str, Any]:
    """The rows of what is there; those of float16 and bfloat16 with their difference from float32."""
    columns = "".join(f"{f'seed {seed}':>9}" for seed in seeds)
    print(f"\n{'AP, fine-tuned in':30}{columns}{'mean':>9}{'sd':>7}{'- float32':>11}{'tolerance':>11}")
    figures: dict[str, Any] = {}
    for engine in ENGINES:
        single = [aps[engine, PRECISIONS[0], seed] for seed in seeds if (engine, PRECISIONS[0], seed) in aps]
        for precision in PRECISIONS:
            values = {seed: aps[engine, precision, seed] for seed in seeds if (engine, precision, seed) in aps}
            if len(values) < 2:
                continue
            row: dict[str, Any] = {"ap": list(values.values()), "mean": statistics.mean(values.values())}
            row["sd"] = statistics.stdev(values.values())
            if precision != PRECISIONS[0] and len(single) > 1:
                row |= compared(single, row["ap"])
            cells = "".join(f"{values[seed]:9.2f}" if seed in values else f"{'-':>9}" for seed in seeds)
            more = f"{row['difference']:+11.2f}{row['tolerance']:11.2f}" if "met" in row else ""
            print(f"{f'{engine} {precision}':30}{cells}{row['mean']:9.2f}{row['sd']:7.2f}{more}")
            figures[f"{engine} {precision}"] = {k: rounded(v) for k, v in row.items()}
    return figures


def compared(single: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """The difference of the means of two samples, and what it may be."""
    from scipy.stats import t

    error = (statistics.variance(single) / len(single) + statistics.variance(other) / len(other)) ** 0.5
    reach = float(t.ppf(0.975, len(single) + len(other) - 2)) * error
    difference, tolerance = statistics.mean(other) - statistics.mean(single), max(reach, AP)
    met = abs(difference) <= tolerance and reach <= RESOLUTION
    return {"difference": difference, "reach": reach, "tolerance": tolerance, "met": met}


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
