"""Backbones: exactness of every conversion, and what reading, converting and remembering cost, for R-152.

    python benchmarks/backbones.py               # everything, about four minutes on a core
    python benchmarks/backbones.py --exactness   # the table of formats and depths only

Peers, measured in the same run: for conversion, reading the source's bytes and writing as many to the same folder with
a flush to the disk; for memory, the size of the source file. Cards are opened from a warm page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TARGETS = {"max_difference": 1e-5, "card_ms": 5.0, "convert_over_copy": 2.0, "memory_over_file": 1.3}
TIMED = ("torchvision .pth", "torchvision .pth (old format)", "timm .safetensors", "detectron2 .pkl", "BiT .npz")
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exactness", action="store_true", help="the table of formats and depths only")
    parser.add_argument("--convert", nargs=2, metavar=("SRC", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.convert:
        measure_one(*map(Path, args.convert))
        return
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = exactness(Path(folder))
        targets = {"max_difference": TARGETS["max_difference"]}
        met = figures["max_difference"] <= targets["max_difference"] and figures["round_trips"]
        if not args.exactness:
            figures.update(costs(Path(folder)))
            targets = TARGETS
            met = met and all(figures[name] <= limit for name, limit in TARGETS.items())
    print(json.dumps({"bench": "backbones", "figures": figures, "targets": targets, "met": met, "commit": commit()}))


def exactness(folder: Path) -> dict[str, object]:
    from scaleprior.backbones.exactness import FORMATS, check_format

    depths = (18, 34, 50, 101, 152)
    print(f"{'max relative difference of res2..res5':38}" + "".join(f"{f'R-{d}':>9}" for d in depths) + "  round trip")
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
    from scaleprior.backbones import read_card
    from scaleprior.backbones.exactness import FORMATS

    print(f"\n{'R-152 (BiT: R-50x1)':32}{'MB':>7}{'convert s':>11}{'copy s':>8}{'ratio':>7}{'memory/file':>13}")
    ratios, memories, card = {}, {}, 0.0
    for kind in TIMED:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source, _ = FORMATS[kind][1](50 if kind == "BiT .npz" else 152, Path(work))
            out = Path(work) / "out.safetensors"
            runs = [child(source, out) for _ in range(REPEATS)]
            took, copied = min(r["convert"] for r in runs), min(r["copy"] for r in runs)
            ratios[kind], memories[kind] = took / copied, max(r["memory"] for r in runs)
            size = source.stat().st_size / 1e6
            print(f"{kind:32}{size:7.1f}{took:11.3f}{copied:8.3f}{ratios[kind]:7.2f}{memories[kind]:13.2f}", flush=True)
            if kind == TIMED[0]:
                times = []
                for _ in range(50):
                    start = time.perf_counter()
                    read_card(out)
                    times.append(1e3 * (time.perf_counter() - start))
                card = sorted(times)[len(times) // 2]
    print(f"opening the card of R-152: {card:.2f} ms")
    figures = {"convert_over_copy": max(ratios.values()), "memory_over_file": max(memories.values()), "card_ms": card}
    by_kind = {f"{what} {k}": v for what, d in (("convert", ratios), ("memory", memories)) for k, v in d.items()}
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

    from scaleprior.backbones import read_backbone, save_backbone
    from scaleprior.backbones.families import canonical_shapes
    from scaleprior.backbones.spec import ResNetSpec

    torch.set_num_threads(1)
    canonical_shapes(ResNetSpec(depth=18))  # imports of torch, timm and torchvision are not the conversion's
    copied = out.with_suffix(".copy")
    start = time.perf_counter()
    with source.open("rb") as read, copied.open("wb") as write:
        while piece := read.read(1 << 20):
            write.write(piece)
        write.flush()
        os.fsync(write.fileno())
    copy = time.perf_counter() - start
    copied.unlink()
    before = peak()
    start = time.perf_counter()
    reading = read_backbone(source)
    save_backbone(out, reading.tensors, reading.card)
    convert = time.perf_counter() - start
    grown = 1024 * (peak() - before)
    print(json.dumps({"convert": convert, "copy": copy, "memory": grown / source.stat().st_size}))


def commit() -> str:
    """The checked-out commit, or "unknown" outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else "unknown"


if __name__ == "__main__":
    main()
