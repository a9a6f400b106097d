"""A step of pretraining against the loop that people write by hand around timm's model: images a second.

    python benchmarks/pretrain_step.py            # on a GPU under four minutes; on a CPU about two, with small sizes
    python benchmarks/pretrain_step.py --seconds 500    # where R-152 is not compiled in time by then

Peers, in the same process, taking turns with ours: timm's ResNet with as many outputs as there are labels, dense binary
cross-entropy with its target ready, SGD with Nesterov momentum, the images ready on the device. On a GPU it is tried as
it is, compiled, and recorded as a CUDA graph (small images also compiled and recorded), in bfloat16 and channels_last,
and the fastest counts. Ours is ``scaleprior.pretrain`` itself, with its figures and its progress; only the loader is
replaced by one ready batch in the host's memory. The whole command, with its loader, follows.

Times are of blocks of steps, the device waited for at both ends; on a CPU of the process' own time, for others use the
machine, too. A ratio is the median over the blocks of ours by the peer's next to it.

Targets. GPU: R-50 at 224 pixels at least as fast as the fastest peer; R-152 at 1.3 times 2,056 images/s and R-50 at 64
pixels at 3 times 9,085, which ours did before on one H200, so these two are of that card; the whole command at 0.95 of
its ready batch. CPU: at most 3 % more time than the peer. Every part is a process with a limit; what it compiles is
kept in a folder that the parts share, and compiled beforehand, at once.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bare_loop import LABELS, bare_step, ready_batch
from benchmarks.commit import commit

if TYPE_CHECKING:
    import torch

    from scaleprior.pretrain.data.batches import LabelledBatch

OVERHEAD, COMMAND = 1.03, 0.95
R152_H200, SMALL_H200 = 1.3 * 2056, 3 * 9085  # images/s
_BUDGET = 230.0  # seconds of a GPU, of which compiling beforehand may take less than half


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        depth: of the ResNet. size: side of the images. images: of a batch.
        modes: of ours. peers: "eager", "compile", "graph", "compile_graph".
        blocks, steps: of them in a block, after ``warm`` ones.
    """

    depth: int
    size: int
    images: int
    modes: tuple[str, ...]
    peers: tuple[str, ...]
    blocks: int = 5
    steps: int = 5
    warm: int = 6


