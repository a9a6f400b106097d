"""Targets of one length for every step: padding by repetition changes neither loss nor gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scaleprior.pretrain.losses.chunked import chunked_logistic_loss
from scaleprior.pretrain.losses.logistic import logistic_loss
from scaleprior.pretrain.losses.targets import Targets

IMAGES, CLASSES = 5, 40


def targets(seed: int, *, known: bool) -> Targets:
    """Of 5 images, of which the third has no label; also with labels that are known to be absent."""
    generator = torch.Generator().manual_seed(seed)

    def listed() -> tuple[Tensor, Tensor]:
        counts = torch.randint(1, 9, (IMAGES,), generator=generator)
        counts[2] = 0
        labels = torch.cat([torch.randperm(CLASSES, generator=generator)[:count].sort()[0] for count in counts])
        return labels, torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))

    return Targets.from_csr(*listed(), classes=CLASSES, absent=listed() if known else None)


def loss_and_gradient(found: Targets, *, chunk: int, smoothing: float) -> tuple[Tensor, Tensor]:
    features = torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(1)).mul_(4).requires_grad_()
    if chunk:
        weight, bias = torch.eye(CLASSES), torch.zeros(CLASSES)
        loss = chunked_logistic_loss(features, weight, bias, found, chunk=chunk, smoothing=smoothing)
    else:
        loss = logistic_loss(features, found, smoothing=smoothing)
    loss.backward()
    assert features.grad is not None
    return loss.detach(), features.grad


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("chunk", [0, 16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("more", [0, 1, 100])
def test_padding_changes_no_bit(known: bool, chunk: int, smoothing: float, more: int) -> None:
    plain = targets(more, known=known)
    padded = plain.padded(*(length + more for length in plain.lengths))
    assert padded.lengths == (plain.lengths[0] + more, plain.lengths[1] + more if known else 0)
    (loss, gradient), (other, theirs) = (
        loss_and_gradient(each, chunk=chunk, smoothing=smoothing) for each in (plain, padded)
    )
    assert torch.equal(gradient, theirs)
    if known and not chunk:  # sums of more terms, less the repeated ones: roundings of 6e-8 of some hundred
        assert loss.item() == pytest.approx(other.item(), rel=1e-5)
    else:
        assert torch.equal(loss, other)


def test_what_cannot_be_padded_is_told() -> None:
    plain = targets(0, known=False)
    with pytest.raises(ValueError, match="cannot pad"):
        plain.padded(plain.lengths[0] - 1, 0)
    empty = Targets.from_csr(torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), classes=CLASSES)
    with pytest.raises(ValueError, match=r"cannot pad \(0, 0\) pairs to \(4, 0\)"):
        empty.padded(4, 0)
