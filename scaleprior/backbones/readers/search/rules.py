"""Which of several trunks in a file its publisher means: each rule with the place where he says so.

A rule compares two trunks of one architecture by the words of where they stand. What no rule decides is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scaleprior.backbones.readers.search.fit import Fit
from scaleprior.backbones.readers.search.names import Names

__all__ = ["RULES", "Rule", "equal_ones", "preferred"]


@dataclass(frozen=True)
class Rule:
    """Trunks at one word are what is meant, those at another are not.

    Attributes:
        better, worse: regular expressions of whole words of where a trunk stands; ``worse`` None = without ``better``.
        why: for the report.
        source: who says it, and where.
        marks: keys at the top of the file, one of which the publisher's files have; () = the rule holds for all.
        unmarked: keys with none of which the rule holds.
    """

    better: str
    worse: str | None
    why: str
    source: str
    marks: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ()

    def holds(self, keys: Collection[str]) -> bool:
        """Whether it is a rule for a file with these keys at its top."""
        marked = not self.marks or not set(self.marks).isdisjoint(keys)
        return marked and set(self.unmarked).isdisjoint(keys)

    def prefers(self, one: Fit, other: Fit) -> bool:
        """Whether ``one`` is meant rather than ``other``."""

        def has(words: str, fit: Fit) -> bool:
            return any(re.fullmatch(words, part) for part in fit.place.parts)

        if one.arch != other.arch or not has(self.better, one):
            return False
        return (
            not has(self.better, other) if self.worse is None else has(self.worse, other) and not has(self.worse, one)
        )


_MMENGINE = ("message_hub", "meta")

RULES: tuple[Rule, ...] = (
    Rule(
        "state_dict", "ema_state_dict", "mmengine saves the average as state_dict",
        "open-mmlab/mmengine, mmengine/hooks/ema_hook.py: before_save_checkpoint swaps the two; meta and "
        "message_hub: mmengine/runner/runner.py, save_checkpoint",
        marks=_MMENGINE,
    ),
    Rule(
        "state_dict", "current_model_state", "Lightning's WeightAveraging saves the average as state_dict",
        "Lightning-AI/pytorch-lightning, src/lightning/pytorch/callbacks/weight_averaging.py: on_save_checkpoint",
    ),
    Rule(
        "ema_state_dict", None, "the average of the weights is what is evaluated",
        "kekmodel/FixMatch-pytorch, train.py: test_model",
        unmarked=_MMENGINE,
    ),
    Rule(
        "ema_model", None, "the average of the weights is what is evaluated",
        "microsoft/Semi-supervised-learning, eval.py",
    ),
    Rule(
        "state_dict_ema|model_ema", None, "the average of the weights is what is evaluated",
        "timm, timm/models/_helpers.py: load_state_dict(use_ema=True); "
        "pytorch/vision, references/classification/train.py",
    ),
    Rule(
        "ema", None, "the average of the weights is what is evaluated",
        "lyuwenyu/RT-DETR, rtdetrv2_pytorch/references/deploy/rtdetrv2_torch.py",
    ),
    Rule(
        "encoder_q", "encoder_k", "MoCo's query encoder is what is evaluated",
        "facebookresearch/moco, main_lincls.py",
    ),
    Rule(
        "encoder", "encoder_k", "the encoder that is trained is what is evaluated, not its moving average",
        "zdaxie/PixPro, transfer/detection/convert_pretrain_to_d2.py",
    ),
    Rule(
        "online_encoder|online_network_state_dict", "target_encoder|target_network_state_dict",
        "BYOL's online network is what is evaluated",
        "sthalles/PyTorch-BYOL, eval/linear_feature_eval.ipynb; lucidrains/byol-pytorch, README.md",
    ),
    Rule(
        "base_encoder", "momentum_encoder", "MoCo v3's base encoder is what is evaluated",
        "facebookresearch/moco-v3, main_lincls.py",
    ),
    Rule(
        "backbone", "teacher_backbone|student_backbone|backbone_momentum|momentum_backbone|target_net|encoder_k",
        "`backbone` is what is evaluated, beside its moving average or the network that follows it",
        "lightly-ai/lightly, benchmarks/imagenet/resnet50/byol.py and dino.py: forward; vturrisi/solo-learn, "
        "main_linear.py; open-mmlab/mmselfsup, mmselfsup/models/algorithms/byol.py and moco.py: extract_feat",
    ),
    Rule("teacher", "student", "DINO's teacher is what is evaluated", "facebookresearch/dino, eval_linear.py"),
    Rule(
        "modelTeacher", "modelStudent", "the teacher, an average of the student, is what is evaluated",
        "facebookresearch/unbiased-teacher, train_net.py",
    ),
)  # fmt: skip


def preferred(groups: Sequence[Sequence[Fit]], keys: Collection[str] = ()) -> tuple[Fit, list[str]] | None:
    """(the one that rules prefer to all of other groups, their reasons); None: they do not decide.

    Args:
        groups: of equal trunks each.
        keys: at the top of the file.
    """
    held = [rule for rule in RULES if rule.holds(keys)]
    for group in groups:
        others = [fit for other in groups if other is not group for fit in other]
        if any(rule.prefers(other, one) for other in others for one in group for rule in held):
            continue
        for one in group:
            rules = [next((rule for rule in held if any(rule.prefers(twin, other) for twin in group)), None)
                     for other in others]  # fmt: skip
            if all(rules) and any(rule.prefers(one, other) for rule in rules if rule for other in others):
                return one, list(dict.fromkeys(rule.why for rule in rules if rule))
    return None


def equal_ones(fits: Sequence[Fit], names: Names) -> list[list[Fit]]:
    """The same trunks, those of the same numbers together."""
    groups: list[list[Fit]] = []
    for fit in fits:
        group = next((group for group in groups if _same(fit, group[0], names)), None)
        if group is None:
            groups.append([fit])
        else:
            group.append(fit)
    return groups


def _same(one: Fit, other: Fit, names: Names) -> bool:
    """Every tensor of the two is equal; ends at the first that is not."""
    if one.arch != other.arch or one.found != other.found:
        return False
    a, b = ({fit.place.layout.rename(inner): name for inner, name in fit.members.items()} for fit in (one, other))
    return all(_equal(names.tensors[a[name]], names.tensors[b[name]]) for name in one.found if name in a and name in b)


def _equal(one: Tensor | np.ndarray, other: Tensor | np.ndarray) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same_place = (one.data_ptr(), one.shape, one.stride()) == (other.data_ptr(), other.shape, other.stride())
        return one.dtype == other.dtype and (same_place or torch.equal(one, other))
    if str(one.dtype).removeprefix("torch.") != str(other.dtype).removeprefix("torch."):
        return False
    return np.array_equal(np.asarray(one), np.asarray(other))
