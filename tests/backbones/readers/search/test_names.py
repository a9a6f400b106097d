"""The tree of a file as one set of names: nested dicts, lists, objects, wrappers; bounded, no two of one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaleprior.backbones.readers.containers import Content
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError
from scaleprior.backbones.readers.pickle import Placeholder
from scaleprior.backbones.readers.search import find_candidate
from scaleprior.backbones.readers.search.names import collect
from scaleprior.errors import UserError
from tests.backbones.readers.search.conftest import Check, small

ONE = torch.zeros(1)


def names(tree: Any, limits: Limits = LIMITS) -> list[str]:
    return list(collect(Content("torch", tree, Path("w.pth")), limits).tensors)


def test_keys_numbers_and_objects_are_joined_by_dots() -> None:
    tree = {"a": [ONE, {"b.c": ONE, 3: {"d": ONE}}], "o": Placeholder("x.Y", {"e": (ONE, 4)}), "n": None, "t": "text"}
    assert names(tree) == ["a.0", "a.1.b.c", "a.1.3.d", "o.e.0"]
    assert names(Placeholder("x.Y", [ONE])) == ["0"]


def test_words_of_wrappers_are_taken_out_unless_that_makes_two_of_one_name() -> None:
    assert names({"_orig_mod.a": ONE, "b._fsdp_wrapped_module.c": ONE}) == ["a", "b.c"]
    assert names({"a": ONE, "_orig_mod.a": ONE}) == ["a", "_orig_mod.a"]
    assert names({"my_mod.a": ONE}) == ["my_mod.a"]


def test_what_is_no_set_of_names_is_refused() -> None:
    with pytest.raises(RefusedFileError, match=r"holds a\.b\.c twice \[refused: duplicate\]"):
        names({"a": {"b.c": ONE}, "a.b": {"c": ONE}})
    with pytest.raises(RefusedFileError, match="refused: path"):
        names({"a": {"../b": ONE}})
    with pytest.raises(RefusedFileError, match="has 4 entries, at most 3 are read"):
        names({"a": [ONE] * 4}, Limits(keys=3))
    with pytest.raises(UserError, match=r"w\.pth holds a int, not named tensors"):
        names(3)
    assert names({"a\x1b[2J": {"b": ONE}}) == ["a\\x1b[2J.b"]


@pytest.mark.parametrize(
    "tree",
    [
        {f"a{i}.layer1.0.conv1.weight": ONE for i in range(2000)},
        {".".join(["layer1.0.conv1.weight"] * 60 + [str(i)]): ONE for i in range(20)},
        {f"x{i % 7}.layer{i % 4 + 1}.{i}.conv1.weight": ONE for i in range(2000)},
        {f"layer1.{'9' * 9}{i}.conv1.weight": torch.zeros(()) for i in range(20)},
        {"conv1.weight": torch.zeros(()), "bn1.weight": ONE, "layer1.0.conv1.weight": torch.zeros(1, 0, 1, 1)},
        {"layer1.0.conv2.weight": torch.zeros(0, 0, 0, 0), "layer1.0.conv1.weight": ONE, "bn1.running_var": ONE},
        {"stages.0.blocks.0.conv1.weight": ONE, "stem.conv.weight": ONE},
        {"block1/unit01/a/standardized_conv2d/kernel": ONE, "root_block/standardized_conv2d/kernel": ONE},
        {},
    ],
    ids=range(9),
)
@pytest.mark.parametrize("partial", [False, True])
def test_names_without_a_network_end_in_one_error(tree: dict[str, Any], partial: bool) -> None:
    with pytest.raises(UserError):
        find_candidate(Content("torch", tree, Path("w.pth")), ReadOptions(allow_partial=partial), LIMITS)


class Model(nn.Module):
    """A network as people pickle it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(4, 4)


def test_a_pickled_model_in_a_checkpoint(check: Check) -> None:
    network = small()
    report = check({"ema": Model(network), "epoch": 3, "model": None}, network).report
    assert report.place == "backbone. in ema"
    assert report.dropped["head"] == ["ema.head.weight", "ema.head.bias"]
