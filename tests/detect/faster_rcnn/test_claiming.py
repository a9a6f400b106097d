"""The torchvision engine's folder belongs to one run: who is refused changes nothing, who extends it says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaleprior.detect import detect, get_engine
from scaleprior.detect.faster_rcnn import model_file
from scaleprior.detect.faster_rcnn.trainer import METRICS
from scaleprior.errors import UserError
from scaleprior.locks import alone_in
from tests.conftest import content
from tests.detect.conftest import data_overrides, make_coco, tiny_config

FOUR = ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "1"]
EIGHT = ["SOLVER.MAX_ITER", "8", "SOLVER.STEPS", "(6,)"]


class _Stop(Exception):
    """Stands in for a kill within the process."""


def stop_at(step: int) -> Callable[[int, int, Any], None]:
    def progress(done: int, total: int, numbers: Any) -> None:
        if done == step:
            raise _Stop

    return progress


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, others, and a run of 4 steps that was stopped in its third, in ``run``."""
    folder = tmp_path_factory.mktemp("stopped")
    make_coco(folder / "data")
    make_coco(folder / "other", seed=1)
    with pytest.raises(_Stop):
        train(folder, folder / "run", progress=stop_at(3))
    return folder


def train(folder: Path, out: Path, words: list[str] | None = None, *, data: str = "data", **how: Any) -> Path:
    files = data_overrides(folder / data / "instances.json", folder / data / "images")
    return get_engine("torchvision").train(tiny_config("FPN", [*files, *FOUR, *(words or [])]), None, out, **how)