GPU = {
    "r50_224": Case(50, 224, 256, ("eager", "compile"), ("eager", "compile")),
    "r50_64": Case(50, 64, 256, ("graph", "compile_graph"), ("eager", "graph", "compile_graph"), steps=20),
    "r152_224": Case(152, 224, 256, ("eager", "compile"), ()),
}
ORDER = ("r50_224", "command", "r50_64", "r152_224")  # the longest last: what has no time left is cut
CPU = {"r50_64": Case(50, 64, 32, ("eager",), ("eager",), blocks=9, steps=1, warm=2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, where there is no GPU (default 1)")
    parser.add_argument("--seconds", type=float, default=_BUDGET, help=f"of a GPU, at most (default {_BUDGET:g})")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only-compile", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch

    gpu = torch.cuda.is_available()
    if args.part:
        torch.set_num_threads(args.threads if not gpu else 4)
        case = (GPU if gpu else CPU)[args.part]
        for found in measure(case, args.work, only_compile=args.only_compile):
            print(json.dumps(found), flush=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), gpu=gpu, threads=args.threads, seconds=args.seconds if gpu else 600.0)
    return 0


def report(work: Path, *, gpu: bool, threads: int, seconds: float) -> None:
    import torch

    deadline = time.monotonic() + seconds
    make_corpus(work / "images", work / "index")
    cases = GPU if gpu else CPU
    if gpu:
        compile_all(cases, work, limit=0.45 * seconds)
    figures: dict[str, Any] = {}
    for name in ORDER if gpu else (*cases, "command"):
        left = deadline - time.monotonic()
        if name == "command":
            figures[name] = command(work, gpu=gpu, limit=left, threads=threads)
        else:
            figures[name] = run_part(name, work, limit=left, threads=threads)
        for row, value in figures[name].items():
            print(f"{name:10}{row:24}{value if isinstance(value, str) else f'{value:12,.3f}'}", flush=True)
    targets = gpu_targets(figures) if gpu else cpu_targets(figures)
    device = torch.cuda.get_device_name() if gpu else f"CPU, threads: {threads}"
    met = all(row["met"] for row in targets.values())
    for name, row in targets.items():
        print(f"{'met' if row['met'] else 'NOT MET':8}{name}: {row['figure']}, target {row['target']}")
    said = {"bench": "pretrain_step", "device": device, "torch": torch.__version__, "figures": figures}
    print(json.dumps({**said, "targets": targets, "met": met, "commit": commit()}))


def gpu_targets(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is asked of a GPU; a part that failed has not met its target."""
    large, small, deep = figures["r50_224"], figures["r50_64"], figures["r152_224"]
    best = {name: found.get("ours_best", 0.0) for name, found in figures.items() if name in GPU}
    done, ready = figures["command"].get("images_per_s", 0.0), large.get("ours_compile", 0.0)
    return {
        "R-50 at 224 by the fastest peer": at_least(large.get("best_by_peer", 0.0), 1.0),
        "R-152 at 224, images/s (of an H200)": at_least(best["r152_224"], R152_H200, said=deep.get("failed")),
        "R-50 at 64, images/s (of an H200)": at_least(best["r50_64"], SMALL_H200, said=small.get("failed")),
        "whole command by its ready batch": at_least(done / ready if ready else 0.0, COMMAND),
    }


def cpu_targets(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is asked of a CPU."""
    ratio = figures["r50_64"].get("time_by_eager_peer", float("inf"))
    return {"time by the peer's": {"figure": round(ratio, 4), "target": OVERHEAD, "met": ratio <= OVERHEAD}}


def at_least(figure: float, target: float, *, said: str | None = None) -> dict[str, Any]:
    row = {"figure": round(figure, 3), "target": round(target, 3), "met": figure >= target}
    return row if said is None else {**row, "failed": said}


def measure(case: Case, work: Path, *, only_compile: bool) -> Iterator[dict[str, Any]]:
    """Images a second of each mode of ours and of each peer, and their ratios; all so far after each mode."""
    import torch

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(work / "compiled")
    torch.backends.cudnn.benchmark = True
    # As in a run, within which the peers take their turns: a compiled one would be compiled anew for another setting.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    batch = ready_batch(case.images, case.size)
    kinds = [kind for kind in case.peers if kind.startswith("compile") or not only_compile]
    peers = {kind: bare_step(case.depth, kind, batch, device) for kind in kinds}
    rates: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    for mode in case.modes:
        if only_compile and not mode.startswith("compile"):
            continue
        turns = Turns(peers, 0 if only_compile else case.blocks, case.steps, case.warm, device)
        train(case, mode, batch if not gpu else batch.pin_memory(), work, turns)
        own = turns.seconds.pop("ours")
        found[f"ours_{mode}"] = case.images / statistics.median(own) if own else 0.0
        for name, seconds in turns.seconds.items():
            rates.setdefault(name, []).extend(seconds)
            if seconds:
                found[f"time_of_{mode}_by_{name}"] = statistics.median(a / b for a, b in zip(own, seconds))
        yield compared(case, found, rates, gpu=gpu)


def compared(
    case: Case, found: Mapping[str, Any], rates: Mapping[str, Sequence[float]], *, gpu: bool
) -> dict[str, Any]:
    """``found`` with the peers' figures and what is asked for.

    Args:
        rates: seconds a step of each peer, in each block.
    """
    found = dict(found)
    found |= {f"peer_{name}": case.images / statistics.median(seconds) for name, seconds in rates.items() if seconds}
    best = max((value, mode) for mode in case.modes if (value := found.get(f"ours_{mode}", 0.0)) is not None)
    found["ours_best"] = best[0]
    if not gpu and "eager" in rates:
        found["time_by_eager_peer"] = found["time_of_eager_by_eager"]
    fastest = max((name for name in rates if rates[name]), key=lambda name: found[f"peer_{name}"], default=None)
    if fastest is not None and best[0]:
        found["best_by_peer"] = 1 / found[f"time_of_{best[1]}_by_{fastest}"]
    return found


class Turns:
    """Called after each step of ours: at the end of a block of steps the peers do as many each, and all are timed."""

    def __init__(
        self, peers: Mapping[str, Callable[[], object]], blocks: int, steps: int, warm: int, device: torch.device
    ) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
        self.total = warm + blocks * steps + (device.type == "cuda")  # there a step is told of one later
        self._peers, self._steps, self._warm, self._device = peers, steps, warm, device
        self._blocks = blocks
        self._begun: float | None = None

    def __call__(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        past = done - self._warm
        if past < 0 or past % self._steps or past > self._blocks * self._steps:
            return
        now = self._now()
        if self._begun is not None:
            self.seconds["ours"].append((now - self._begun) / self._steps)
            for name, step in self._peers.items():
                begun = self._now()
                for _ in range(self._steps):
                    step()
                self.seconds[name].append((self._now() - begun) / self._steps)
        self._begun = self._now()

    def _now(self) -> float:
        import torch

        if self._device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()


def train(case: Case, mode: str, batch: LabelledBatch, work: Path, turns: Turns) -> None:
    """``scaleprior.pretrain`` for as many steps as ``turns`` needs, each of them of ``batch``."""
    from scaleprior.config import load_config
    from scaleprior.pretrain import pretrain
    from scaleprior.pretrain.data.batches import TrainBatches

    TrainBatches.__getitem__ = lambda self, step: batch
    more = ["PRETRAIN.STEP.MODE", mode, "PRETRAIN.BUDGET.AMOUNT", str(turns.total)]
    loaded = load_config("Pretrain/Base-Pretrain.yaml", [*words(case, work), *more])
    with tempfile.TemporaryDirectory(dir=work) as out:
        pretrain(loaded, Path(out) / "run", progress=turns, curves=False)


def words(case: Case, work: Path) -> list[str]:
    import torch

    gpu = torch.cuda.is_available()
    settings = {
        "PRETRAIN.CORPUS": work / "index",
        "MODEL.RESNETS.DEPTH": case.depth,
        "MODEL.DEVICE": "cuda" if gpu else "cpu",
        "PRETRAIN.BATCH_SIZE": case.images,
        "PRETRAIN.BUDGET.UNIT": "steps",
        "PRETRAIN.INPUT.SIZE": case.size,
        "PRETRAIN.INPUT.RESIZE": case.size + 8,
        "PRETRAIN.AMP": "bf16" if gpu else "off",
        "PRETRAIN.CHANNELS_LAST": True,
        "PRETRAIN.CHECKPOINT_PERIOD": 0,
        "PRETRAIN.HELD_OUT.IMAGES": 0,
        "PRETRAIN.OPTIMIZER.BASE_LR": 0.01,
    }
    return [str(word) for pair in settings.items() for word in pair]


def command(work: Path, *, gpu: bool, limit: float, threads: int) -> dict[str, Any]:
    """The whole command on the corpus, of 64-pixel JPEGs: images a second, and what of the time it waited for data."""
    case = GPU["r50_224"] if gpu else CPU["r50_64"]
    steps = 150 if gpu else 8
    workers = max((os.cpu_count() or 1) - 2, 0) if gpu else 0
    more = {
        "PRETRAIN.BUDGET.AMOUNT": steps,
        "PRETRAIN.STEP.MODE": "compile" if gpu else "eager",
        "PRETRAIN.METRICS_PERIOD": max(steps // 15, 1),
        "PRETRAIN.LOADER.NUM_WORKERS": workers,
    }
    out = work / "command"
    line = [sys.executable, "-m", "scaleprior", "pretrain", "--config-file", "Pretrain/Base-Pretrain.yaml"]
    line += ["--out", str(out), *words(case, work), *(str(word) for pair in more.items() for word in pair)]
    root = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))  # wherever the benchmark is started
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(work / "compiled"), "PYTHONPATH": paths}
    if not gpu:
        environment["OMP_NUM_THREADS"] = str(threads)
    failed = finished(line, limit, environment)[1]
    if failed:
        return {"failed": failed}
    rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
    tail = [row for row in rows[len(rows) // 3 :] if "images_per_s" in row]
    found = {"images_per_s": statistics.median(row["images_per_s"] for row in tail), "workers": workers}
    return {**found, "waited_for_data": statistics.median(row["waited"] for row in tail)}


def make_corpus(images: Path, index: Path) -> None:
    """One image a class: the label space is what counts."""
    import cv2
    import numpy as np

    from scaleprior.corpus import build_index, open_source

    rng = np.random.default_rng(0)
    for label in range(LABELS):
        (images / f"class{label:04}").mkdir(parents=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pixels = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(images / f"class{label:04}" / "0.jpg"), pixels)
    found = open_source(images)
    facts = {"label_space": found.label_space, "root": found.root, "source": {"kind": found.kind}}
    build_index(found.rows(), index, name="step", verify=False, **facts)


def compile_all(cases: Mapping[str, Case], work: Path, *, limit: float) -> None:
    """Let the parts compile what they need at once, as far as the GPU's memory allows; the cache keeps it."""
    import torch

    room = torch.cuda.get_device_properties(0).total_memory / 2**30
    names = [name for name in cases if room > 130 or cases[name].depth == 50]
    deadline = time.monotonic() + limit
    nobody = subprocess.DEVNULL
    lines = ([*line_of(name, work), "--only-compile"] for name in names)
    running = [subprocess.Popen(line, stdout=nobody, stderr=nobody) for line in lines]
    for each in running:
        try:
            each.wait(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()


def run_part(name: str, work: Path, *, limit: float, threads: int) -> dict[str, Any]:
    """What :func:`measure` found in a process of its own, or why it did not."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    out, failed = finished([*line_of(name, work), "--threads", str(threads)], limit, environment)
    found = json.loads(out.splitlines()[-1]) if out else {}
    return {**found, "failed": failed} if failed else found


def line_of(name: str, work: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--part", name, "--work", str(work)]


def finished(line: Sequence[str], limit: float, environment: Mapping[str, str]) -> tuple[str, str]:
    """(what it printed, also up to where it failed; why it failed, or "")."""
    if limit <= 0:
        return "", "no time was left"
    try:
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=limit, check=False)
    except subprocess.TimeoutExpired as e:
        said = e.stdout or b""  # bytes, whatever was asked for
        return said.decode() if isinstance(said, bytes) else said, f"not done in {limit:.0f} s"
    if done.returncode:
        return done.stdout, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return done.stdout, ""


if __name__ == "__main__":
    sys.exit(main())
