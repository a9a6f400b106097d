"""ResNets that Detectron2's cannot hold, by what only they have among their names, and by the shape of their stem.

Standardised weights and pooled strides (timm's ``blur``) leave no trace in names or shapes: a network with them cannot
be told here from the plain one.
"""

from __future__ import annotations

import re

from scaleprior.backbones.trunks.family import Shapes
from scaleprior.backbones.trunks.layout import Relative
from scaleprior.wording import parameter

__all__ = ["relative"]

_PLAIN = "take the plain variant of that ResNet"
_BLOCK = r"(?:layer)?\d\.\d+\."
_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (what, re.compile(names))
    for what, names in (
        ("a ResNeSt (split attention)", rf"{_BLOCK}conv2\.(?:conv\.weight|fc1\.|rsoftmax)"),
        ("an SKNet (selective kernels)", rf"{_BLOCK}conv2\.(?:paths\.|attn\.)"),
        ("a Res2Net (convolutions in groups, one after the other)", rf"{_BLOCK}convs\.0\."),
        ("a ResNet with squeeze-and-excitation or another channel attention (SE, ECA, CBAM, GC)",
         rf"{_BLOCK}(?:se|se_module|se_layer|eca|ca|sa|cbam|att\w*|gc\w*|context_block)\."),
        ("a ResNet with deformable convolutions", rf"{_BLOCK}conv2(?:\.conv)?_offset\."),
        ("an IBN-Net (instance norms in its blocks)", rf"{_BLOCK}bn1\.(?:IN|BN)\."),
        ("a ResNet with blur pooling (anti-aliased)", r".*\.filt$"),
        ("a ResNet with a deep stem (timm's c, d, s or t variants), which Detectron2's stem cannot hold",
         r"(?:conv1\.0|stem\.[0-9]|conv1\.conv1_1|0\.0)\.(?:conv\.)?weight$"),
    )
)  # fmt: skip
"""What it is, and a name that only it has."""


def relative(shapes: Shapes) -> Relative | None:
    """Which relative of a ResNet tensors by the file's and by canonical names are of; None: of no known one."""
    for what, pattern in _NAMES:
        if any(map(pattern.match, shapes)):
            return Relative(what, _PLAIN)
    if any(re.match(rf"{_BLOCK}downsample\.1\.weight$", name) and len(shape) == 4 for name, shape in shapes.items()):
        return Relative("a ResNet with average pools in its shortcuts (timm's d variants, ResNet-B)", _PLAIN)
    stem = shapes.get("stem.conv1.weight", ())
    fresh = (
        "take weights with a 7x7 stem of three channels, or give "
        f"{parameter('allow_partial', True)} to start the stem from fresh weights"
    )
    if len(stem) != 4 or stem[1:] == (3, 7, 7):
        return None
    if stem[1] != 3:
        return Relative(f"a ResNet for images of {stem[1]} channel{'s' if stem[1] > 1 else ''}", fresh, partial=True)
    small = " (CIFAR's: it does not halve the image)" if stem[2] == 3 else ""
    return Relative(f"a ResNet with a {stem[2]}x{stem[3]} stem{small}", fresh, partial=True)