@pytest.mark.parametrize(
    ("words", "data", "spoil", "said"),
    [
        (EIGHT, "data", None, r"now it is SOLVER\.MAX_ITER 8 .*extend=True goes on under the longer schedule"),
        (
            ["SOLVER.BASE_LR", "0.02"],
            "data",
            None,
            r"another config \(SOLVER.BASE_LR is 0.02 now, 0.01 then\)",
        ),
        ([], "other", None, "holds a run with another training set; resume"),
        # another run's checkpoint, whose run.json is gone or damaged
        (
            ["SEED", "9"],
            "data",
            lambda run: (run / "run.json").write_text("{"),
            r"checkpoint_0000002.safetensors holds a run with another",
        ),
        (
            ["SEED", "9"],
            "data",
            lambda run: (run / "run.json").unlink(),
            r"checkpoint_0000002.safetensors holds a run with another",
        ),
        (["MODEL.WEIGHTS", "gone.safetensors"], "data", None, "weights not found"),
    ],
)
def test_a_refused_resume_leaves_the_folder_as_it_was(
    words: list[str], data: str, spoil: Callable[[Path], Any] | None, said: str, stopped: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(stopped / "run", tmp_path / "run")
    if spoil is not None:
        spoil(run)
    before = content(run)
    with pytest.raises(UserError, match=said):
        train(stopped, run, words, data=data, resume=True)
    assert content(run) == before


def test_a_run_of_another_version_goes_on_with_a_warning(
    stopped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(stopped / "run", tmp_path / "run")
    told = json.loads((run / "run.json").read_text())
    told["created_by"]["commit"] = "c" * 40
    del told["sha256"]  # as versions wrote it that had none
    (run / "run.json").write_text(json.dumps(told))
    train(stopped, run, resume=True)
    assert f"trained by ScalePrior {told['created_by']['version']} (commit {'c' * 12}) and goes on with" in caplog.text


def test_where_all_is_damaged_the_run_begins_anew_and_says_so(
    stopped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And a finished one leaves no spare, whatever killed it between its last two lines."""
    run = shutil.copytree(stopped / "run", tmp_path / "run")
    for path in run.glob("checkpoint*"):
        path.write_bytes(b"junk")
    steps: list[int] = []
    model = train(stopped, run, resume=True, progress=lambda done, total, numbers: steps.append(done))
    assert steps == [1, 2, 3, 4]
    assert model.read_bytes() == train(stopped, tmp_path / "whole").read_bytes()
    said = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"beginning anew in {run}, because checkpoint_0000002.safetensors is damaged: ")
    shutil.copy(next((stopped / "run").glob("checkpoint*")), run)
    assert train(stopped, run, resume=True) == model
    assert not list(run.glob("checkpoint*"))


def test_a_run_is_extended_from_its_checkpoint(stopped: Path, tmp_path: Path) -> None:
    """Stopped in step 3 of 4 with 2 saved; from there 6 of 8. By hand, base rate 0.01, STEPS (6,): .01 to step 6."""
    run = shutil.copytree(stopped / "run", tmp_path / "run")
    former = json.loads((run / "run.json").read_text())
    steps: list[int] = []
    with pytest.raises(_Stop):  # before its first checkpoint: what is there is the former schedule's last
        train(stopped, run, [*EIGHT, "SOLVER.CHECKPOINT_PERIOD", "0"], extend=True, progress=stop_at(4))
    model = train(stopped, run, EIGHT, resume=True, progress=lambda done, total, numbers: steps.append(done))
    assert steps == [3, 4, 5, 6, 7, 8]
    (line,) = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert (line["step"], line["lr"]) == (8, pytest.approx(0.001))
    trained = model_file.read_trained(model)
    (extension,) = trained.extended
    assert (extension.fingerprint, extension.steps) == (former["fingerprint"], 2)
    assert extension.schedule == {"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": [3]}
    assert json.loads((run / "run.json").read_text())["fingerprint"] == trained.fingerprint
    at_once = model_file.read_trained(train(stopped, tmp_path / "whole", EIGHT))
    assert at_once.fingerprint != trained.fingerprint
    assert at_once.tuning["settings"] != trained.tuning["settings"]

    # Finished: the model alone is left, and nothing to go on from.
    assert train(stopped, run, EIGHT, resume=True, progress=stop_at(1)) == model
    before = content(run)
    with pytest.raises(UserError, match="holds a finished run, which the torchvision engine cannot extend"):
        train(stopped, run, [*EIGHT, "SOLVER.MAX_ITER", "9"], extend=True)
    assert content(run) == before


def test_the_call_and_other_engines(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shutil.copytree(stopped / "run", tmp_path / "run")
    files = data_overrides(stopped / "data" / "instances.json", stopped / "data" / "images")
    loaded = tiny_config("FPN", [*files, *FOUR, *EIGHT, "DATASETS.TEST", "()"])
    done = detect(loaded, run, engine="torchvision", extend=True, check=False)
    assert len(model_file.read_trained(done.model).extended) == 1
    with pytest.raises(UserError, match="leave out weights, train, resume, extend"):
        detect(loaded, run, engine="torchvision", model=done.model, extend=True)
    engine = get_engine("torchvision")

    def plain(loaded: Any, weights: Any, out: Any, *, resume: bool = False, progress: Any = None) -> Path:
        raise AssertionError

    monkeypatch.setattr(type(engine), "train", staticmethod(plain))
    with pytest.raises(UserError, match="extend=True is asked for, and the torchvision engine extends no runs"):
        detect(loaded, tmp_path / "x", engine="torchvision", extend=True)


def test_two_runs_do_not_share_a_folder(stopped: Path, tmp_path: Path) -> None:
    run = shutil.copytree(stopped / "run", tmp_path / "run")
    before = content(run)
    with alone_in(run):
        with pytest.raises(UserError, match=r"another run is at work in .*; wait for it"):
            train(stopped, run, resume=True)
        assert content(run) == before
    held = []

    def ask(done: int, total: int, numbers: Any) -> None:
        with pytest.raises(UserError, match="another run is at work"), alone_in(run):
            pass
        held.append(done)

    train(stopped, run, resume=True, progress=ask)
    assert held == [3, 4]
