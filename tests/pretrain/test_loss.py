"""The sparse loss against a hand-made value, dense BCE, gradcheck, and what it may allocate."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scaleprior.pretrain import known_logistic_loss, sparse_logistic_loss


def csr(*rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.tensor([0, *(len(row) for row in rows)])
    return torch.tensor([label for row in rows for label in row], dtype=torch.int64), counts.cumsum(0)


def dense(rows: tuple[list[int], ...], classes: int) -> torch.Tensor:
    target = torch.zeros(len(rows), classes, dtype=torch.float64)
    for i, row in enumerate(rows):
        target[i, row] = 1
    return target


def test_hand_derived() -> None:
    # image 0, labels {1}: softplus(0) + softplus(-ln 3) = ln 2 + ln(4/3); image 1, none: softplus(0) + softplus(ln 3)
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64)
    labels, offsets = csr([1], [])
    per_image = sparse_logistic_loss(logits, labels, offsets, reduction="none")
    expected = [math.log(2) + math.log(4 / 3), math.log(2) + math.log(4)]
    assert per_image.tolist() == pytest.approx(expected, abs=1e-15)
    assert sparse_logistic_loss(logits, labels, offsets).item() == pytest.approx(sum(expected) / 2, abs=1e-15)
    assert sparse_logistic_loss(logits, labels, offsets, reduction="sum").item() == pytest.approx(sum(expected))


@pytest.mark.parametrize("scale", [1.0, 30.0, 200.0])
def test_equals_dense_bce_in_value_and_gradient(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = ([3, 0], [], [6], list(range(7)), [2])
    logits = (torch.randn(5, 7, generator=generator, dtype=torch.float64) * scale).requires_grad_()
    sparse_logistic_loss(logits, *csr(*rows)).backward()
    mine, logits.grad = logits.grad, None
    reference = F.binary_cross_entropy_with_logits(logits, dense(rows, 7), reduction="none").sum(1).mean()
    reference.backward()
    assert sparse_logistic_loss(logits, *csr(*rows)).item() == pytest.approx(reference.item(), rel=1e-9)
    torch.testing.assert_close(mine, logits.grad, rtol=1e-9, atol=1e-12)


def test_gradcheck() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    labels, offsets = csr([0, 3], [], [1])
    for reduction in ("mean", "sum", "none"):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: sparse_logistic_loss(x, labels, offsets, reduction=r), [logits]
        )


def test_extreme_logits_in_float32_stay_exact() -> None:
    # softplus(x) - x would give 0 for x = 40 in float32; softplus(-40) = 4.248e-18
    loss = sparse_logistic_loss(torch.tensor([[40.0]]), *csr([0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-40.0)), rel=1e-6)
    loss = sparse_logistic_loss(torch.tensor([[1e4, -1e4]]), *csr([1]))
    assert loss.item() == 2e4


def test_a_label_listed_twice_counts_once_and_half_precision_is_widened() -> None:
    logits = torch.tensor([[0.5, -1.0]], dtype=torch.bfloat16, requires_grad=True)
    twice = sparse_logistic_loss(logits, *csr([0, 0]))
    assert twice.dtype == torch.float32
    assert twice.item() == sparse_logistic_loss(logits, *csr([0])).item()
    twice.backward()
    assert logits.grad.dtype == torch.bfloat16


def test_refuses_shapes_and_labels_that_do_not_fit() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"need logits \[B, C\].*got \(2, 3\), \(1,\), \(2,\)"):
        sparse_logistic_loss(logits, torch.tensor([0]), torch.tensor([0, 1]))
    for label in (-1, 3):
        with pytest.raises(ValueError, match=rf"labels {label}..{label} are outside \[0, 3\)"):
            sparse_logistic_loss(logits, torch.tensor([label]), torch.tensor([0, 1, 1]))
    for offsets in ([0, 2, 1], [0, 0, 0], [1, 1, 1]):
        with pytest.raises(ValueError, match="offsets must rise"):
            sparse_logistic_loss(logits, torch.tensor([0]), torch.tensor(offsets))
    with pytest.raises(ValueError, match="reduction is 'avg'"):
        sparse_logistic_loss(logits, *csr([0], []), reduction="avg")  # type: ignore[arg-type]


class DenseAllocations(TorchDispatchMode):
    """Names of the operations whose result is new memory of at least ``size`` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.operations: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.nbytes() >= self.size and storage.data_ptr() not in given:
                    self.operations.append(str(func))
        return out


