"""Norms with the statistics of the whole batch: two processes with unequal shares against BatchNorm in one."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from scaleprior.training.sync_norms import share_statistics
from tests import processes
from tests.processes import free_port

SHARES = (slice(0, 3), slice(3, 5))
CPU = torch.device("cpu")


def network(dtype: torch.dtype) -> nn.Sequential:
    """Both kinds of norms that trunks have, with other settings each, and one that is not affine."""
    torch.manual_seed(0)
    cumulative = nn.BatchNorm2d(6, momentum=None, affine=False)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=0.3), nn.SiLU(), nn.Conv2d(6, 6, 3), BatchNormAct2d(6, eps=1e-3),
        nn.Conv2d(6, 6, 2), cumulative,
    )  # fmt: skip
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net.to(dtype)


def batches(dtype: torch.dtype) -> list[Tensor]:
    """Two steps of five images, far from mean 0."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, 7, 6, generator=draw, dtype=dtype) * 3 + 5 for _ in range(2)]


def learn(net: nn.Module, inputs: list[Tensor], share: slice) -> dict[str, Tensor]:
    """Outputs, gradients and what the norms remember, after a backward pass of each batch's share."""
    seen: dict[str, Tensor] = {}
    for step, batch in enumerate(inputs):
        images = batch[share].clone().requires_grad_()
        output = net(images)
        (output * torch.arange(output[0].numel(), dtype=output.dtype).view(output[0].shape).cos()).sum().backward()
        seen |= {f"output{step}": output.detach(), f"input{step}": images.grad}  # pyright: ignore[reportAssignmentType]
    seen |= {f"gradient {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return seen | {f"state {name}": value for name, value in net.state_dict().items()}


WORK = f"""
import sys, torch
from scaleprior.training.processes import join_processes
from {__name__} import CPU, SHARES, batches, learn, network, share_statistics
torch.set_num_threads(1)
with join_processes(CPU) as group:
    for dtype in (torch.float32, torch.float64):
        net = share_statistics(network(dtype), CPU)
        torch.save(learn(net, batches(dtype), SHARES[group.rank]), f"{{sys.argv[1]}}/{{dtype}}-{{group.rank}}.pt")
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have seen, in files by type and rank."""
    folder = tmp_path_factory.mktemp("norms")
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", WORK, folder]
    started = [processes.start(command, env=processes.environment(**place, RANK=rank)) for rank in "01"]
    for process in started:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return folder


# Sums of some hundred terms of up to 100 in another order: a few units in the last place of the largest.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_two_processes_with_unequal_shares_are_one(shared: Path, dtype: torch.dtype, tolerance: float) -> None:
    whole = learn(network(dtype), batches(dtype), slice(0, 5))
    parts = [torch.load(shared / f"{dtype}-{rank}.pt") for rank in range(2)]
    for name, value in whole.items():
        pieces = [part[name] for part in parts]
        if name.startswith("gradient"):  # of each process' own images; DDP adds them up
            found = pieces[0] + pieces[1]
        elif name.startswith("state"):
            assert torch.equal(*pieces), name
            found = pieces[0]
        else:
            found = torch.cat(pieces)
        scale = max(value.abs().max().item(), 1)
        assert (found - value).abs().max().item() <= tolerance * scale, name
    assert parts[0].keys() == whole.keys()


def test_files_are_those_of_batch_norm_and_evaluation_needs_no_other_process() -> None:
    plain = network(torch.float32)
    plain(batches(torch.float32)[0])
    net = share_statistics(copy.deepcopy(plain), CPU)
    assert not [m for m in net.modules() if type(m) in (nn.BatchNorm2d, BatchNormAct2d)]
    for (name, value), (ours, found) in zip(plain.state_dict().items(), net.state_dict().items(), strict=True):
        assert name == ours
        assert torch.equal(value, found)
    image = batches(torch.float32)[1]
    assert torch.equal(net.eval()(image), plain.eval()(image))
    fresh = network(torch.float32)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh.eval()(image), plain(image))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_they_are_torchs() -> None:
    net = share_statistics(network(torch.float32).cuda(), torch.device("cuda"))
    kinds = [type(m).__name__ for m in net.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert kinds == ["SyncBatchNorm", "SyncBatchNormAct", "SyncBatchNorm"]
