"""The kernels on a machine without a GPU: Triton compiles them for an H100; its interpreter looks at no types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", minversion="3.3", reason="no Triton here, or one that is asked otherwise")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from scaleprior.detect.faster_rcnn.kernels import matching, nms, roi_align
from tests.detect.faster_rcnn.kernels.conftest import INTERPRETED

pytestmark = [pytest.mark.slow, pytest.mark.skipif(INTERPRETED, reason="Triton interprets here")]

_NUMBERS = dict.fromkeys(("count", "objects", "stride", "limit", "words", "start", "part", "channels"), "i32")
_OVERLAPS = {"anchors": "*fp32", "truth": "*fp32", "present": "*i1", "highest": "*i32"}
_MARKS = dict.fromkeys(("numbers", "found", "marks", "gone", "kept"), "*i32")
_TILE = {"ROWS": nms._TILE_ROWS, "WORDS": nms._TILE_WORDS}


def _pooling(forward: bool, levels: int, step: int, dtype: str) -> tuple[dict[str, str], dict[str, Any]]:
    resolution = 14 if levels == 1 else 7
    side = -(-resolution // step)
    row = 8 if side < 9 else 16
    types = {"pooled": dtype, "boxes": "*fp32", "images": "*i64", "levels": "*i64", "scale": "fp32"}
    for level in range(5):
        types |= {f"map{level}": dtype if forward else "*fp32", f"height{level}": "i32", f"width{level}": "i32"}
    fixed = {"FORWARD": forward, "LEVELS": levels, "SIDE": resolution, "STEP": step, "OUT": side, "ROW": row}
    return types, {**fixed, "BLOCK": roi_align._TILE // row, "SAMPLES": 0, "ALIGNED": True}


@pytest.mark.parametrize(
    ("kernel", "types", "fixed"),
    [
        (matching._highest, {**_OVERLAPS, "best": "*fp32", "index": "*i64"}, {"BLOCK": matching._BLOCK}),
        (matching._who, {**_OVERLAPS, "is_best": "*i1"}, {"BLOCK": matching._BLOCK}),
        (nms._mark, {"corners": "*fp32", "groups": "*i64", "threshold": "fp32"}, {"GROUPED": True, **_TILE}),
        (nms._choose, {}, {"BLOCK": 32}),
        (nms._choose, {}, {"BLOCK": 2048}),
        (roi_align._pool, *_pooling(True, levels=4, step=1, dtype="*bf16")),
        (roi_align._pool, *_pooling(False, levels=5, step=1, dtype="*fp16")),
        (roi_align._pool, *_pooling(True, levels=1, step=2, dtype="*fp16")),
        (roi_align._pool, *_pooling(False, levels=1, step=2, dtype="*fp32")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_kernel_compiles(
    kernel: Any, types: dict[str, str], fixed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    given = {**_NUMBERS, **_MARKS, **types, **dict.fromkeys(fixed, "constexpr")}
    source = ASTSource(kernel, {name: given[name] for name in kernel.arg_names}, fixed)
    made = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "enable_fp_fusion": False})
    assert made.asm["ptx"]
    assert torch.version.cuda is None or made.asm["cubin"]
