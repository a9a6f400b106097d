"""What a refusal says of the parts that differ."""

from __future__ import annotations

from typing import Any

import pytest

from scaleprior.training.differences import differing_parts


def space(fingerprint: str, labels: int) -> dict[str, Any]:
    return {"fingerprint": fingerprint, "labels": labels}


@pytest.mark.parametrize(
    ("now", "then", "said"),
    [
        ({"processes": 2}, {"processes": 2}, ""),
        ({"number of processes": 2}, {"number of processes": 1}, "number of processes (2 now, 1 then)"),
        ({"label space": space("a", 812)}, {"label space": space("b", 800)}, "label space (812 labels now, 800 then)"),
        ({"label space": space("a", 8000)}, {"label space": space("b", 8000)}, "label space (8,000 labels as then)"),
        ({"label space": space("a", 812)}, {"label space": space("a", 800)}, ""),  # the fingerprint decides
        ({"backbone": {"fingerprint": "a"}}, {"backbone": {"fingerprint": "b"}}, "backbone"),
        ({"backbone": None}, {"backbone": {"fingerprint": "b"}}, "backbone (none now, some then)"),
        # what follows from another part is not named beside it
        (
            {"label space": space("a", 9), "corpus": {"fingerprint": "c"}, "config": {"SEED": 1}},
            {"label space": space("b", 8), "corpus": {"fingerprint": "d"}, "config": {"SEED": 0}},
            "label space (9 labels now, 8 then) and config (SEED is 1 now, 0 then)",
        ),
        ({"corpus": {"fingerprint": "c"}}, {"corpus": {"fingerprint": "d"}}, "corpus"),
        (
            {"engine": "torchvision", "config": {"SEED": 1}},
            {"engine": "pretraining", "config": {}},
            "engine (torchvision now, pretraining then)",
        ),
        # keys, nested or dotted; the first three, and how many more
        (
            {"config": {"A": {"B": 1, "C": "x"}, "D": [1]}},
            {"config": {"A": {"B": 2, "C": "x"}}},
            "config (A.B is 1 now, 2 then; D is [1] now, at its default then)",
        ),
        (
            {"config": dict.fromkeys("ABCDE", 1)},
            {"config": dict.fromkeys("ABCDE", 0)},
            "config (A is 1 now, 0 then; B is 1 now, 0 then; C is 1 now, 0 then; and 2 more keys)",
        ),
        (
            {"one": 1, "two": 1, "three": 1},
            {"one": 2, "two": 2, "three": 2},
            "one (1 now, 2 then), two (1 now, 2 then) and three (1 now, 2 then)",
        ),
        # what one of them does not know is not compared, and what makes no sense is no crash
        ({"new": 1}, {}, ""),
        ({"label space": space("a", 8)}, {"label space": "damaged"}, "label space (some now, damaged then)"),
        ({"corpus": {"fingerprint": "a", "images": 5}}, {"corpus": {"fingerprint": "b"}}, "corpus (5 images now)"),
    ],
)
def test_what_differs(now: dict[str, Any], then: dict[str, Any], said: str) -> None:
    assert differing_parts(now, then) == said
