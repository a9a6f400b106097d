"""Greedy non-maximum suppression of many rows of boxes at once, which never waits for the GPU.

Shapes: B rows, K boxes of a row, W words of 32 boxes. Two kernels take turns over parts of a row's boxes: the first
marks for each box of the part all lesser ones that it would suppress, as bits [B, part, W]; the second goes through the
boxes best first, a program per row, and keeps those that no kept one has marked.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from scaleprior.detect.faster_rcnn.kernels.overlap import iou

__all__ = ["suppress"]

_MASK_BYTES = 256 * 2**20  # of the marks that exist at once
_TILE_ROWS, _TILE_WORDS = 64, 8  # marks that a program of the first kernel makes: 64 boxes against 256


def suppress(
    boxes: Tensor, scores: Tensor, there: Tensor, threshold: float, groups: Tensor | None, limit: int | None
) -> Tensor:
    """What ``parts.nms.keep_best`` returns, bool [B, K].

    Args:
        there: bool [B, K], false where there is no box.
    """
    rows, count = scores.shape
    keep = torch.zeros_like(there)
    if not keep.numel():
        return keep
    scores = scores.float().masked_fill(~there, -torch.inf)
    order = scores.argsort(dim=1, descending=True, stable=True)
    corners = boxes.gather(1, order[..., None].expand(-1, -1, 4)).transpose(1, 2).contiguous()
    sorted_groups = corners if groups is None else groups.gather(1, order)
    numbers = there.sum(dim=1, dtype=torch.int32)
    limit = count if limit is None else min(limit, count)
    words = triton.cdiv(count, 32)
    part = _part(rows, count, words, limit)
    marks = torch.empty((rows, part, words), dtype=torch.int32, device=boxes.device)
    gone, kept = torch.zeros((2, rows, words), dtype=torch.int32, device=boxes.device)
    found = torch.zeros_like(numbers)
    word_tiles, block = triton.cdiv(words, _TILE_WORDS), max(triton.next_power_of_2(words), 32)
    with torch.cuda.device_of(boxes):
        for start in range(0, count, part):
            _mark[(triton.cdiv(min(part, count - start), _TILE_ROWS) * word_tiles, rows)](
                *(corners, sorted_groups, numbers, found, marks, _at_most(threshold), limit, count, words, start, part),
                GROUPED=groups is not None,
                ROWS=_TILE_ROWS,
                WORDS=_TILE_WORDS,
                num_warps=4,
                enable_fp_fusion=False,
            )
            _choose[(rows,)](
                *(marks, numbers, gone, found, kept, limit, words, start, part),
                BLOCK=block,
                num_warps=min(max(block // 64, 1), 32),
            )
    bits = kept[:, :, None] >> torch.arange(32, dtype=torch.int32, device=boxes.device)
    return keep.scatter_(1, order, (bits & 1).flatten(1)[:, :count].bool())


def _part(rows: int, count: int, words: int, limit: int) -> int:
    """How many boxes of every row are marked at once, a multiple of a tile's.

    Bounded by memory; and where few are wanted, most rows have them long before their last box, whose marks are then
    not made.
    """
    most = _MASK_BYTES // (4 * rows * words)
    if limit < count:
        most = min(most, max(2 * limit, 2048))
    return max(min(most, triton.cdiv(count, _TILE_ROWS) * _TILE_ROWS) // _TILE_ROWS, 1) * _TILE_ROWS


def _at_most(threshold: float) -> float:
    """The largest float32 that is not above ``threshold``: a float32 IoU exceeds both or neither."""
    nearest = np.float32(threshold)
    return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))


# Numbers that differ from call to call are not to be compiled for: Triton would, by whether 16 divides them.
_RUNTIME = ("limit", "count", "words", "start", "part")


@triton.jit(do_not_specialize=_RUNTIME)
def _mark(
    corners,  # float32 [B, 4, K], best first
    groups,  # int64 [B, K]
    numbers,  # int32 [B]: boxes that are there
    found,  # int32 [B]: boxes kept so far
    marks,  # int32 [B, part, W]: bit j of word w of row i: box 32 w + j comes after box start + i, which suppresses it
    threshold,
    limit,
    count,
    words,
    start,
    part,
    GROUPED: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    tiles = tl.cdiv(words, WORDS)
    batch = tl.program_id(1).to(tl.int64)
    row0 = start + (tl.program_id(0) // tiles) * ROWS
    word0 = (tl.program_id(0) % tiles) * WORDS
    number = tl.load(numbers + batch)
    wanted = tl.load(found + batch) < limit
    # words that end before the tile's first row hold better boxes only, and nobody reads them
    if wanted & (row0 < number) & (word0 * 32 < number) & ((word0 + WORDS) * 32 > row0 + 1):
        corners += batch * 4 * count
        row = row0 + tl.arange(0, ROWS)
        real = row < number
        x1 = tl.load(corners + row, mask=real, other=0.0)[None, :]
        y1 = tl.load(corners + count + row, mask=real, other=0.0)[None, :]
        x2 = tl.load(corners + 2 * count + row, mask=real, other=0.0)[None, :]
        y2 = tl.load(corners + 3 * count + row, mask=real, other=0.0)[None, :]
        group = tl.load(groups + batch * count + row, mask=real, other=0)[None, :]  # left out unless it is used
        word = word0 + tl.arange(0, WORDS)
        bits = tl.zeros([WORDS, ROWS], dtype=tl.int32)
        for bit in range(32):
            other = word * 32 + bit
            there = other < number
            left = tl.load(corners + other, mask=there, other=0.0)[:, None]
            top = tl.load(corners + count + other, mask=there, other=0.0)[:, None]
            right = tl.load(corners + 2 * count + other, mask=there, other=0.0)[:, None]
            bottom = tl.load(corners + 3 * count + other, mask=there, other=0.0)[:, None]
            overlap = iou(x1, y1, x2, y2, left, top, right, bottom)
            hit = (overlap > threshold) & there[:, None] & (other[:, None] > row[None, :])
            if GROUPED:
                hit = hit & (tl.load(groups + batch * count + other, mask=there, other=0)[:, None] == group)
            bits = bits | (hit.to(tl.int32) << bit)
        place = (batch * part + (row - start)) * words
        tl.store(marks + place[None, :] + word[:, None], bits, mask=real[None, :] & (word < words)[:, None])


@triton.jit
def _either(a, b):
    return a | b


@triton.jit(do_not_specialize=[name for name in _RUNTIME if name != "count"])
def _choose(
    marks,  # int32 [B, part, W]
    numbers,  # int32 [B]
    gone,  # int32 [B, W]: boxes that a kept one of an earlier part suppresses
    found,  # int32 [B]
    kept,  # int32 [B, W]: the answer
    limit,
    words,
    start,
    part,
    BLOCK: tl.constexpr,
):
    batch = tl.program_id(0).to(tl.int64)
    number = tl.load(numbers + batch)
    count = tl.load(found + batch)
    column = tl.arange(0, BLOCK)
    lane = tl.arange(0, 32)
    suppressed = tl.load(gone + batch * words + column, mask=column < words, other=0)
    for word in range(start // 32, tl.cdiv(tl.minimum(start + part, number), 32)):
        if count < limit:
            first = word * 32
            rows = marks + (batch * part + (first - start)) * words
            current = tl.sum(tl.where(column == word, suppressed, 0), axis=0)
            # one by one among these 32, whose marks of each other are a word each
            chosen = current & 0
            for bit in tl.static_range(32):
                mark = tl.load(rows + bit * words + word, mask=first + bit < number, other=0)
                free = (((current >> bit) & 1) == 0) & (first + bit < number) & (count < limit)
                chosen = chosen | (free.to(tl.int32) << bit)
                current = current | tl.where(free, mark, 0)
                count += free.to(tl.int32)
            tl.store(kept + batch * words + word, chosen)
            # then what the chosen ones mark among all the rest, at once
            picked = ((chosen >> lane) & 1) == 1
            rest = (column > word) & (column < tl.cdiv(number, 32))
            block = tl.load(
                rows + lane[:, None] * words + column[None, :], mask=picked[:, None] & rest[None, :], other=0
            )
            suppressed = suppressed | tl.reduce(block, 0, _either)
    tl.store(gone + batch * words + column, suppressed, mask=column < words)
    tl.store(found + batch, count)