def test_makes_one_dense_tensor_forward_and_one_backward() -> None:
    images, classes = 8, 5000
    labels, offsets = csr(*([i] for i in range(images)))
    logits = torch.zeros(images, classes, requires_grad=True)
    with DenseAllocations(images * classes * 4) as forward:
        loss = sparse_logistic_loss(logits, labels, offsets)
    with DenseAllocations(images * classes * 4) as backward:
        loss.backward()
    assert forward.operations == ["aten.new_empty.default"]  # of larger batches a block of rows, see test_terms.py
    assert backward.operations == ["aten.empty_like.default"]
    # the same watch sees the dense target and more in the usual formulation
    with DenseAllocations(images * classes * 4) as usual:
        target = torch.zeros(images, classes)
        F.binary_cross_entropy_with_logits(logits, target, reduction="sum").backward()
    assert len(usual.operations) >= 4


def test_known_by_hand() -> None:
    # image 0: label 1 present, label 0 absent, label 2 unknown: softplus(-ln 3) + softplus(0); image 1: nothing known
    logits = torch.tensor([[0.0, math.log(3), 99.0], [5.0, 5.0, 5.0]], dtype=torch.float64, requires_grad=True)
    per_image = known_logistic_loss(logits, *csr([1], []), *csr([0], []), reduction="none")
    assert per_image.tolist() == pytest.approx([math.log(4 / 3) + math.log(2), 0], abs=1e-15)
    mean = known_logistic_loss(logits, *csr([1], []), *csr([0], []))
    mean.backward()
    # sigmoid(-ln 3) = 1/4, sigmoid(0) = 1/2, halved by the mean of two images
    expected = torch.tensor([[0.25, -0.125, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("scale", [1.0, 30.0, 200.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_known_equals_dense_bce_with_a_mask_in_value_and_gradient(scale: float, reduction: str) -> None:
    generator = torch.Generator().manual_seed(2)
    present, absent = ([3, 0], [], [6], list(range(7)), [2]), ([1], [0, 5], [], [], [0, 1, 3, 4, 5, 6])
    logits = (torch.randn(5, 7, generator=generator, dtype=torch.float64) * scale).requires_grad_()
    loss = known_logistic_loss(logits, *csr(*present), *csr(*absent), reduction=reduction)
    loss.backward()
    mine, logits.grad = logits.grad, None
    target = dense(present, 7)
    per_label = F.binary_cross_entropy_with_logits(logits, target, weight=target + dense(absent, 7), reduction="none")
    reference = getattr(per_label.sum(1), reduction)()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-9)
    torch.testing.assert_close(mine, logits.grad, rtol=1e-9, atol=1e-12)
    assert mine[dense(present, 7) + dense(absent, 7) == 0].abs().max() == 0


def test_known_with_everything_else_absent_is_the_sparse_loss() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    present = ([0], [1, 5], [], [2, 3, 4])
    absent = [sorted({*range(6)} - {*row}) for row in present]
    for reduction in ("none", "mean", "sum"):
        torch.testing.assert_close(
            known_logistic_loss(logits, *csr(*present), *csr(*absent), reduction=reduction),
            sparse_logistic_loss(logits, *csr(*present), reduction=reduction),
            rtol=1e-14, atol=0,
        )  # fmt: skip
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: known_logistic_loss(x, *csr(*present), *csr([1], [], [0], []), reduction=r), [logits]
        )


def test_known_takes_repeated_and_contradicting_labels_once_and_widens() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    once = known_logistic_loss(logits, *csr([0]), *csr([1]))
    assert known_logistic_loss(logits, *csr([0, 0]), *csr([1, 0, 1])).item() == once.item()
    assert once.dtype == torch.float32
    once.backward()
    assert logits.grad.dtype == torch.bfloat16
    empty = known_logistic_loss(logits, *csr([]), *csr([]))
    empty.backward()  # a batch of which nothing is known still takes part in the step
    assert empty.item() == 0


def test_known_makes_no_dense_tensor_forward_and_one_backward() -> None:
    images, classes = 8, 5000
    logits = torch.zeros(images, classes, requires_grad=True)
    sides = csr(*([i] for i in range(images))), csr(*([i + 1, i + 2] for i in range(images)))
    with DenseAllocations(images * classes * 4) as forward:
        loss = known_logistic_loss(logits, *sides[0], *sides[1])
    with DenseAllocations(images * classes * 4) as backward:
        loss.backward()
    assert forward.operations == []
    assert backward.operations == ["aten.zeros.default"]


def test_known_refuses_what_does_not_fit() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"labels 3..3 are outside \[0, 3\)"):
        known_logistic_loss(logits, *csr([0], []), *csr([3], []))
    with pytest.raises(ValueError, match="need absent offsets"):
        known_logistic_loss(logits, *csr([0], []), *csr([1]))
    with pytest.raises(ValueError, match="reduction is 'avg'"):
        known_logistic_loss(logits, *csr([0], []), *csr([1], []), reduction="avg")  # type: ignore[arg-type]
