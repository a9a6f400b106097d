"""Steps that are recorded as CUDA graphs: when one is made, and what becomes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from scaleprior.training.graphs import GraphedUpdate

CPU = torch.device("cpu")


class StandIn:
    """What graphs ask of ``torch.cuda``, on a CPU: a recording makes its step, and a replay makes it again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recording: StandIn.Graph | None = None
        stream = SimpleNamespace(device=CPU, wait_stream=lambda other: None)
        for name, value in {
            "Stream": lambda device: stream,
            "current_stream": lambda device: stream,
            "stream": contextlib.nullcontext,
            "CUDAGraph": StandIn.Graph,
            "graph": self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    class Graph:
        replays = 0

        def replay(self) -> None:
            self.replays += 1

    @contextlib.contextmanager
    def graph(self, graph: Graph, **options: object) -> Iterator[None]:
        self.recording = graph
        yield
        self.recording = None


@dataclass
class Batch:
    """A vector."""

    values: Tensor

    def shapes(self) -> int:
        return len(self.values)

    def clone(self) -> Batch:
        return Batch(self.values.clone())

    def fill(self, new: Batch) -> None:
        self.values.copy_(new.values)


def test_each_shape_that_comes_back_has_a_recording_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, made = StandIn(monkeypatch), list[str]()
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "the pool")

    def update(batch: Batch) -> Batch:
        made.append(f"{'record' if cuda.recording else 'step'} {len(batch.values)}")
        return batch  # what a recorded step reads

    graphed = GraphedUpdate(update, lambda: made.append("ready"), CPU, most=2)
    for _ in range(5):
        for length in (1, 2, 3):  # as batches come, in any order
            seen = graphed(Batch(torch.full((length,), float(len(made)))))
    # three steps of each as they are written; then recordings of the first two, and no room for the third
    assert made[:9] == ["step 1", "step 2", "step 3"] * 3
    assert made[9:] == ["ready", "record 1", "ready", "record 2", "step 3", "step 3"]
    assert seen.values.tolist() == [14.0] * 3
    first = graphed(Batch(torch.tensor([7.0])))
    assert made[-1] == "step 3"  # it was started, not made
    assert graphed(Batch(torch.tensor([8.0]))) is first  # in the same tensors
    assert first.values.tolist() == [8.0]
