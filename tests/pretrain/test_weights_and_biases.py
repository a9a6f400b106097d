"""The board at Weights & Biases: what the package is called with, and offline runs of it where it is installed."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from scaleprior.pretrain import pretrain
from tests.pretrain.test_recording import EVALUATED
from tests.pretrain.test_run import stop_at, weights

KEYS = (*EVALUATED, "PRETRAIN.WANDB", "True", "PRETRAIN.RECIPE", "tiny")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MODE", "PROJECT", "NAME", "RUN_ID", "RESUME", "DIR", "CONSOLE", "API_KEY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


class Run:
    """What ``wandb.init`` returns, as far as a board may use it; ``step`` is that of the next row."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.rows: list[tuple[int, dict]] = []
        self.summary: dict[str, Any] = {}
        self.ended: int | None = None

    def log(self, figures: dict, step: int) -> None:
        self.rows.append((step, figures))
        self.step = step

    def finish(self, exit_code: int) -> None:
        self.ended = exit_code


class StandIn(ModuleType):
    """In the place of a package that is not installed."""

    def __init__(self, api_key: str | None) -> None:
        super().__init__("wandb")
        self.api = SimpleNamespace(api_key=api_key)
        self.calls: list[dict] = []
        self.runs: list[Run] = []

    def Settings(self, **settings: Any) -> dict:
        return settings

    def init(self, **words: Any) -> Run:
        random.random()  # whoever makes names may draw
        self.calls.append(words)
        self.runs.append(Run(self.runs[-1].step + 1 if self.runs else 0))
        return self.runs[-1]


@pytest.fixture
def wandb(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A stand-in; with an account, or without one."""
    stand_in = StandIn(getattr(request, "param", None))
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setattr("scaleprior.pretrain.figures.boards.find_spec", lambda name: name == "wandb" or find_spec(name))
    return stand_in


def test_a_resumed_run_goes_on_under_its_id_and_shows_every_step_once(
    wandb: StandIn, small_config: Callable, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pretrain(small_config(*KEYS, "PRETRAIN.CHECKPOINT_PERIOD", "2"), tmp_path / "run", progress=stop_at(3))
    result = pretrain(small_config(*KEYS), tmp_path / "run", resume=True)
    first, second = wandb.calls
    assert first["id"] == second["id"] == json.loads((tmp_path / "run" / "wandb.json").read_text())["id"]
    assert (first["project"], first["name"], first["resume"], first["mode"]) == (
        "scaleprior-tiny", "run", "allow", "offline"
    )  # fmt: skip
    assert first["dir"] == str(tmp_path / "run")
    assert first["config"]["PRETRAIN"]["BATCH_SIZE"] == 4
    assert str(tmp_path) not in json.dumps(first["config"])
    rows = [(step, sorted({name.split("/")[0] for name in row})) for run in wandb.runs for step, row in run.rows]
    # the resumed run, which goes on after step 2, comes to step 3 again and does not show it again
    assert rows == [
        (1, ["pretrain"]), (2, ["pretrain"]), (2, ["held_out"]), (3, ["pretrain"]),
        (4, ["pretrain"]), (4, ["held_out"]), (5, ["pretrain"]), (5, ["held_out"]),
    ]  # fmt: skip
    assert [run.ended for run in wandb.runs] == [1, 0]
    assert wandb.runs[1].summary["result"] == result.metrics.to_dict()


@pytest.mark.parametrize("wandb", ["a key"], indirect=True)
def test_the_users_settings_come_first(
    wandb: StandIn, small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(small_config(*KEYS), tmp_path / "account")
    assert wandb.calls[0]["mode"] is None  # with an account the package decides
    for name, value in (("PROJECT", "mine"), ("NAME", "one"), ("RUN_ID", "7"), ("DIR", "/x"), ("CONSOLE", "wrap")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    before = random.getstate()
    pretrain(small_config(*KEYS), tmp_path / "settings")
    given = wandb.calls[1]
    assert [given[word] for word in ("project", "name", "id", "dir", "settings")] == [None] * 5
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb.api, "api_key", None)
    pretrain(small_config(*KEYS), tmp_path / "mode")
    assert wandb.calls[2]["mode"] is None
    assert before == random.getstate()  # as every run with this seed leaves it, also where a package has drawn
    pretrain(small_config(*EVALUATED, "PRETRAIN.RECIPE", "tiny"), tmp_path / "without")
    assert weights(tmp_path / "without") == weights(tmp_path / "mode")


def test_an_offline_run_of_the_real_package(small_config: Callable, tmp_path: Path) -> None:
    package = pytest.importorskip("wandb", reason="wandb is not installed")
    with pytest.raises(KeyboardInterrupt):
        pretrain(small_config(*KEYS), tmp_path / "run", progress=stop_at(3))
    pretrain(small_config(*KEYS), tmp_path / "run", resume=True)
    chosen = json.loads((tmp_path / "run" / "wandb.json").read_text())["id"]
    found = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{chosen}/run-{chosen}.wandb"))
    assert found
    written = b"".join(path.read_bytes() for path in found)
    for name in (b"pretrain/loss", b"held_out/map", b"scaleprior-tiny"):
        assert name in written
    assert package.run is None  # it has ended
