"""The loss' arithmetic: by blocks of rows, in a GPU's way, in half precision, with smoothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scaleprior.pretrain.losses import terms
from scaleprior.pretrain.losses.chunked import chunked_logistic_loss
from scaleprior.pretrain.losses.logistic import logistic_loss
from scaleprior.pretrain.losses.targets import Targets
from tests.pretrain.test_loss import DenseAllocations, csr

IMAGES, CLASSES = 13, 50


def problem(dtype: torch.dtype, scale: float = 3.0, *, known: bool = False) -> tuple[Tensor, Targets]:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(IMAGES, CLASSES, generator=generator) * scale).to(dtype).requires_grad_()
    present = [[], *([i, 2 * i, 49] for i in range(1, IMAGES))]
    absent = csr(*([i + 20] for i in range(IMAGES))) if known else None
    return logits, Targets.from_csr(*csr(*present), classes=CLASSES, absent=absent)


def loss_and_gradient(logits: Tensor, targets: Targets, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    logits.grad = None
    loss = logistic_loss(logits, targets, smoothing=smoothing)
    (loss / IMAGES).backward()
    assert logits.grad is not None
    return loss.detach(), logits.grad


def plain(logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """The formulas over whole tensors, step by step as the loss was first written."""
    places = targets.rows, targets.labels
    x = logits.detach()
    losses = F.softplus(x, threshold=40.0)
    losses[places] = F.softplus(-x[places], threshold=40.0)
    slopes = torch.sigmoid(x)
    slopes[places] = -torch.sigmoid(-x[places])
    return losses.sum(dim=1).sum(), slopes.mul_(torch.full((IMAGES, 1), 1 / IMAGES, dtype=x.dtype))


@pytest.mark.parametrize("rows", [1, 4, 13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_block_keeps_the_bits_and_more_keep_the_values(
    dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, targets = problem(dtype)
    monkeypatch.setattr(terms, "_BLOCK_BYTES", rows * CLASSES * dtype.itemsize)
    assert len(list(terms.row_blocks(logits, targets.rows))) == math.ceil(IMAGES / rows)
    for mine, whole in zip(loss_and_gradient(logits, targets), plain(logits, targets)):
        if rows == IMAGES:
            assert torch.equal(mine, whole)
        else:  # torch computes what is left over of a block's vectors by another exp, a unit in the last place apart
            torch.testing.assert_close(mine, whole, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_way_of_a_gpu_agrees(
    dtype: torch.dtype, smoothing: float, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, targets = problem(dtype, known=known)
    on_cpu = loss_and_gradient(logits, targets, smoothing)
    monkeypatch.setattr(terms, "_fuses", lambda logits: True)
    on_gpu = loss_and_gradient(logits, targets, smoothing)
    assert on_gpu[0].item() == pytest.approx(on_cpu[0].item(), rel=1e-6)
    # two formulas of one sigmoid: some units in the last place
    torch.testing.assert_close(on_gpu[1], on_cpu[1], rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("fuses", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(value: float, fuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_fuses", lambda logits: fuses)
    logits, targets = problem(torch.bfloat16)
    with torch.no_grad():
        logits[5, 33] = value  # a label that is not listed
    assert not torch.isfinite(loss_and_gradient(logits, targets)[0])


@pytest.mark.parametrize("known", [False, True])
def test_smoothing_moves_the_targets_towards_a_half(known: bool) -> None:
    logits, targets = problem(torch.float64, known=known)
    mine = loss_and_gradient(logits, targets, smoothing=0.2)
    target = torch.full((IMAGES, CLASSES), 0.1, dtype=torch.float64)
    target[targets.rows, targets.labels] = 0.9
    weight = torch.zeros_like(target) if targets.absent is not None else torch.ones_like(target)
    for rows, labels in [(targets.rows, targets.labels), targets.absent or (targets.rows, targets.labels)]:
        weight[rows, labels] = 1
    logits.grad = None
    loss = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
    (loss / IMAGES).backward()
    torch.testing.assert_close(mine[0], loss.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(mine[1], logits.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_and_rounded_once_behind(dtype: torch.dtype) -> None:
    logits, targets = problem(dtype)
    exact = logits.detach().double().requires_grad_()
    loss, gradient = loss_and_gradient(logits, targets)
    true_loss, true_gradient = loss_and_gradient(exact, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(true_loss.item(), rel=1e-6)
    assert gradient.dtype == dtype
    # half a unit in the last place, and as much again where float32 had rounded to a tie; float16 has numbers below
    # its normal ones, a fixed step apart
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), true_gradient, rtol=torch.finfo(dtype).eps, atol=tiny)


def test_pairs_that_are_listed_twice_count_once() -> None:
    """So a list may be filled up to a fixed length with copies of a pair, as a recorded graph needs it."""
    logits, targets = problem(torch.float64)
    rows, labels = (torch.cat((t, t[-1:].expand(7))) for t in (targets.rows, targets.labels))
    filled = Targets(IMAGES, CLASSES, rows, labels)
    once, twice = (loss_and_gradient(logits, t) for t in (targets, filled))
    assert torch.equal(once[0], twice[0])
    assert torch.equal(once[1], twice[1])
    features, weight = torch.eye(IMAGES, dtype=torch.float64), logits.detach().T
    bias = torch.zeros(CLASSES, dtype=torch.float64)
    by_chunks = [chunked_logistic_loss(features, weight, bias, t, chunk=9) for t in (targets, filled)]
    assert by_chunks[0] == by_chunks[1]
    torch.testing.assert_close(by_chunks[0], once[0], rtol=1e-14, atol=0)


def test_a_cpu_never_widens_all_of_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = problem(torch.bfloat16)
    monkeypatch.setattr(terms, "_BLOCK_BYTES", 4 * CLASSES * 4)  # four rows in float32
    with DenseAllocations(IMAGES * CLASSES * 2) as seen:
        loss_and_gradient(logits, targets)
    assert seen.operations == ["aten.empty_like.default"]  # the gradient, in bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_values_are_the_same_and_the_host_never_waits(dtype: torch.dtype, known: bool) -> None:
    logits, targets = problem(dtype, known=known)
    on_cpu = loss_and_gradient(logits, targets)
    there, its_targets = logits.detach().cuda().requires_grad_(), targets.to(torch.device("cuda"))
    weight, bias = torch.randn(CLASSES, 8, device="cuda"), torch.zeros(CLASSES, device="cuda")
    features = torch.randn(IMAGES, 8, device="cuda", requires_grad=True)
    for mode in ("default", "error"):  # the first time kernels are loaded
        torch.cuda.set_sync_debug_mode(mode)
        try:
            on_gpu = loss_and_gradient(there, its_targets)
            by_chunks = chunked_logistic_loss(features, weight, bias, its_targets, chunk=20)
            by_chunks.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert on_gpu[0].item() == pytest.approx(on_cpu[0].item(), rel=1e-5)
    torch.testing.assert_close(on_gpu[1].cpu(), on_cpu[1], rtol=8 * torch.finfo(dtype).eps, atol=1e-9)
    whole = logistic_loss(F.linear(features, weight, bias), its_targets)
    assert by_chunks.item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_the_peak_is_one_tensor_of_losses() -> None:
    from benchmarks.pretrain_loss import compare_losses

    found = compare_losses(256, 18_291, torch.bfloat16, torch.device("cuda"), rounds=20)
    assert found["mine_mib"] < 1.1 * 256 * 18_291 * 4 / 2**20
    assert found["memory"] <= 0.6


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_half_precision_rounds_slopes_and_not_their_scale(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    logits = torch.randn(64, 4096, device="cuda").to(dtype)
    scale = torch.full((64, 1), 1 / 97, device="cuda")  # in bfloat16 0.15 % less
    slopes = torch.empty_like(logits)
    terms.fill_slopes(slopes, logits, scale)
    exact = torch.sigmoid(logits.double()) / 97
    assert float(slopes.double().sum() / exact.sum()) == pytest.approx(1, abs=1e-4)
