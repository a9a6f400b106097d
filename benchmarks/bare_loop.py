"""The pretraining loop that people write by hand around timm's model: the peer of ``pretrain_step.py``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    import torch

    from scaleprior.pretrain.data.batches import LabelledBatch

LABELS = 1000


def ready_batch(images: int, size: int) -> LabelledBatch:
    """Noise with one to three labels an image."""
    import torch

    from scaleprior.pretrain.data.batches import LabelledBatch
    from scaleprior.pretrain.losses.targets import Targets

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, size, size, 3), dtype=torch.uint8, generator=generator)
    counts = torch.randint(1, 4, (images,), generator=generator)
    labels = torch.cat([torch.randperm(LABELS, generator=generator)[:count].sort()[0] for count in counts])
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    return LabelledBatch(pixels, Targets.from_csr(labels, offsets, classes=LABELS), torch.arange(images))


def bare_step(depth: int, kind: str, batch: LabelledBatch, device: torch.device) -> Callable[[], object]:
    """One step of the loop, on a batch that is ready on ``device``; it has been made a few times.

    Args:
        kind: "eager", "compile", or, on a GPU, "graph" or "compile_graph".
    """
    import timm
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    gpu, images = device.type == "cuda", len(batch)
    torch.manual_seed(0)
    model = timm.create_model(f"resnet{depth}", num_classes=LABELS)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=gpu or None
    )
    pixels, mean = batch.images.to(device), torch.full((3,), 127.5, device=device)
    target = torch.zeros(images, LABELS, device=device)
    target[batch.targets.rows.to(device), batch.targets.labels.to(device)] = 1
    net: Any = torch.compile(model, dynamic=False) if kind.startswith("compile") else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=gpu):
            logits = net(((pixels - mean) / mean).permute(0, 3, 1, 2))
        loss = binary_cross_entropy_with_logits(logits.float(), target, reduction="sum") / images
        loss.backward()
        optimizer.step()

    if not kind.endswith("graph"):
        for _ in range(3):
            step()
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step()
    return graph.replay
