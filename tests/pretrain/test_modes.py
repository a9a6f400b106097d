"""PRETRAIN.STEP.MODE: compiled and recorded steps against those that go one kernel after the other."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scaleprior.backbones import ResNetSpec, read_card
from scaleprior.errors import FailureError, UserError
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.data.batches import LabelledBatch
from scaleprior.pretrain.data.feed import Feed
from scaleprior.pretrain.loop import step as step_module
from scaleprior.pretrain.loop.compiled import compile_errors, compiled
from scaleprior.pretrain.loop.graphs import Lengths, Parts
from scaleprior.pretrain.loop.step import TrainStep
from scaleprior.pretrain.losses.targets import Targets
from scaleprior.pretrain.network.pretrainer import Pretrainer
from scaleprior.pretrain.optim.optimizers import device_optimizer
from scaleprior.pretrain.plan import check_mode
from scaleprior.training.graphs import GraphedUpdate
from scaleprior.training.processes import ProcessGroup
from tests.training.test_graphs import StandIn

CPU = torch.device("cpu")
LABELS = 8


@pytest.fixture(autouse=True)
def _own_folder_of_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step sets in the environment, which a run puts back, is gone with the test."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "unset")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")


class SmallTrunk(nn.Module):
    """One convolution with BN, for what does not depend on the architecture."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, features, 3, stride=4), nn.BatchNorm2d(features), nn.ReLU())

    def pooled(self, x: Tensor) -> Tensor:
        return self.body(x).mean(dim=(2, 3))


def network(*, small: bool = True) -> Pretrainer:
    torch.manual_seed(0)
    spec = ResNetSpec(depth=50, res2_out_channels=16, width_per_group=4)
    model = Pretrainer(spec, LABELS, pixel_mean=[127.5] * 3, pixel_std=[127.5] * 3, bias=-2.0)
    if small:
        model.trunk = SmallTrunk(spec.out_channels["res5"])  # pyright: ignore[reportAttributeAccessIssue]
    return model.train()


def batch(number: int, images: int = 4, unreadable: int = 0) -> LabelledBatch:
    """A batch whose images have other labels, and another number of them, in every step."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (images, 32, 32, 3), dtype=torch.uint8, generator=generator)
    counts = torch.randint(1, LABELS, (images,), generator=generator)
    labels = torch.cat([torch.arange(int(count)) for count in counts])
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    bad = tuple((images + n, "gone") for n in range(unreadable))
    return LabelledBatch(pixels, Targets.from_csr(labels, offsets, classes=LABELS), torch.arange(images), bad)


def steps(
    model: Pretrainer, mode: str, batches: list[LabelledBatch], accumulate: int = 1
) -> tuple[TrainStep, list[float]]:
    """The step and its losses, with a rate that changes."""
    device = next(model.parameters()).device
    groups = [{"params": list(model.parameters()), "weight_decay": 1e-4}]
    optimizer = device_optimizer("sgd", groups, lr=0.1, momentum=0.9, device=device)
    step = TrainStep(model, optimizer, ProcessGroup(0, 1, device), mode=mode, accumulate=accumulate)
    losses = []
    for number, each in enumerate(batches):
        losses.append(float(step(each, images=len(each), rate=0.05 / (1 + number)).loss))
    return step, losses


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], int]]:
    """torch.compile without its last, slow part: "eager" traces, "aot_eager" also differentiates what was traced; each
    runs it then. Returns how many graphs there are."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()

    def by(backend: str) -> Callable[[], int]:
        monkeypatch.setattr(step_module, "compiled", partial(compiled, backend=backend))
        return lambda: counters["stats"]["unique_graphs"]

    return by


@pytest.mark.parametrize(("small", "backend"), [(True, "aot_eager"), (False, "eager")])
def test_a_network_is_compiled_once_whatever_labels_batches_have(
    traced: Callable[[str], Callable[[], int]], small: bool, backend: str
) -> None:
    graphs = traced(backend)
    batches = [batch(0), batch(1), batch(2), batch(3, images=3, unreadable=1), batch(4)]
    model, peer = network(small=small), network(small=small)
    step, losses = steps(model, "compile", batches)
    assert graphs() == 1  # of the whole network: nothing in it makes torch break off, and nothing was compiled again
    assert step.apart == 1
    assert losses == pytest.approx(steps(peer, "eager", batches)[1], rel=1e-6)
    for mine, theirs in zip(model.state_dict().values(), peer.state_dict().values()):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_parts_of_one_size_share_what_was_compiled(traced: Callable[[str], Callable[[], int]]) -> None:
    graphs = traced("aot_eager")
    batches = [batch(number, images=6) for number in range(3)]
    model, peer = network(), network()
    losses = steps(model, "compile", batches, accumulate=3)[1]
    assert graphs() == 1
    assert losses == pytest.approx(steps(peer, "eager", batches, accumulate=3)[1], rel=1e-6)


