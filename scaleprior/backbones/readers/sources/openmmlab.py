"""Facts in the config that OpenMMLab's programs save as text under ``meta`` of a checkpoint. Parsed, never evaluated.

Read in open-mmlab/mmengine (its runners: ``meta["cfg"]``), in mmdetection and mmsegmentation of the years before
(``meta["config"]``), in their ``ResNet`` (``style``: "pytorch" strides in the 3x3, "caffe" in the first 1x1) and
``DetDataPreprocessor``: images are read as BGR, on the 0-255 scale, and turned to RGB where ``bgr_to_rgb`` or
``to_rgb`` says so; mean and std are in the order after that.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from scaleprior.backbones.readers.sources.values import attributes, three_numbers
from scaleprior.backbones.trunks.published import KnownFacts

__all__ = ["openmmlab_facts", "openmmlab_trunks"]

_LONGEST = 1 << 19
"""Characters of a config; the longest have a tenth of that."""
_TRUNKS = ("ResNet", "ResNeXt")
_UNKNOWN = object()
"""A value that only running the config would tell."""


def openmmlab_facts(tree: Any) -> list[KnownFacts]:
    """Pixel statistics and order; stride and eps. Several in one config that disagree say nothing."""
    settings, words = _settings(tree)
    found = [_agreed(map(of_one, settings)) for of_one in (_pixels, _trunk)]
    return [KnownFacts(words, **dict(facts)) for facts in found if facts is not None]


def openmmlab_trunks(tree: Any) -> Iterator[tuple[Mapping[str, Any], str]]:
    """(the settings of a ResNet in such a config, where they stand in words)."""
    settings, words = _settings(tree)
    return ((trunk, words) for trunk in map(_backbone, settings) if trunk is not None)


def _settings(tree: Any) -> tuple[list[Mapping[str, Any]], str]:
    """(every dict in the config, where it stands); empty if there is none."""
    meta = attributes(tree.get("meta")) if isinstance(tree, Mapping) else {}
    key = next((key for key in ("cfg", "config") if isinstance(meta.get(key), str)), None)
    if key is None:
        return [], ""
    return list(_mappings(list(_parsed(meta[key]).values()))), f"OpenMMLab's config in the file (meta.{key})"


def _agreed(statements: Iterator[tuple[tuple[str, Any], ...] | None]) -> tuple[tuple[str, Any], ...] | None:
    different = set(statements) - {None}
    return different.pop() if len(different) == 1 else None


def _pixels(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...] | None:
    """What a data preprocessor, an ``img_norm_cfg`` or a ``Normalize`` says."""
    mean, std = three_numbers(settings.get("mean")), three_numbers(settings.get("std"))
    turned = settings.get("to_rgb", settings.get("bgr_to_rgb"))
    if mean is None or std is None or min(std) <= 0 or settings.get("rgb_to_bgr"):
        return None
    order = {True: "RGB", False: "BGR"}.get(turned) if isinstance(turned, bool) else None
    return (("pixel_mean", mean), ("pixel_std", std), ("channel_order", order))


def _trunk(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...] | None:
    """What the settings of a backbone say; left out, ``style`` is "pytorch" and ``eps`` PyTorch's."""
    trunk = _backbone(settings)
    if trunk is None:
        return None
    norm = trunk.get("norm_cfg", {})
    eps = norm.get("eps", 1e-5) if isinstance(norm, Mapping) else None
    stride = {"pytorch": False, "caffe": True}.get(str(trunk.get("style", "pytorch")))
    group_norm = isinstance(norm, Mapping) and norm.get("type") == "GN"
    return (
        ("stride_in_1x1", stride),
        ("norm_eps", eps if isinstance(eps, float) else None),
        ("norm", "GN" if group_norm else None),
    )


def _backbone(settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    trunk = settings.get("backbone")
    known = isinstance(trunk, Mapping) and str(trunk.get("type")).rpartition(".")[2] in _TRUNKS  # mmdet.ResNet
    return trunk if known else None


def _parsed(text: str) -> dict[str, Any]:
    """The assignments of a config as a dict; without what is not plainly written there."""
    if len(text) > _LONGEST:
        return {}
    try:
        body = ast.parse(text).body
        return {
            line.targets[0].id: _value(line.value)
            for line in body
            if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}  # of something else, or nested beyond what a config ever is


def _value(node: ast.expr) -> Any:
    """Literals, and calls ``dict(a=1)``, of which nothing is called."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        pairs = ((key, _value(value)) for key, value in zip(node.keys, node.values))
        return {key.value: value for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand)
        return -value if type(value) in (int, float) else _UNKNOWN
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg is not None}
    return _UNKNOWN


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every dict in nested dicts and lists."""
    if isinstance(value, Mapping):
        yield value
    if isinstance(value, (Mapping, list)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _mappings(inner)
