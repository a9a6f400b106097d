"""The path that a step takes on a GPU, on tensors without numbers: nothing is asked of the device, all is on it.

torch's fake tensors have a device, a type and a shape, and refuse what would need their numbers (``item``, ``nonzero``)
or would mix devices. In place of Triton's kernels and of the fused update stand what look at their arguments; there is
no backward pass, as autograd starts a thread for a device that is not here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaleprior.detect import precision
from scaleprior.detect.faster_rcnn import kernels
from scaleprior.detect.faster_rcnn.inputs import Inputs
from scaleprior.detect.faster_rcnn.model import Detector, build_detector
from scaleprior.detect.faster_rcnn.parts.anchors import AnchorGrid
from scaleprior.detect.faster_rcnn.step import TrainStep
from scaleprior.detect.faster_rcnn.truth import Truth
from tests.detect.conftest import tiny_config
from tests.detect.faster_rcnn.test_recording import a_batch

fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")
GPU = torch.device("cuda:0")
_AMP = ("SOLVER.AMP.ENABLED", "True")
_CLIP = ("SOLVER.CLIP_GRADIENTS.ENABLED", "True")


class Kernel:
    """In place of a kernel: its tensors have to be on the GPU."""

    launches = 0

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            assert {each.device for each in args if isinstance(each, Tensor)} == {GPU}
            Kernel.launches += 1

        return launch


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The mode in which a GPU seems to be here."""
    pytest.importorskip("triton", reason="no Triton here")
    from scaleprior.detect.faster_rcnn.kernels import matching, nms, roi_align

    Kernel.launches = 0
    for module, names in ((nms, ("_mark", "_choose")), (matching, ("_highest", "_who")), (roi_align, ("_pool",))):
        for name in names:
            monkeypatch.setattr(module, name, Kernel())
    monkeypatch.setattr(kernels, "usable", lambda tensor: tensor.device == GPU)
    monkeypatch.setattr(precision, "_refusal", lambda dtype, device: "")
    for place, name, value in (
        (torch.cuda.amp.common, "amp_definitely_not_available", False),
        (torch.cuda, "is_bf16_supported", True),
        (torch.cuda, "device_of", contextlib.nullcontext()),
        (torch.cuda, "is_current_stream_capturing", False),
    ):
        monkeypatch.setattr(place, name, lambda *args, value=value: value)
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def _moved(model: Detector, to_gpu: Callable[[Tensor], Tensor]) -> Detector:
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                moved = nn.Parameter(to_gpu(parameter.detach()), requires_grad=parameter.requires_grad)
                module._parameters[name] = moved
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = to_gpu(buffer)
    return model


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("FPN", ()),
        ("FPN", _AMP),
        ("FPN", (*_AMP, "SCALEPRIOR.AMP_DTYPE", "bfloat16")),
        ("C4", (*_AMP, *_CLIP)),
        ("C4", (*_CLIP, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm")),
    ],
)
def test_a_step_asks_nothing_and_leaves_nothing_on_the_host(
    kind: str, words: tuple[str, ...], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a BN that learns in the head counts its regions, for which a GPU is asked
    norm = ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.ROI_HEADS.NUM_CLASSES", "3")
    cfg = tiny_config(kind, [*norm, "MODEL.DEVICE", "cuda", *words]).cfg
    model, inputs = build_detector(cfg).train(), Inputs.of(a_batch(0), [5, 6], torch.device("cpu"), divisor=32)
    updated: list[int] = []

    def fused(*lists: Any, lr: Tensor, found_inf: Tensor, grad_scale: Tensor | None, **numbers: Any) -> None:
        tensors = [tensor for each in lists for tensor in each] + [lr, found_inf]
        tensors += [] if grad_scale is None else [grad_scale]
        assert {(tensor.device, tensor.dtype) for tensor in tensors} == {(GPU, torch.float32)}
        assert not numbers["is_first_step"]  # else it would make momenta, of no value where there is no update
        updated.append(len(lists[0]))

    def backward(loss: Tensor) -> None:
        assert loss.device == GPU
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(torch, "_fused_sgd_", fused)
    monkeypatch.setattr(Tensor, "backward", backward)
    mode = request.getfixturevalue("gpu")

    def to_gpu(tensor: Tensor) -> Tensor:
        return mode.from_tensor(tensor).to(GPU)

    step = TrainStep(cfg, _moved(model, to_gpu), seed=1)
    truth = Truth(*map(to_gpu, (inputs.truth.boxes, inputs.truth.classes, inputs.truth.present)))
    moved = Inputs(to_gpu(inputs.images), to_gpu(inputs.sizes), truth, to_gpu(inputs.seeds))
    for _ in range(2):
        found = step._make(moved)
        assert (found.device, found.dtype, len(found)) == (GPU, torch.float32, 9)
    assert Kernel.launches > 10
    assert sum(updated) == 2 * sum(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.usefixtures("gpu")
def test_anchors_that_a_recording_reads_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = AnchorGrid([[8.0]], [[1.0]], [4])
    for name, buffer in list(grid.named_buffers()):
        setattr(grid, name, buffer.to(GPU))
    feature = torch.empty(1, 2, 3, 4, device=GPU)
    kept = grid([feature])
    assert grid([feature])[0] is kept[0]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert grid([feature])[0] is not kept[0]