def test_a_copy_of_a_compiled_model_has_a_loss_of_its_own() -> None:
    model = network()
    compiled(model, model, backend="aot_eager")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.weight.zero_()
    each = batch(0)
    assert float(other(each.images, each.targets).detach()) != float(model(each.images, each.targets).detach())


def test_a_compiled_run_says_so_in_its_card_and_resumes_to_the_bit(
    traced: Callable[[str], Callable[[], int]], small_config: Callable, tmp_path: Path
) -> None:
    graphs = traced("eager")
    run = pretrain(small_config("PRETRAIN.STEP.MODE", "compile"), tmp_path / "run")
    assert graphs() == 1
    assert read_card(run.backbone).recipe["PRETRAIN"]["STEP"] == {"MODE": "compile"}
    eager = pretrain(small_config(), tmp_path / "eager")
    assert run.metrics.loss == pytest.approx(eager.metrics.loss, rel=1e-4)

    def die(done: int, total: int, numbers: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(small_config("PRETRAIN.STEP.MODE", "compile"), tmp_path / "broken", progress=die)
    pretrain(small_config("PRETRAIN.STEP.MODE", "compile"), tmp_path / "broken", resume=True)
    whole, resumed = (tmp_path / name / "head.safetensors" for name in ("run", "broken"))
    assert whole.read_bytes() == resumed.read_bytes()
    with pytest.raises(UserError, match="another"):
        pretrain(small_config(), tmp_path / "broken", resume=True)


def test_what_cannot_be_compiled_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, examples: object) -> Callable:
        raise OSError("No working C++ compiler found")

    torch._dynamo.reset()
    monkeypatch.setattr(step_module, "compiled", partial(compiled, backend=broken))
    with pytest.raises(
        FailureError, match=r"kernels here: .*OSError: No working C\+\+ compiler.*; PRETRAIN.STEP.MODE eager does"
    ):
        steps(network(), "compile", [batch(0)])
    with pytest.raises(ZeroDivisionError), compile_errors("compile"):
        raise ZeroDivisionError


