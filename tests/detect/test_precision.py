"""Which numbers a run calculates in, and that a run in others is another run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scaleprior.detect import precision
from scaleprior.detect.fingerprint import run_fingerprint
from scaleprior.detect.identity import tuning_of
from scaleprior.detect.precision import amp_dtype
from scaleprior.errors import UserError
from tests.detect.conftest import tiny_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
_ON = ("SOLVER.AMP.ENABLED", "True")


@pytest.mark.parametrize(
    ("words", "device", "expected"),
    [
        ((), CUDA, None),
        (("SCALEPRIOR.AMP_DTYPE", "float16"), CPU, None),
        (_ON, CUDA, torch.float16),
        (_ON, CPU, torch.bfloat16),
        ((*_ON, "SCALEPRIOR.AMP_DTYPE", "bfloat16"), CPU, torch.bfloat16),
    ],
)
def test_the_numbers_of_a_run(words: tuple[str, ...], device: torch.device, expected: Any) -> None:
    assert amp_dtype(tiny_config("FPN", words).cfg, device) is expected


@pytest.mark.parametrize("warns", [False, True])
def test_what_a_device_cannot_calculate_in_is_refused(monkeypatch: pytest.MonkeyPatch, warns: bool) -> None:
    conv2d = torch.nn.functional.conv2d

    def refusing(*args: Any) -> Any:
        if warns:  # as autocast on a CPU that it does not know the type of
            with torch.autocast("cpu", enabled=False):
                return conv2d(*args)
        raise RuntimeError("mkldnn_convolution: fp16 path needs\n the cpu support avx_ne_convert")

    monkeypatch.setattr(precision.F, "conv2d", refusing)
    reason = "autocast gives float32" if warns else "mkldnn_convolution: fp16 path needs the cpu support"
    with pytest.raises(UserError, match=rf"AMP_DTYPE is 'float16', .* on cpu: {reason}.*; take bfloat16, auto, or"):
        amp_dtype(tiny_config("FPN", [*_ON, "SCALEPRIOR.AMP_DTYPE", "float16"]).cfg, CPU)


def test_a_gpu_without_memory_is_no_reason_to_refuse_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(precision.F, "conv2d", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):  # a study tries the cell again alone
        amp_dtype(tiny_config("FPN", [*_ON, "SCALEPRIOR.AMP_DTYPE", "bfloat16"]).cfg, CPU)


def test_only_numbers_that_were_asked_for_are_part_of_a_run() -> None:
    usual, said = (tiny_config("FPN", [*_ON, *more]).cfg for more in ((), ("SCALEPRIOR.AMP_DTYPE", "bfloat16")))
    before = usual.clone()
    before.defrost()
    del before.SCALEPRIOR["AMP_DTYPE"]
    assert run_fingerprint(usual, None, []) == run_fingerprint(before, None, [])
    assert run_fingerprint(usual, None, []) != run_fingerprint(said, None, [])
    assert tuning_of(usual)["settings"] == tuning_of(before)["settings"] != tuning_of(said)["settings"]
