"""The record of a run's numbers, and its words in ``result.json``."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from scaleprior.errors import UserError
from scaleprior.pretrain.figures.recorder import Counters
from scaleprior.pretrain.metrics import LabelMetrics, PretrainMetrics

# As result.json has held it since before there was a record.
WORDS: dict[str, Any] = {
    "loss": 0.25, "steps": 8, "images_seen": 32, "epochs": 0.5, "unreadable": 0, "seconds": 2.0, "images_per_s": 16.0,
    "held_out": {"images": 12, "map_labels": 5, "map": 0.5, "precision_at_1": 0.75},
}  # fmt: skip
RECORD = PretrainMetrics(0.25, 8, 32, 0.5, 0, 2.0, 16.0, LabelMetrics(12, 5, 0.5, 0.75))


def test_words_of_files_and_back() -> None:
    assert PretrainMetrics.from_dict(WORDS) == RECORD
    assert json.dumps(RECORD.to_dict()) == json.dumps(WORDS)  # in their order, too


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        (None, None),
        (LabelMetrics(1, 0), {"images": 1, "map_labels": 0}),
        (
            LabelMetrics(9, 5, 0.0, 0.0, unreadable=3),
            {"images": 9, "map_labels": 5, "map": 0.0, "precision_at_1": 0.0, "unreadable": 3},
        ),
    ],
)
def test_what_there_is_none_of_is_left_out(held_out: LabelMetrics | None, words: dict[str, Any] | None) -> None:
    record = replace(RECORD, held_out=held_out)
    written = record.to_dict()
    assert written.get("held_out") == words
    assert PretrainMetrics.from_dict(written) == record


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UserError, match=r"r\.json is damaged: .*'seconds'; remove it and run again"):
        PretrainMetrics.from_dict({k: v for k, v in WORDS.items() if k != "seconds"}, where="r.json")
    with pytest.raises(UserError, match=r"r\.json is damaged: .*'map_labels'"):
        PretrainMetrics.from_dict({**WORDS, "held_out": {"images": 3}}, where="r.json")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([1], r"metrics is \[1\]"),
        (None, "metrics is None"),
        ({**WORDS, "loss": True}, "loss is True"),
        ({**WORDS, "loss": math.nan}, "loss is nan"),
        ({**WORDS, "steps": None}, "steps is None"),
        ({**WORDS, "held_out": [3]}, r"held_out is \[3\]"),
        ({**WORDS, "held_out": {**WORDS["held_out"], "map": "0.5"}}, "map is '0.5'"),
    ],
)
def test_what_is_no_number_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"r\.json is damaged: {message}; remove it"):
        PretrainMetrics.from_dict(raw, where="r.json")


def test_every_step_waits_for_the_slowest_process_and_the_slowest_of_all_is_known() -> None:
    counters = Counters()
    for seconds in ((1.0, 3.0, 0.0), (2.0, 0.5, 0.0), (0.0, 0.0, 2.5)):
        counters.wait(seconds)
    assert counters.waited == 3.0 + 2.0 + 2.5
    assert counters.waits == (3.0, 3.5, 2.5)
    counters.wait((4.0,))  # gone on with in one process
    assert (counters.waited, counters.waits) == (11.5, (4.0,))


def test_what_was_waited_for_comes_back_and_old_results_do_not_know() -> None:
    record = replace(RECORD, waited=0.25, slowest_rank=3)
    assert PretrainMetrics.from_dict(record.to_dict()) == record
    assert (PretrainMetrics.from_dict(WORDS).waited, PretrainMetrics.from_dict(WORDS).slowest_rank) == (None, None)
