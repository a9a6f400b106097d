"""Backbones: exactness of every conversion, and what reading, converting and remembering cost, for R-152.

    python benchmarks/backbones.py               # everything, about six minutes on two cores
    python benchmarks/backbones.py --exactness   # the table of formats and depths only
    TMPDIR=/dev/shm python benchmarks/backbones.py --costs   # the rest, in memory: no disk hides our own work

Peers, measured in the same processes, turn about: for conversion, reading the source's bytes and writing as many to the
same folder with a flush to the disk, as the conversion does (it also takes the SHA-256 of every tensor, which no copy
needs); for memory, the size of the source file, of which formats with unaligned numbers need a second copy. The fastest
of each counts, as others may use the machine and its disk. The ratio to a copy has no target: a backbone is converted
once. BiT's R-152x2 is four times as large and turns every convolution. Sources and cards come from a warm page cache,
and a copy that is not counted comes before both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit

TARGETS = {"max_difference": 1e-5, "card_ms": 5.0, "memory_over_file": 2.2}
TIMED = ("torchvision .pth", "torchvision .pth (old format)", "timm .safetensors", "detectron2 .pkl", "BiT .npz")
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exactness", action="store_true", help="the table of formats and depths only")
    parser.add_argument("--costs", action="store_true", help="everything but that table")
    parser.add_argument("--convert", nargs=2, metavar=("SRC", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.convert:
        measure_one(*map(Path, args.convert))
        return
    import torch

    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    targets = dict(TARGETS)
    with tempfile.TemporaryDirectory() as folder:
        if args.costs:
            targets.pop("max_difference")
        else:
            figures.update(exactness(Path(folder)))
        if args.exactness:
            targets = {"max_difference": TARGETS["max_difference"]}
        else:
            figures.update(costs(Path(folder)))
    met = figures.get("round_trips", True) and all(figures[name] <= limit for name, limit in targets.items())
    print(json.dumps({"bench": "backbones", "figures": figures, "targets": targets, "met": met, "commit": commit()}))


def exactness(folder: Path) -> dict[str, object]:
    from benchmarks.exactness import FORMATS, check_format

    depths = sorted({depth for known, _ in FORMATS.values() for depth in known})  # ConvNeXt-T has 59 layers, S 113
    print(f"{'max relative difference, by layers':38}" + "".join(f"{depth:9}" for depth in depths) + "  round trip")
    worst, trips = 0.0, []
    for kind, (known, _) in FORMATS.items():
        cells, same = [], []
        for depth in depths:
            if depth not in known:
                cells.append(f"{'-':>9}")
                continue
            with tempfile.TemporaryDirectory(dir=folder) as work:
                row = check_format(kind, depth, Path(work))
            worst = max(worst, row.difference)
            same.append(row.round_trip)
            cells.append(f"{row.difference:9.1e}" if row.difference else f"{'0.0':>9}")
        trips += [s for s in same if s is not None]
        said = "no export" if None in same else "same bits" if all(same) else "DIFFERS"
        print(f"{kind:38}{''.join(cells)}  {said}", flush=True)
    return {"max_difference": worst, "round_trips": all(trips)}


def costs(folder: Path) -> dict[str, float]:
    from benchmarks.exactness import FORMATS
    from scaleprior.backbones import read_card

    columns = f"{'MB':>7}{'convert s':>11}{'copy s':>8}{'ratio':>7}{'CPU ratio':>11}{'memory/file':>13}"
    print(f"\n{'R-152 (BiT: R-152x2)':32}{columns}")
    ratios, cpu, memories, card = {}, {}, {}, 0.0
    for kind in TIMED:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source, _ = FORMATS[kind][1](152, Path(work))
            out = Path(work) / "out.safetensors"
            runs = [child(source, out) for _ in range(REPEATS)]
            best = {name: min(run[name] for run in runs) for name in runs[0]}
            ratios[kind], memories[kind] = best["convert"] / best["copy"], max(run["memory"] for run in runs)
            cpu[kind] = best["convert_cpu"] / best["copy_cpu"]
            times = f"{source.stat().st_size / 1e6:7.1f}{best['convert']:11.3f}{best['copy']:8.3f}"
            print(f"{kind:32}{times}{ratios[kind]:7.2f}{cpu[kind]:11.2f}{memories[kind]:13.2f}", flush=True)
            if kind == TIMED[0]:
                times = []
                for _ in range(50):
                    start = time.perf_counter()
                    read_card(out)
                    times.append(1e3 * (time.perf_counter() - start))
                card = sorted(times)[len(times) // 2]
    print(f"opening the card of R-152: {card:.2f} ms")
    worst = max(ratio for kind, ratio in ratios.items() if "BiT" not in kind)  # BiT's is four times as large
    figures = {"convert_over_copy": worst, "memory_over_file": max(memories.values()), "card_ms": card}
    kinds = (("convert", ratios), ("convert CPU", cpu), ("memory", memories))
    by_kind = {f"{what} {k}": v for what, by in kinds for k, v in by.items()}
    return {name: round(value, 3) for name, value in {**figures, **by_kind}.items()}


def child(source: Path, out: Path) -> dict[str, float]:
    """In a process of its own, so that peak memory is this conversion's."""
    command = [sys.executable, __file__, "--convert", str(source), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def peak() -> int:
    """Peak memory of this program in KiB. Not ``ru_maxrss``: that begins with the size of the process it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def measure_one(source: Path, out: Path) -> None:
    import torch

    from scaleprior.backbones import ReadOptions, convert_backbone
    from scaleprior.backbones.trunks.resnet.spec import ResNetSpec
    from scaleprior.backbones.trunks.trunk import canonical_shapes

    torch.set_num_threads(1)
    for module in ("pickle.torch_files", "npz_files", "safetensors_files"):
        importlib.import_module(f"scaleprior.backbones.readers.{module}")
    canonical_shapes(ResNetSpec(depth=18))  # imports, of torch and timm above all, are not the conversion's
    copied = out.with_suffix(".copy")
    for path in (copied, out):
        path.unlink(missing_ok=True)  # replacing a file would also pay for freeing the old one
    # The first copy warms the system up: its pages, freed again, are what both of the others get.
    for _ in range(2):
        clock = Clock()
        with source.open("rb") as read, copied.open("wb") as write:
            while piece := read.read(1 << 20):
                write.write(piece)
            write.flush()
            os.fsync(write.fileno())
        copy, copy_cpu = clock.read()
        copied.unlink()
    before = peak()
    clock = Clock()
    convert_backbone(source, out, ReadOptions(assume="torchvision"))
    convert, convert_cpu = clock.read()
    memory = 1024 * (peak() - before) / source.stat().st_size
    figures = {"convert": convert, "convert_cpu": convert_cpu, "copy": copy, "copy_cpu": copy_cpu, "memory": memory}
    print(json.dumps(figures))


class Clock:
    """Seconds since it was made: on the wall, and of all this process's threads."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """(wall, CPU)."""
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]


if __name__ == "__main__":
    main()
