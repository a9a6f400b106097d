"""The head's loss by chunks of labels against the linear layer and the loss over all logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scaleprior.pretrain.losses.chunked import chunked_logistic_loss
from scaleprior.pretrain.losses.logistic import logistic_loss
from scaleprior.pretrain.losses.targets import Targets
from tests.pretrain.test_loss import DenseAllocations, csr

PRESENT = ([3, 0], [], [6], list(range(7)), [2, 2])
ABSENT = ([1], [0, 5], [], [], [0, 1, 3, 4, 5, 6])


def problem(dtype: torch.dtype = torch.float64, *, known: bool = False) -> tuple[list[Tensor], Targets]:
    """Features [5, 4], weight [7, 4] and bias [7], and targets."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) * 2 for shape in ((5, 4), (7, 4), (7,))]
    absent = csr(*ABSENT) if known else None
    return [t.requires_grad_() for t in tensors], Targets.from_csr(*csr(*PRESENT), classes=7, absent=absent)


def loss_and_gradients(loss: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    value = loss(*tensors)
    (value * 0.3).backward()
    return [value.detach(), *(t.grad.clone() for t in tensors if t.grad is not None)]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_equals_the_loss_over_all_logits(chunk: int, smoothing: float, known: bool) -> None:
    tensors, targets = problem(known=known)
    mine = loss_and_gradients(
        lambda x, w, b: chunked_logistic_loss(x, w, b, targets, chunk=chunk, smoothing=smoothing), tensors
    )
    whole, _ = problem()
    theirs = loss_and_gradients(lambda x, w, b: logistic_loss(F.linear(x, w, b), targets, smoothing=smoothing), whole)
    assert len(mine) == 4
    for one, other in zip(mine, theirs):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)  # sums of float64 in another order


def test_under_autocast_products_are_in_bfloat16_and_the_loss_in_float32() -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((16, 32), (50, 32), (50,))]
    targets = Targets.from_csr(*csr(*([i, i + 1] for i in range(16))), classes=50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine = loss_and_gradients(lambda x, w, b: chunked_logistic_loss(x, w, b, targets, chunk=20), tensors)
        whole = [t.detach().clone().requires_grad_() for t in tensors]
        theirs = loss_and_gradients(lambda x, w, b: logistic_loss(F.linear(x, w, b), targets), whole)
    assert [t.dtype for t in mine] == [torch.float32] * 4
    assert mine[0].item() == pytest.approx(theirs[0].item(), rel=1e-6)  # of the same bfloat16 logits
    exact = [t.detach().clone().requires_grad_() for t in tensors]
    exact = loss_and_gradients(lambda x, w, b: logistic_loss(F.linear(x, w, b), targets), exact)
    for one, other, true in zip(mine[1:], theirs[1:], exact[1:]):
        # bfloat16 has 8 bits; the whole layer's gradients may be no nearer to float32's than by a factor of 2
        assert (one - true).norm() <= 2 * (other - true).norm() <= 0.05 * true.norm()


def test_only_gradients_that_are_wanted_are_worked_out() -> None:
    (features, weight, bias), targets = problem()
    frozen = features.detach()  # as a frozen trunk leaves them
    chunked_logistic_loss(frozen, weight, bias, targets, chunk=3).backward()
    assert frozen.grad is None
    assert weight.grad is not None
    with torch.no_grad():
        value = chunked_logistic_loss(features, weight, bias, targets, chunk=3)
    assert not value.requires_grad
    assert value.item() == pytest.approx(logistic_loss(F.linear(features, weight, bias), targets).item(), rel=1e-14)


def test_a_second_backward_pass_is_refused() -> None:
    # The gradients are scaled where they lie; scaling them twice would be silently wrong.
    (features, weight, bias), targets = problem()
    loss = chunked_logistic_loss(features, weight, bias, targets, chunk=3)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("known", [False, True])
def test_holds_no_logits_of_all_labels_and_one_gradient_of_the_weights(known: bool) -> None:
    images, features, classes, chunk = 8, 4, 4000, 1000
    x = torch.randn(images, features, requires_grad=True)
    weight, bias = torch.randn(classes, features, requires_grad=True), torch.zeros(classes, requires_grad=True)
    absent = csr(*([i + 1] for i in range(images))) if known else None
    targets = Targets.from_csr(*csr(*([i] for i in range(images))), classes=classes, absent=absent)
    with DenseAllocations(classes * features * 4) as seen:  # half of what all logits take
        chunked_logistic_loss(x, weight, bias, targets, chunk=chunk).backward()
    assert seen.operations == ["aten.empty_like.default"]  # weight.grad, which is handed over without a copy
    assert weight.grad is not None
