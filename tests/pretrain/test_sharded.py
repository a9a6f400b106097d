"""A head spread over two processes against a whole one in one process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaleprior.pretrain.losses.targets import Targets
from scaleprior.pretrain.network.head import LinearHead
from scaleprior.pretrain.network.sharded import ShardedHead, own_state, share_of, whole_state
from scaleprior.pretrain.optim.clipping import gradient_norm
from scaleprior.training.processes import ProcessGroup, join_processes
from tests import processes
from tests.pretrain.test_loss import csr
from tests.processes import free_port

IMAGES, FEATURES, STEPS = 8, 4, 3
SPLIT = (0, 3, IMAGES)  # the images of two processes, unequal as where some could not be read
CASES = {
    "odd": {"labels": 7, "chunk": 0, "known": False, "optimizer": "SGD"},
    "chunks": {"labels": 7, "chunk": 2, "known": False, "optimizer": "Adam", "smoothing": 0.1},
    "known": {"labels": 8, "chunk": 3, "known": True, "optimizer": "Adam"},
    "fewer labels than processes": {"labels": 1, "chunk": 0, "known": False, "optimizer": "SGD"},
}


class Net(nn.Module):
    def __init__(self, head: LinearHead | ShardedHead) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, FEATURES), nn.GELU())
        self.head = head

    def forward(self, images: Tensor, targets: Targets) -> Tensor:
        return self.head.loss(self.trunk(images), targets)


def batch(case: dict[str, Any], step: int, start: int, stop: int) -> tuple[Tensor, Targets]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(IMAGES, 6, generator=generator, dtype=torch.float64)
    kinds = torch.randint(0, 4, (IMAGES, case["labels"]), generator=generator)
    present, absent = ([torch.nonzero(row == kind).flatten().tolist() for row in kinds[start:stop]] for kind in (0, 1))
    known = csr(*absent) if case["known"] else None
    return images[start:stop], Targets.from_csr(*csr(*present), classes=case["labels"], absent=known)


def optimizer_of(case: dict[str, Any], net: nn.Module) -> torch.optim.Optimizer:
    options = {"lr": 0.1, "momentum": 0.9} if case["optimizer"] == "SGD" else {"lr": 0.1}
    return getattr(torch.optim, case["optimizer"])(net.parameters(), **options)


def settings_of(case: dict[str, Any]) -> dict[str, Any]:
    return {"bias": -1.0, "chunk": case["chunk"], "smoothing": case.get("smoothing", 0.0)}


def learn(
    case: dict[str, Any], net: nn.Module, optimizer: torch.optim.Optimizer, group: ProcessGroup, steps: range
) -> list[Tensor]:
    """Some steps on this process' images; the sums of their losses."""
    start, stop = SPLIT[group.rank : group.rank + 2] if group.size == 2 else (0, IMAGES)
    losses = []
    for step in steps:
        loss = net(*batch(case, step, start, stop))
        optimizer.zero_grad()
        (loss * group.size / IMAGES).backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def made_on_a_rank(case: dict[str, Any], group: ProcessGroup, seed: int) -> tuple[Net, ShardedHead, nn.Module]:
    torch.manual_seed(seed)
    head = ShardedHead(FEATURES, case["labels"], group, **settings_of(case))
    net = Net(head)
    head.keep_from_exchange(net, "head")
    return net, head, nn.parallel.DistributedDataParallel(net)


