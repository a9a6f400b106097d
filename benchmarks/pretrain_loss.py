"""The sparse loss against dense binary cross-entropy with its target made: time and memory, forward and backward.

    python benchmarks/pretrain_loss.py                     # on the CPU: under 30 seconds on one core
    python benchmarks/pretrain_loss.py --device cuda       # on a GPU, also with bfloat16 logits: about 10 seconds

Peer: ``F.binary_cross_entropy_with_logits`` over a target of zeros into which the positives are written, in float32, as
autocast runs it. 256 and 1,024 images, 18,291 labels (JFT-300M's), 8 to 15 of them present. Both begin with logits and
pairs of image and label on the device, and end with the gradient of the logits.

Time: the two take turns; the median over rounds of sparse / dense, at most 1. Memory: the largest total of what was
allocated at a time beyond the logits, of the CPU's allocator by torch.profiler, of the GPU's by its own count; at most
0.6 of the peer's.

A last row is the head by chunks of 8,192 of 131,072 labels, linear layer and loss in one, against the linear layer and
the sparse loss: 128 images of 128 features, and the memory beyond the gradient of the weights, which both make. A chunk
holds three tensors of 128 x 8,192, and the gradient of the biases is there: at most a quarter of the peer's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from scaleprior.pretrain.losses.targets import Targets

TIME, MEMORY, CHUNKED = 1.0, 0.6, 0.25  # largest ratios
_HEAD = {"images": 128, "features": 128, "classes": 131_072, "chunk": 8192}
_MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--images", type=int, nargs="+", default=[256, 1024], help="of a batch (default 256 1024)")
    parser.add_argument("--labels", type=int, default=18_291, help="of the label space (default 18,291)")
    parser.add_argument("--rounds", type=int, help="of each, taking turns (default 5 on a CPU, 100 on a GPU)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    rounds = args.rounds or (100 if device.type == "cuda" else 5)
    figures: dict[str, float] = {}
    print(f"{'':36}{'time':>8}{'ms':>18}{'memory':>10}{'MiB':>18}")
    for images in args.images:
        for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
            name = f"{images} x {args.labels} {str(dtype).removeprefix('torch.')}"
            figures |= row(name, "sparse / dense", compare_losses(images, args.labels, dtype, device, rounds))
    figures |= row("head", "chunked / whole", compare_heads(device, min(rounds, 3)))
    worst = {
        "time": max(v for k, v in figures.items() if k.endswith(" time") and not k.startswith("head")),
        "memory": max(v for k, v in figures.items() if k.endswith(" memory") and not k.startswith("head")),
        "head memory": figures["head memory"],
    }
    targets = {"time": TIME, "memory": MEMORY, "head memory": CHUNKED}
    met = all(worst[kind] <= limit for kind, limit in targets.items())
    if not met:
        print("NOT MET: " + ", ".join(f"{k} {worst[k]:.2f}, at most {v}" for k, v in targets.items() if worst[k] > v))
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, threads: {args.threads}"
    facts = {"device": where, "torch": torch.__version__, "commit": commit()}
    print(json.dumps({"bench": "pretrain_loss", "figures": figures, "targets": targets, "met": met, **facts}))
    return 0


def row(name: str, kind: str, found: Mapping[str, float]) -> dict[str, float]:
    """Print a row of the table; its figures by their names."""
    spans, sizes = (f"{found[f'mine_{unit}']:.1f} / {found[f'peer_{unit}']:.1f}" for unit in ("ms", "mib"))
    print(f"{f'{name} {kind}':36}{found['time']:8.2f}{spans:>18}{found['memory']:10.2f}{sizes:>18}", flush=True)
    return {f"{name} {key}": round(value, 4) for key, value in found.items()}


def pairs(images: int, classes: int) -> Targets:
    """8 to 15 labels of each image."""
    import torch

    from scaleprior.pretrain.losses.targets import Targets

    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(8, 16, (images,), generator=generator)
    labels = torch.cat([torch.randperm(classes, generator=generator)[:k].sort().values for k in counts.tolist()])
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    return Targets.from_csr(labels, offsets, classes=classes)


def compare_losses(
    images: int, classes: int, dtype: torch.dtype, device: torch.device, rounds: int
) -> dict[str, float]:
    import torch
    from torch.nn import functional as F

    from scaleprior.pretrain.losses.logistic import logistic_loss

    logits = torch.randn(images, classes, generator=torch.Generator().manual_seed(1)).to(device, dtype).requires_grad_()
    targets = pairs(images, classes).to(device)

    def dense() -> Tensor:
        target = torch.zeros(images, classes, device=device)
        target[targets.rows, targets.labels] = 1
        return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="sum")

    return compare(lambda: logistic_loss(logits, targets), dense, [logits], device, rounds)


def compare_heads(device: torch.device, rounds: int) -> dict[str, float]:
    import torch
    from torch.nn import functional as F

    from scaleprior.pretrain.losses.chunked import chunked_logistic_loss
    from scaleprior.pretrain.losses.logistic import logistic_loss

    images, classes, width = _HEAD["images"], _HEAD["classes"], _HEAD["features"]
    generator = torch.Generator().manual_seed(1)
    shapes = ((images, width), (classes, width), (classes,))
    features, weight, bias = (torch.randn(s, generator=generator).to(device).requires_grad_() for s in shapes)
    targets = pairs(images, classes).to(device)
    found = compare(
        lambda: chunked_logistic_loss(features, weight, bias, targets, chunk=_HEAD["chunk"]),
        lambda: logistic_loss(F.linear(features, weight, bias), targets),
        [features, weight, bias],
        device,
        rounds,
    )
    both_make = weight.nbytes / _MIB
    beyond = {side: found[f"{side}_mib"] - both_make for side in ("mine", "peer")}
    sizes = {f"{side}_mib": size for side, size in beyond.items()}
    return {**found, **sizes, "memory": beyond["mine"] / beyond["peer"]}


def compare(
    mine: Callable[[], Tensor], peer: Callable[[], Tensor], leaves: Sequence[Tensor], device: torch.device, rounds: int
) -> dict[str, float]:
    """Medians over rounds in which the two take turns, forward and backward, and what each allocates at most."""

    def step(loss: Callable[[], Tensor]) -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    both = {"mine": mine, "peer": peer}
    for loss in both.values():  # allocators and kernels get warm
        step(loss)
    seconds: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(rounds):
        for name, loss in both.items():
            seconds[name].append(_seconds(lambda loss=loss: step(loss), device))
    peaks: dict[str, float] = {}
    for name, loss in both.items():
        for leaf in leaves:
            leaf.grad = None
        peaks[name] = peak_bytes(lambda loss=loss: step(loss), device)
    found = {f"{name}_ms": 1e3 * statistics.median(spent) for name, spent in seconds.items()}
    found |= {f"{name}_mib": peak / _MIB for name, peak in peaks.items()}
    found["time"] = statistics.median(m / p for m, p in zip(seconds["mine"], seconds["peer"]))
    found["memory"] = peaks["mine"] / peaks["peer"]
    return found


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Largest total of what ``work`` had allocated at a time, beyond what was there before."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    total = peak = 0
    for _, change in changes:
        total += change
        peak = max(peak, total)
    return peak


if __name__ == "__main__":
    sys.exit(main())
