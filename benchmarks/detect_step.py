"""A step of fine-tuning and an inference, the torchvision engine against Detectron2: ms, memory, ratio.

    python benchmarks/detect_step.py                     # on a GPU under four minutes; on a CPU about three, narrow
    python benchmarks/detect_step.py --baseline FOLDER   # also against the torchvision engine of another checkout
    python benchmarks/detect_step.py --only "R-50 FPN" --seconds 60
    python benchmarks/detect_step.py --only "256 train" --step-mode graph     # small steps recorded as CUDA graphs

Peer, in the same process, taking turns with ours: Detectron2's own trainer (``SimpleTrainer``, ``AMPTrainer``) and its
model, with the same weights under its own names. A step is forward, backward and update of 16 images of noise with
about seven boxes each, which wait on the CPU as uint8 in one ready batch, as both loaders give them; with its copy to
the device, its figures and its loss scaling, without decoding. An inference is of 16 images, at 800 pixels four at a
time. On a GPU in float32, float16 and bfloat16 (autocast), R-50 and R-152, FPN and C4, at 800 x 1216 and 256 x 344
pixels. Both engines have torch's own settings: TF32 in convolutions and not in products, no search of cuDNN's.

Times are of blocks of steps, the device waited for at both ends; on a CPU of the process' own time with one thread, for
others use the machine, too. A ratio is the median over the blocks of Detectron2's time by ours next to it. Memory is
what tensors took at most, without the other engine's weights.

Targets. GPU: every row faster than Detectron2; under AMP at 800 pixels steps 1.3 times as fast; no row with more
memory; at 256 pixels steps 3 times as fast as the baseline's. CPU (float32, narrow, 4 images of 160 x 192): steps 1.3
times as fast, no inference slower. A detector is a process, which is asked for one row after the other, the more
important first; rows for which no time is left are named, and their targets are not met.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit
from benchmarks.detect_pair import Pair, Row

_ROOT = Path(__file__).resolve().parents[1]
FASTER, WITH_AMP, BASELINE, ON_CPU = 1.0, 1.3, 3.0, 1.3
_BUDGET = 230.0  # seconds of a GPU
_START = 90.0  # seconds in which a process has built its detectors
_ROW = 8.0  # seconds after which a row begins no third block
# The order of the rows: those with the smallest sum of these first.
_LATER = {"float32": 1, 256: 2, 152: 4, "bfloat16": 8, "inference": 16, "C4": 0.5}
_COLUMNS = ("torchvision_ms", "detectron2_ms", "ratio", "torchvision_gib", "detectron2_gib", "memory_ratio")


def rows_of(*, gpu: bool) -> list[Row]:
    """All rows, the more important first."""
    kinds, depths, works = ("FPN", "C4"), (50, 152), ("train", "inference")
    precisions, sizes = (("float16", "float32", "bfloat16"), (800, 256)) if gpu else (("float32",), (160,))
    images = 16 if gpu else 4
    rows = [
        Row(kind, depth, precision, size, work, images)
        for kind in kinds
        for depth in depths
        for precision in precisions
        for size in sizes
        for work in works
    ]
    return sorted(rows, key=lambda row: sum(_LATER.get(value, 0) for value in asdict(row).values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, help=f"in all, at most (default {_BUDGET:g} on a GPU, 900 on a CPU)")
    parser.add_argument("--baseline", type=Path, help="another checkout, whose torchvision engine is measured, too")
    parser.add_argument("--only", default="", help="rows that hold all of these words, such as 'R-50 FPN train'")
    parser.add_argument(
        "--step-mode",
        default="eager",
        choices=("eager", "graph"),
        help="SCALEPRIOR.STEP_MODE of our steps at 256 pixels",
    )
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "DEPTH"), help=argparse.SUPPRESS)
    parser.add_argument("--code", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        if args.code is not None:
            sys.path.insert(0, str(args.code))
        serve(args.serve[0], int(args.serve[1]), peer=args.code is None, mode=args.step_mode)
        return 0
    import torch

    gpu = torch.cuda.is_available()
    rows = [row for row in rows_of(gpu=gpu) if all(word in str(row).split() for word in args.only.split())]
    if not rows:
        parser.error(f"no row holds {args.only!r}; they are called such as {str(rows_of(gpu=gpu)[0])!r}")
    seconds = args.seconds or (_BUDGET if gpu else 900.0)
    report(rows, gpu=gpu, baseline=args.baseline, seconds=seconds, mode=args.step_mode)
    return 0


def serve(kind: str, depth: int, *, peer: bool, mode: str = "eager") -> None:
    """Build a detector, say so, and answer every row on standard input with its figures, each a line of JSON."""
    import torch

    gpu = torch.cuda.is_available()
    torch.set_num_threads(4 if gpu else 1)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    warm = 5 if mode == "graph" else 2 if gpu else 1  # the fourth step of a size is the first that is recorded
    pair = Pair(kind, depth, peer=peer, narrow=not gpu, mode=mode)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        row = Row(**json.loads(line))
        steps = (2 if row.size >= 800 else 5) if gpu else 1
        try:
            found = pair.measure(row, warm=warm, blocks=3 if gpu else 5, steps=steps, seconds=_ROW)
        except Exception as e:  # a row of its own, such as one without memory; the next may do
            found = {"failed": f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"}
        pair.tidy()  # here, where the error and what its frames hold on to are gone
        print(json.dumps(found), file=answers, flush=True)


class Worker:
    """A process with one detector.

    Args:
        code: another checkout whose torchvision engine it holds, alone; None = both engines of this one.
        mode: see ``Pair``.
    """

    def __init__(self, kind: str, depth: int, code: Path | None = None, *, mode: str = "eager") -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (close() does)
        line = [sys.executable, str(Path(__file__).resolve()), "--serve", kind, str(depth)]
        line += ["--step-mode", mode] if code is None else ["--code", str(code.resolve())]
        paths = os.pathsep.join(filter(None, (str(code or _ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._failed = ""

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ready(self, limit: float) -> None:
        """Wait until the detector is built."""
        self._answer(limit)

    def ask(self, row: Row, limit: float) -> dict[str, Any]:
        """Its figures of ``row``, or why there are none; a process that is not done in ``limit`` seconds is ended."""
        if self._failed or limit <= 0:
            return {"failed": self._failed or "no time was left"}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asdict(row)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._failed = self._last_words()
            return {"failed": self._failed}
        return self._answer(limit)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _answer(self, limit: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=max(limit, 0.1))
        except queue.Empty:
            self._failed = f"not done in {limit:.0f} s"
            self._process.kill()
            return {"failed": self._failed}
        if not line:
            self._failed = self._last_words()
            return {"failed": self._failed}
        return json.loads(line)

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or [f"exit code {self._process.returncode}"])[-1]


def report(rows: Sequence[Row], *, gpu: bool, baseline: Path | None, seconds: float, mode: str = "eager") -> None:
    import torch

    deadline = time.monotonic() + seconds
    pairs = dict.fromkeys((row.kind, row.depth) for row in rows)
    # On a GPU all are built at once, and none is timed before all are. A CPU has no room for that.
    workers = {pair: Worker(*pair, mode=mode) for pair in pairs} if gpu else {}
    before = {pair: Worker(*pair, baseline) for pair in pairs if pair[1] == 50} if gpu and baseline else {}
    for worker in (*workers.values(), *before.values()):
        worker.ready(min(_START, deadline - time.monotonic()))
    figures: dict[str, Any] = {}
    print(
        f"{'':38}"
        + "".join(f"{name.replace('detectron2', 'd2'):>16}" for name in _COLUMNS if gpu or "_gib" not in name)
    )
    try:
        for row in rows if gpu else sorted(rows, key=lambda row: (row.kind, row.depth)):
            pair = row.kind, row.depth
            if pair not in workers:
                workers[pair] = Worker(*pair, mode=mode)
                workers[pair].ready(_START)
            found = workers[pair].ask(row, deadline - time.monotonic())
            if row.work == "train" and row.size == 256 and row.precision != "bfloat16" and pair in before:
                then = before[pair].ask(row, deadline - time.monotonic())
                found["baseline_ms"] = then.get("torchvision_ms", then.get("failed"))
                if "torchvision_ms" in then and "torchvision_ms" in found:
                    found["by_baseline"] = then["torchvision_ms"] / found["torchvision_ms"]
            figures[str(row)] = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}
            print(line_of(row, found, gpu=gpu), flush=True)
    finally:
        for worker in (*workers.values(), *before.values()):
            worker.close()
    targets = gpu_targets(rows, figures) if gpu else cpu_targets(rows, figures)
    for name, target in targets.items():
        print(f"{'met' if target['met'] else 'NOT MET':8}{name}: {target['figure']}, target {target['target']}")
    device = torch.cuda.get_device_name() if gpu else "CPU, one thread, narrow"
    said = {"bench": "detect_step", "device": device, "step_mode": mode, "torch": torch.__version__, "figures": figures}
    met = all(target["met"] for target in targets.values())
    print(json.dumps({**said, "targets": targets, "met": met, "commit": commit()}))


def line_of(row: Row, found: Mapping[str, Any], *, gpu: bool) -> str:
    if "failed" in found:
        return f"{row!s:38}{found['failed']}"
    cells = [found.get(name) for name in _COLUMNS if gpu or not ("_gib" in name or "memory" in name)]
    text = "".join(f"{'-':>16}" if value is None else f"{value:16.2f}" for value in cells)
    if "by_baseline" in found:
        text += f"   {found['by_baseline']:.2f} times the baseline's {found['baseline_ms']:.0f} ms"
    return f"{row!s:38}{text}"


def gpu_targets(rows: Iterable[Row], figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is asked of a GPU."""
    rows = list(rows)
    amp = [row for row in rows if row.work == "train" and row.size == 800 and row.precision != "float32"]
    small = [
        row
        for row in rows
        if row.work == "train" and row.size == 256 and row.depth == 50 and row.precision != "bfloat16"
    ]
    return {
        "every row's ratio": least(rows, figures, "ratio", FASTER),
        "steps under AMP at 800 pixels, ratio": least(amp, figures, "ratio", WITH_AMP),
        "memory by Detectron2's, every row": most(rows, figures, "memory_ratio", 1.0),
        "steps at 256 pixels by the baseline's": least(small, figures, "by_baseline", BASELINE),
    }