_SCRIPT = """
import torch
from torch._dynamo.utils import counters
from tests.pretrain.test_modes import batch, network, steps
torch.set_num_threads(1)
print(*steps(network(), "compile", [batch(0), batch(1)])[1])
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.slow
def test_what_was_compiled_is_kept_for_later_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "SCALEPRIOR_HOME": str(tmp_path), "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", _SCRIPT]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        said.append([line.split() for line in done.stdout.splitlines()])
    (losses, first), (same, second) = said
    assert int(first[0]) == 0
    assert int(first[1]) > 0
    assert (int(second[0]), int(second[1])) == (int(first[1]), 0)
    assert any((tmp_path / "compiled").iterdir())
    assert losses == same
    # Kernels that were fused round at other places: some roundings of 6e-8 in sums over a few hundred terms.
    peer = steps(network(), "eager", [batch(0), batch(1)])[1]
    assert [float(loss) for loss in losses] == pytest.approx(peer, rel=1e-5)


_PAIR = """
import sys, torch
from functools import partial
from scaleprior.pretrain.loop import step
from scaleprior.pretrain.loop.compiled import compiled
from scaleprior.training.processes import join_processes
from tests.pretrain.test_modes import batch, network
torch.set_num_threads(1)
step.compiled = partial(compiled, backend="aot_eager")
with join_processes(torch.device("cpu")) as pair:
    found = []
    for mode in ("eager", "compile"):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        made = step.TrainStep(model, optimizer, pair, mode=mode, accumulate=2)
        for number in range(4):
            bad = int(number == 2 and pair.main)  # one of the two takes this batch as it comes
            each = batch(10 * number + pair.rank, images=4 - bad, unreadable=bad)
            figures = made(each, images=round(pair.sum(len(each))[0]), rate=0.05)
        found.append((figures.loss, torch.cat([p.detach().flatten() for p in model.parameters()])))
    (loss, weights), (same, theirs) = found
    assert made.apart == int(pair.main)
    torch.testing.assert_close(same, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(theirs, weights, rtol=1e-5, atol=1e-6)
"""


@pytest.mark.slow
def test_a_compiled_network_is_spread_over_processes(tmp_path: Path) -> None:
    script = tmp_path / "pair.py"
    script.write_text(_PAIR)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("graph",), "MODE is 'graph' on a CPU, which has no CUDA graphs; take eager"),
        (("compile_graph",), "MODE is 'compile_graph' on a CPU, which has no CUDA graphs; take compile"),
        (("reduce-overhead",), "MODE is 'reduce-overhead'; take one of eager, compile, graph, compile_graph"),
    ],
)
def test_a_mode_that_cannot_be_is_refused_first(
    words: tuple[str, ...], said: str, small_config: Callable, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        pretrain(small_config("PRETRAIN.STEP.MODE", *words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_graphs_cannot_hold_is_refused(small_config: Callable) -> None:
    graph = small_config("PRETRAIN.STEP.MODE", "graph", "MODEL.DEVICE", "cuda").cfg
    check_mode(graph, "cuda")
    with pytest.raises(UserError, match="in a process of a group; take compile, or one process by itself"):
        check_mode(graph, "cuda", joined=True)
    lamb = small_config("PRETRAIN.STEP.MODE", "graph", "PRETRAIN.OPTIMIZER.NAME", "lamb").cfg
    with pytest.raises(UserError, match="lamb, which counts its steps on the host; take MODE eager"):
        check_mode(lamb, "cuda")


def test_lengths_only_grow_and_are_few() -> None:
    lengths = Lengths()

    def padded(pairs: int) -> int:
        labels = torch.arange(pairs)
        found = lengths(Targets.from_csr(labels, torch.tensor([0, pairs]), classes=10_000))
        assert found.repeats is not None
        assert found.repeats.tolist() == [len(found.rows) - pairs, 0]
        return len(found.rows)

    assert [padded(pairs) for pairs in (3, 60, 64, 65, 128, 110, 1000, 5)] == [64, 64, 64, 128, 128, 128, 2048, 2048]
    nothing = Targets.from_csr(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]), classes=4)
    assert lengths(nothing) is nothing


def test_parts_of_another_shape_are_recorded_anew_and_the_graph_before_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, made, graphs = StandIn(monkeypatch), list[str](), list[weakref.ref]()

    def update(batch: Parts) -> int:
        made.append("record" if cuda.recording else "step")
        if cuda.recording:
            graphs.append(weakref.ref(cuda.recording))
        return int(batch.parts[0][0].sum())

    graphed = GraphedUpdate(update, lambda: made.append("ready"), CPU)
    lengths = Lengths()

    def step(number: int, side: int) -> None:
        each = batch(number)
        graphed(Parts([(torch.full((4, side), number), lengths(each.targets))], 4))

    for number in range(6):
        step(number, 2)
    assert made == ["ready", *["step"] * 3, "ready", "record"]
    kept = graphs[0]()
    assert kept is not None
    assert kept.replays == 3
    del kept
    made.clear()
    step(6, 3)
    assert made == ["ready", "step"]
    assert graphs[0]() is None  # before the new shape takes memory of its own
    for number in range(7, 10):
        step(number, 3)
    assert made == ["ready", *["step"] * 3, "ready", "record"]
    assert len(graphs) == 2


def test_on_a_cpu_the_feed_hands_batches_through() -> None:
    whole = batch(0, images=5)
    ((images, targets),) = Feed(CPU)(whole)
    assert images.data_ptr() == whole.images.data_ptr()
    assert targets is whole.targets
    parts = Feed(CPU, change=lambda found: replace(found, images=found.images + 100))(whole, 2)
    assert [(len(images), targets.images) for images, targets in parts] == [(3, 103), (2, 102)]
    assert torch.equal(torch.cat([images for images, _ in parts]), whole.images)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["graph", "compile", "compile_graph"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_on_a_gpu_all_modes_learn_the_same(mode: str, accumulate: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    batches = [batch(number, images=8) for number in range(8)]
    batches[5] = batch(5, images=7, unreadable=1)
    model, peer = network().cuda(), network().cuda()
    step, losses = steps(model, mode, batches, accumulate=accumulate)
    assert step.apart == 1
    assert losses == pytest.approx(steps(peer, "eager", batches, accumulate=accumulate)[1], rel=1e-4)
    for mine, theirs in zip(model.state_dict().values(), peer.state_dict().values()):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_on_a_gpu_a_step_waits_for_nobody_and_what_is_not_finite_moves_nothing(mode: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    model = network().cuda()
    step, _ = steps(model, mode, [batch(number) for number in range(5)])
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batch(6), images=4, rate=0.1)
        model.pixel_std.zero_()
        kept = [p.detach().clone() for p in step.optimizer.param_groups[0]["params"]]
        figures = step(batch(7), images=4, rate=0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not figures.finite
    assert all(map(torch.equal, kept, step.optimizer.param_groups[0]["params"]))