def on_a_rank(folder: str) -> None:
    """What each of the two processes does."""
    torch.set_default_dtype(torch.float64)
    with join_processes(torch.device("cpu")) as group:
        for name, case in CASES.items():
            net, head, parallel = made_on_a_rank(case, group, 5)
            optimizer = optimizer_of(case, net)
            found: dict[str, Any] = {"losses": learn(case, parallel, optimizer, group, range(STEPS))}
            found["share"] = len(head.weight)
            trunk, shards = ([p.grad for p in m.parameters() if p.grad is not None] for m in (net.trunk, head))
            found["trunk"], found["norm"] = trunk, gradient_norm(trunk, shards=shards, processes=group)
            found["logits"] = head.logits(net.trunk(batch(case, 0, *SPLIT[group.rank : group.rank + 2])[0]))
            whole = head.whole()
            found["head"] = whole and whole.state_dict()
            state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "counters": {"step": STEPS}}
            state["average"] = {"steps": STEPS, "average": net.state_dict()}
            found["state"] = whole_state(state, head, optimizer)
            torch.save(found, f"{folder}/{name}-{group.rank}.pt")
            group.wait()
            other, other_head, other_parallel = made_on_a_rank(case, group, 6)
            other_optimizer = optimizer_of(case, other)
            own = own_state(torch.load(f"{folder}/{name}-0.pt")["state"], other_head, other_optimizer)
            other.load_state_dict(own["model"])
            other_optimizer.load_state_dict(own["optimizer"])
            more = range(STEPS, STEPS + 2)
            assert learn(case, parallel, optimizer, group, more) == learn(
                case, other_parallel, other_optimizer, group, more
            )
            assert all(map(torch.equal, net.parameters(), other.parameters()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", f"from tests.pretrain.test_sharded import on_a_rank\non_a_rank({str(folder)!r})"]
    started = [processes.start(command, env=processes.environment(**place, RANK=rank)) for rank in "01"]
    for process in started:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return folder


@pytest.fixture
def wide() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_equal_one_with_a_whole_head(runs: Path, name: str) -> None:
    case = CASES[name]
    zero, one = (torch.load(runs / f"{name}-{rank}.pt") for rank in range(2))
    torch.manual_seed(5)
    head = LinearHead(FEATURES, case["labels"], **settings_of(case))
    net = Net(head)
    optimizer = optimizer_of(case, net)
    losses = learn(case, net, optimizer, ProcessGroup(0, 1, torch.device("cpu")), range(STEPS))
    same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)  # float64, sums in another order
    same([a + b for a, b in zip(zero["losses"], one["losses"])], losses)
    for rank in (zero, one):
        same(rank["trunk"], [p.grad for p in net.trunk.parameters()])
    same(zero["head"], dict(head.state_dict()))
    same(zero["state"]["optimizer"]["state"], optimizer.state_dict()["state"])
    same(zero["state"]["model"], dict(net.state_dict()))
    same(zero["state"]["average"]["average"], dict(net.state_dict()))
    assert zero["state"]["counters"] == {"step": STEPS}
    assert one["head"] is None
    for rank in (zero, one):
        same(rank["norm"], gradient_norm([p.grad for p in net.parameters() if p.grad is not None]))
    assert (zero["share"], one["share"]) == (case["labels"] // 2, case["labels"] - case["labels"] // 2)
    logits = head.logits(net.trunk(batch(case, 0, 0, IMAGES)[0]))
    same(torch.cat([zero["logits"], one["logits"]]), logits.detach())


def test_shares_are_all_labels_once_and_alike() -> None:
    for labels in (1, 2, 7, 50, 18_291):
        for size in (1, 2, 3, 50):
            shares = [share_of(labels, rank, size) for rank in range(size)]
            assert [label for share in shares for label in range(labels)[share]] == list(range(labels))
            assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1


def test_begins_as_a_whole_head_and_takes_up_the_files_of_one() -> None:
    group = ProcessGroup(1, 2, torch.device("cpu"))
    torch.manual_seed(3)
    whole = LinearHead(FEATURES, 5, bias=-2.0)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    head = ShardedHead(FEATURES, 5, group, bias=-2.0)
    assert torch.rand(1) == drawn  # what is drawn next is what it would be
    assert torch.equal(head.weight, whole.weight[2:])
    assert torch.equal(head.bias, whole.bias[2:])
    other = LinearHead(FEATURES, 5, bias=1.0)
    head.load_state_dict(other.state_dict())
    assert torch.equal(head.weight, other.weight[2:])
    assert torch.equal(head.bias, other.bias[2:])
    optimizer, shard = (torch.optim.Adam(m.parameters(), lr=0.1) for m in (other, head))
    other(torch.ones(2, FEATURES)).sum().backward()
    optimizer.step()
    average = {"steps": 1, "average": {"head.bias": other.bias}}
    own = own_state({"model": {}, "optimizer": optimizer.state_dict(), "average": average}, head, shard)
    assert own["average"]["steps"] == 1
    assert torch.equal(own["average"]["average"]["head.bias"], other.bias[2:])
    shard.load_state_dict(own["optimizer"])
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(shard.state[head.weight][name], optimizer.state[other.weight][name][2:])
    assert shard.state[head.bias]["step"] == 1


def test_alone_it_is_a_whole_head() -> None:
    group = ProcessGroup(0, 1, torch.device("cpu"))
    case = CASES["chunks"]
    torch.manual_seed(5)
    head = ShardedHead(FEATURES, 7, group, **settings_of(case)).double()
    whole = head.whole()
    assert whole is not None
    features = torch.randn(3, FEATURES, dtype=torch.float64)
    targets = Targets.from_csr(*csr([1], [], [0, 6]), classes=7)
    assert torch.equal(head.logits(features), whole.logits(features))
    torch.testing.assert_close(head.loss(features, targets), whole.loss(features, targets), rtol=1e-15, atol=0)
