"""Processes that end together: the first error is everybody's, and so is a wish to stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scaleprior.errors import FailureError, ScalePriorError, UserError
from scaleprior.training.agreement import agree, agree_on_steps, error_of, together
from scaleprior.training.launching import launch
from scaleprior.training.processes import ProcessGroup, join_processes
from scaleprior.training.signals import Interrupted
from scaleprior.wording import in_flags, parameter

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


def _said(error: ScalePriorError | None) -> list[str] | None:
    return None if error is None else [type(error).__name__, str(error), in_flags(error)]


def agree_in_two(folder: Path) -> None:
    """What each process hears, in a file of its own."""
    with join_processes(torch.device("cpu")) as group:
        second = group.rank == 1
        bad = UserError("a bad image", hint=f"go on with {parameter('resume', True)}")
        heard: list[object] = []
        for error, stop in ((None, False), (None, second), (bad if second else None, False)):
            found, stopped = agree(group, error, stop=stop)
            heard.append([_said(found), stopped])
        both = FailureError(f"process {group.rank} is full")
        heard.append(_said(agree(group, both)[0]))
        try:
            together(group, lambda: _work(fails=second))
        except ScalePriorError as e:
            heard.append(_said(e))
        heard.append(together(group, lambda: group.rank))
        agree_on_steps(group, 4, folder)
        try:
            agree_on_steps(group, None if second else 4, folder)
        except FailureError as e:
            heard.append(str(e))
        heard.append(group.from_one({"rank": group.rank}, 1))
    (folder / f"{group.rank}.json").write_text(json.dumps(heard))


def _work(*, fails: bool) -> int:
    if fails:
        raise Interrupted("asked to stop")
    return 7


def test_both_hear_the_same_whoever_fails(tmp_path: Path) -> None:
    launch(agree_in_two, (tmp_path,), processes=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    bad = ["UserError", "a bad image; go on with resume=True", "a bad image; go on with --resume"]
    differ = f"the processes find different checkpoints in {tmp_path}, after step 4 on process 0, -1 on process 1"
    assert first[:5] == [
        [None, False], [None, True], [bad, False], ["FailureError", *["process 0 is full"] * 2],
        ["Interrupted", *["asked to stop"] * 2],
    ]  # fmt: skip
    assert first[5] == 0
    assert first[6].startswith(differ)
    assert first[7] == {"rank": 1}
    assert [*first[:5], *first[6:]] == [*second[:5], *second[6:]]
    assert second[5] == 1


def test_alone_it_is_what_it_is() -> None:
    error = UserError("bad")
    assert agree(ALONE, error) == (error, False)
    assert agree(ALONE, stop=True) == (None, True)
    agree_on_steps(ALONE, None, "here")
    with pytest.raises(UserError, match="bad"):
        together(ALONE, lambda: _raise(error))


def _raise(error: ScalePriorError) -> None:
    raise error


@pytest.mark.parametrize("kind", [UserError, FailureError, Interrupted])
def test_an_error_keeps_its_kind_and_both_wordings_on_the_way(kind: type[ScalePriorError]) -> None:
    error = kind(f"{parameter('norm')} is wrong", hint=f"take {parameter('norm', 'GN')}")
    came = error_of(error.exit_code, error.wording.marked)
    assert type(came) is kind
    assert (str(came), in_flags(came)) == (str(error), in_flags(error))
