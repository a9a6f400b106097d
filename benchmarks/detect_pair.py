"""Both engines at one detector: the same weights, the same images, a training step and an inference of each.

What ``detect_step.py`` times. This process holds one detector, twice, and does the rows that it is asked for.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["ENGINES", "SIZES", "Pair", "Row", "random_images", "tame"]

ENGINES = ("torchvision", "detectron2")
SIZES = {800: (800, 1216), 256: (256, 344), 160: (160, 192)}  # shorter side -> (height, width), pixels
CLASSES = 80
_RATE = 1e-5  # so small that the weights stay what they are

# Narrow, and as many proposals as small images have use for: a step takes a second of one core.
NARROW = [
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.WIDTH_PER_GROUP", "16", "MODEL.FPN.OUT_CHANNELS", "64"),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "64", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "64"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "512", "MODEL.RPN.PRE_NMS_TOPK_TEST", "512"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "128", "MODEL.RPN.POST_NMS_TOPK_TEST", "128"),
]


@dataclass(frozen=True)
class Row:
    """What is measured at once.

    Attributes:
        kind: "FPN" or "C4". depth: of the ResNet.
        precision: "float32", "float16" or "bfloat16" (autocast).
        size: shorter side of the images, one of SIZES.
        work: "train" (forward, backward, update) or "inference".
        images: of a step, or of an inference.
    """

    kind: str
    depth: int
    precision: str
    size: int
    work: str = "train"
    images: int = 16

    def __str__(self) -> str:
        return f"R-{self.depth} {self.kind} {self.precision} {self.size} {self.work}"


class Pair:
    """The torchvision engine's detector and Detectron2's, with the same weights.

    Args:
        peer: whether Detectron2's is built, too.
        narrow: for a CPU.
        mode: SCALEPRIOR.STEP_MODE of our steps below 800 pixels.
    """

    def __init__(self, kind: str, depth: int, *, peer: bool = True, narrow: bool = False, mode: str = "eager") -> None:
        import torch

        from scaleprior.config import load_config
        from scaleprior.detect.faster_rcnn.model import build_detector
        from scaleprior.detect.faster_rcnn.model_file import model_names
        from scaleprior.detect.faster_rcnn.solver import build_optimizer

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mode = mode
        config = f"COCO-Detection/faster_rcnn_R_{depth}_{kind}.yaml"
        words = ["MODEL.DEVICE", self.device.type, "SOLVER.BASE_LR", str(_RATE), "SOLVER.WARMUP_ITERS", "0"]
        words += NARROW if narrow else []
        torch.manual_seed(0)
        self.cfg = load_config(config, words).cfg
        self.ours = build_detector(self.cfg)
        names = model_names(self.ours)
        tame({names[name]: tensor for name, tensor in self.ours.state_dict().items() if name in names})
        self.peer, self._peer_optimizer = None, None
        if peer:
            from detectron2.modeling import build_model
            from detectron2.solver import build_optimizer as build_peer_optimizer

            from scaleprior.d2.plan import default_config

            cfg = load_config(config, words, defaults=default_config()).cfg
            self.peer = build_model(cfg)
            state = {names[name]: tensor for name, tensor in self.ours.state_dict().items() if name in names}
            found = self.peer.load_state_dict(state, strict=False)
            assert not found.unexpected_keys
            assert all(name.endswith("num_batches_tracked") for name in found.missing_keys)
            self._peer_optimizer = build_peer_optimizer(cfg, self.peer)
        self.ours.to(self.device)
        self._optimizer = build_optimizer(self.cfg, self.ours)
        self._folder = tempfile.TemporaryDirectory()

    def measure(self, row: Row, *, warm: int, blocks: int, steps: int, seconds: float) -> dict[str, Any]:
        """ms a step (or an inference) of each engine and their ratio, Detectron2's time by ours; GiB on a GPU.

        Args:
            warm: steps before the clock runs.
            blocks, steps: of them in a block; the engines take turns. seconds: after which no third block begins.
        """
        works: dict[str, Callable[[], object]] = {ENGINES[0]: self._our_work(row)}
        if self.peer is not None:
            works[ENGINES[1]] = self._peer_work(row)
        begun = time.monotonic()
        for work in works.values():
            for _ in range(warm):
                work()
        times: dict[str, list[float]] = {name: [] for name in works}
        host: dict[str, list[float]] = {name: [] for name in works}
        peaks: dict[str, float] = {}
        for block in range(blocks):
            if block > 1 and time.monotonic() - begun > seconds:
                break
            for name, work in works.items():
                self._forget_peak()
                start, start_of_host = self._now(), time.process_time()
                for _ in range(steps):
                    work()
                times[name].append(1000 * (self._now() - start) / steps)
                host[name].append(1000 * (time.process_time() - start_of_host) / steps)
                peaks[name] = max(peaks.get(name, 0.0), self._peak(name))
        found: dict[str, Any] = {}
        for name in works:
            found[f"{name}_ms"] = statistics.median(times[name])
            if self.device.type == "cuda":
                found |= {f"{name}_cpu_ms": statistics.median(host[name]), f"{name}_gib": peaks[name] / 2**30}
        if len(times) == 2:
            found["ratio"] = statistics.median(b / a for a, b in zip(*times.values()))
            if self.device.type == "cuda":
                found["memory_ratio"] = peaks[ENGINES[0]] / peaks[ENGINES[1]]
        return found

    def _our_work(self, row: Row) -> Callable[[], object]:
        import torch

        images, boxes, classes = random_images(row)
        if row.work == "inference":
            self.ours.eval()
            ready: Any = self._pinned(torch.stack(images))
            return lambda: _in_parts(row, ready, self._autocast(row), self._detect)
        self.ours.train()
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SOLVER.AMP.ENABLED = row.precision != "float32"
        if row.precision == "bfloat16":
            cfg.SCALEPRIOR.AMP_DTYPE = "bfloat16"
        if self.mode != "eager" and row.size < 800:  # a checkout of before has no such key
            cfg.SCALEPRIOR.STEP_MODE = self.mode
        cfg.freeze()
        batch = _ready_batch(images, boxes, classes)
        if isinstance(batch.images, torch.Tensor):
            batch = dataclasses.replace(batch, images=self._pinned(batch.images))
        try:
            from scaleprior.detect.faster_rcnn.step import TrainStep
        except ModuleNotFoundError:  # a checkout of before
            return self._step_of_before(cfg, batch)
        step = TrainStep(cfg, self.ours, seed=0, optimizer=self._optimizer)

        def work() -> None:
            step(batch, 0)
            for _ in step.settled():  # as a run does: on a GPU what the step before found
                pass

        return work

    def _step_of_before(self, cfg: Any, batch: Any) -> Callable[[], object]:
        from scaleprior.detect.faster_rcnn.trainer import DetectorTrainer

        loader: Any = SimpleNamespace(seed=0)
        folder: Any = SimpleNamespace(out=Path(self._folder.name))
        trainer: Any = DetectorTrainer(cfg, self.ours, loader, folder)
        trainer.optimizer = self._optimizer
        return lambda: trainer._step(batch)

    def _detect(self, images: Tensor) -> object:
        return self.ours(images.to(self.device, non_blocking=True), [tuple(images.shape[2:])] * len(images))

    def _pinned(self, images: Tensor) -> Tensor:
        """As our loaders give them on a GPU."""
        return images.pin_memory() if self.device.type == "cuda" else images

    def _peer_work(self, row: Row) -> Callable[[], object]:
        """Detectron2's own trainer at a loader that always gives the same batch, or its model at the images."""
        import torch
        from detectron2.engine import AMPTrainer, SimpleTrainer
        from detectron2.structures import Boxes, Instances
        from detectron2.utils.events import EventStorage

        assert self.peer is not None
        images, boxes, classes = random_images(row)
        inputs = []
        for image, box, cls in zip(images, boxes, classes):
            height, width = image.shape[1:]
            inputs.append({"image": image, "height": height, "width": width})
            if row.work == "train":
                instances = Instances((height, width))
                instances.gt_boxes, instances.gt_classes = Boxes(box), cls
                inputs[-1]["instances"] = instances
        if row.work == "inference":
            self.peer.eval()
            return lambda: _in_parts(row, inputs, self._autocast(row), self.peer)
        self.peer.train()
        loader = itertools.repeat(inputs)
        if row.precision == "float32":
            trainer: Any = SimpleTrainer(self.peer, loader, self._peer_optimizer)
        else:
            scaler = torch.amp.GradScaler("cuda", enabled=row.precision == "float16")
            kind = getattr(torch, row.precision)
            trainer = AMPTrainer(self.peer, loader, self._peer_optimizer, grad_scaler=scaler, precision=kind)
        trainer.iter = 0

        def step() -> None:
            with EventStorage(0):
                trainer.run_step()

        return step

    def _autocast(self, row: Row) -> Callable[[], Any]:
        import torch

        kind = torch.bfloat16 if row.precision == "bfloat16" else torch.float16
        return lambda: torch.autocast(self.device.type, dtype=kind, enabled=row.precision != "float32")

    def _now(self) -> float:
        """Seconds: on a CPU of the process' own time, for others use the machine, too."""
        import torch

        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _forget_peak(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak(self, name: str) -> float:
        """Most bytes that tensors took, without those that the other engine's detector keeps all the time."""
        import torch

        if self.device.type != "cuda":
            return 0.0
        other = (self.peer, self._peer_optimizer) if name == ENGINES[0] else (self.ours, self._optimizer)
        return torch.cuda.max_memory_allocated(self.device) - _kept(*other)

    def tidy(self) -> None:
        """Give back the memory that a row left to the allocator."""
        import torch

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _ready_batch(images: list[Tensor], boxes: list[Tensor], classes: list[Tensor]) -> Any:
    """As the loader of the checkout that is measured gives it."""
    from scaleprior.detect.data.loader import DetectionBatch

    ids: list[int | str] = list(range(len(images)))
    if "sizes" not in {field.name for field in dataclasses.fields(DetectionBatch)}:  # before batches were padded
        make: Any = DetectionBatch
        return make(images, boxes, classes, ids)
    from scaleprior.detect.data.transforms import pad_images

    return DetectionBatch(*pad_images(images), boxes, classes, ids, list(range(len(images))))


def _kept(model: nn.Module | None, optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of weights, gradients and what the optimiser remembers."""
    import torch

    if model is None or optimizer is None:
        return 0
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor) and t.is_cuda)


def _in_parts(row: Row, images: Sequence[Any], autocast: Callable[[], Any], detect: Callable[[Any], object]) -> None:
    """Four images at a time where they are large: both engines' regions of 16 take more memory than a step."""
    import torch

    part = 4 if row.size >= 800 else len(images)
    with torch.no_grad(), autocast():
        for start in range(0, len(images), part):
            detect(images[start : start + part])


def tame(state: dict[str, Tensor]) -> None:
    """Make random weights of a detector, by Detectron2's names, such that float16 holds every map of it.

    A residual block adds what its branch makes, so that the maps of 50 fresh blocks behind one another, whose norms are
    frozen and do not adapt, leave float16's range. The last norm of every branch divides by 5 here.
    """
    import torch

    last = {name for name in state if name.endswith("conv3.norm.running_var")}
    assert last or not any(".conv3." in name for name in state)
    with torch.no_grad():
        for name in last:
            state[name].fill_(25.0)


def random_images(row: Row) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Noise as both loaders give it: uint8 [3, h, w], boxes float32 [G, 4] xyxy and classes int64 [G] on the CPU.

    Seven boxes an image on average, as COCO has, with sides from a fiftieth to half of the image's shorter side.
    """
    import torch

    generator = torch.Generator().manual_seed(row.size)
    height, width = SIZES[row.size]
    images, boxes, classes = [], [], []
    for _ in range(row.images):
        images.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator))
        count = int(torch.randint(4, 11, (), generator=generator))
        low, high = math.log(height / 50), math.log(height / 2)
        sides = (low + (high - low) * torch.rand(count, 2, generator=generator)).exp()
        corner = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - sides)
        boxes.append(torch.cat([corner, corner + sides], dim=1))
        classes.append(torch.randint(0, CLASSES, (count,), generator=generator))
    return images, boxes, classes