def cpu_targets(rows: Iterable[Row], figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is asked of a CPU."""
    rows = list(rows)
    return {
        "steps, ratio": least([row for row in rows if row.work == "train"], figures, "ratio", ON_CPU),
        "inference, ratio": least([row for row in rows if row.work == "inference"], figures, "ratio", FASTER),
    }


def least(rows: Iterable[Row], figures: Mapping[str, Mapping[str, Any]], name: str, target: float) -> dict[str, Any]:
    """The smallest of a figure over ``rows``, all of which have to be there."""
    found, absent = _found(rows, figures, name)
    figure = min(found, default=None)
    return {"figure": figure, "target": target, "met": figure is not None and figure >= target and not absent, **absent}


def most(rows: Iterable[Row], figures: Mapping[str, Mapping[str, Any]], name: str, target: float) -> dict[str, Any]:
    """The largest, likewise."""
    found, absent = _found(rows, figures, name)
    figure = max(found, default=None)
    return {"figure": figure, "target": target, "met": figure is not None and figure <= target and not absent, **absent}


def _found(
    rows: Iterable[Row], figures: Mapping[str, Mapping[str, Any]], name: str
) -> tuple[list[float], dict[str, list[str]]]:
    values = {str(row): figures.get(str(row), {}).get(name) for row in rows}
    absent = [row for row, value in values.items() if value is None]
    return [value for value in values.values() if value is not None], {"unmeasured": absent} if absent else {}


if __name__ == "__main__":
    sys.exit(main())
