"""tools/train_net.py under Detectron2, as a user calls it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from tests import processes
from tests.conftest import content
from tests.d2.conftest import FEW_STEPS, TINY_FPN, backbone_file

REPO = Path(__file__).resolve().parents[2]
CONFIG = ["--config-file", "configs/COCO-Detection/Base-RCNN-FPN.yaml"]
PIXELS = ["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"]


def tool(*words: object) -> subprocess.CompletedProcess[str]:
    return processes.run([sys.executable, REPO / "tools" / "train_net.py", *words], cwd=REPO)


@pytest.mark.slow
def test_train_resume_and_evaluate(tmp_path: Path, coco: list[str]) -> None:
    """Detectron2's files, one row of results, and a second set of steps after --resume."""
    card = backbone_file(tmp_path / "w.safetensors")
    words = [*TINY_FPN, *FEW_STEPS, *coco, *PIXELS, "OUTPUT_DIR", tmp_path / "run"]
    words += ["MODEL.WEIGHTS", tmp_path / "w.safetensors", "SCALEPRIOR.RESULTS", tmp_path / "all.csv"]
    done = tool(*CONFIG, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["engine"] == "detectron2"
    assert 0 <= printed["AP"] <= 100
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files >= {"config.yaml", "last_checkpoint", "log.txt", "metrics.json", "model_final.pth", "run.json"}
    assert "SCALEPRIOR" not in (tmp_path / "run" / "config.yaml").read_text()
    assert "RESULTS: " + str(tmp_path / "all.csv") in (tmp_path / "run" / "scaleprior.yaml").read_text()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "265 of its 265 tensors fill the trunk" in log  # ours
    assert "Starting training from iteration 0" in log  # Detectron2's
    (row,) = csv.DictReader((tmp_path / "all.csv").open())
    assert row["tensors_sha256"] == card.tensors_sha256
    assert float(row["ap"]) == pytest.approx(printed["AP"], abs=1e-6)

    # The run's own model, though the file names the backbone that training began with.
    base = REPO / "configs" / "COCO-Detection" / "Base-RCNN-FPN.yaml"
    (tmp_path / "own.yaml").write_text(f"_BASE_: {base}\nMODEL:\n  WEIGHTS: {tmp_path / 'w.safetensors'}\n")
    unnamed = [word for word in words if word not in ("MODEL.WEIGHTS", tmp_path / "w.safetensors")]
    files = [tmp_path / "run" / name for name in ("config.yaml", "scaleprior.yaml")]
    saved = [path.read_bytes() for path in files]
    again = tool("--config-file", tmp_path / "own.yaml", "--eval-only", *unnamed, "SOLVER.MAX_ITER", "90000")
    assert again.returncode == 0, again.stderr[-3000:]
    assert [path.read_bytes() for path in files] == saved  # what the model was trained with
    assert json.loads(again.stdout.splitlines()[-1])["model"] == str(tmp_path / "run" / "model_final.pth")
    assert json.loads(again.stdout.splitlines()[-1])["AP"] == printed["AP"]
    assert len(list(csv.DictReader((tmp_path / "all.csv").open()))) == 1

    metrics, log = (tmp_path / "run" / "metrics.json").read_text(), len(log)
    finished = tool(*CONFIG, "--resume", *words)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert json.loads(finished.stdout.splitlines()[-1]) == printed
    assert (tmp_path / "run" / "metrics.json").read_text() == metrics  # nothing was trained or logged again
    assert "model_final.pth is complete" in (tmp_path / "run" / "log.txt").read_text()[log:]

    untested = tool(*CONFIG, *words, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", tmp_path / "short")
    last = {"engine": "detectron2", "model": str(tmp_path / "short" / "model_final.pth")}
    assert json.loads(untested.stdout.splitlines()[-1]) == last


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["INPUT.FORMAT", "BGR"], "use INPUT.FORMAT RGB"),
        (["MODEL.RESNETS.STRIDE_IN_1X1", "True"], "use MODEL.RESNETS.STRIDE_IN_1X1 False"),
        (["MODEL.WEIGHTS", "nothing.safetensors"], "weights not found: nothing.safetensors; check the path"),
        (["MODEL.WEIGHTS", "scaleprior://paper-R-50-jft-10m"], "not public"),
        (["DATASETS.TRAIN", "('coco_2017_train',)"], "set DETECTRON2_DATASETS"),
        (["SOLVER.TYPO", "1"], "unknown config key SOLVER.TYPO"),
        (["--eval-only"], "--eval-only stands among the KEY VALUE words; put --eval-only before the first of them"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        (["OUTPUT_DIR", "/proc/nowhere"], "cannot write /proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    words: list[str], said: str, tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    backbone_file(tmp_path / "w.safetensors")
    usual = [*TINY_FPN, *coco, *PIXELS, "OUTPUT_DIR", tmp_path / "run", "MODEL.WEIGHTS", tmp_path / "w.safetensors"]
    done = tool(*CONFIG, *usual, *words)
    assert done.returncode == (1 if "cannot write" in said else 2)
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("train_net: error: ")
    assert said in line
    assert "Traceback" not in done.stdout + done.stderr


def test_more_processes_than_gpus_are_refused() -> None:
    import torch

    count = torch.cuda.device_count() + 1
    if count == 1:
        count = 2
    done = tool(*CONFIG, "--num-gpus", count)
    assert done.returncode == 2
    assert f"--num-gpus is {count}, there are" in done.stderr


@pytest.mark.slow
def test_two_processes_on_the_cpu_with_a_schedule_for_any_number(tmp_path: Path, coco: list[str]) -> None:
    """A config for 1 process, of batch 2 and 4 steps, is batch 4 and 2 steps on 2: everywhere, and by Detectron2's own
    arithmetic. Resuming it on 1 is refused, which changes nothing in the folder; on 2 it is finished."""
    backbone_file(tmp_path / "w.safetensors")
    run = tmp_path / "run"
    words = [*TINY_FPN, *FEW_STEPS, *coco, *PIXELS, "OUTPUT_DIR", run, "MODEL.WEIGHTS", tmp_path / "w.safetensors"]
    words += ["SOLVER.REFERENCE_WORLD_SIZE", "1", "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(2,)"]
    words += ["SOLVER.WARMUP_ITERS", "0"]
    done = tool(*CONFIG, "--num-gpus", "2", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 <= json.loads(done.stdout.splitlines()[-1])["AP"] <= 100
    (row,) = csv.DictReader((run / "results.csv").open())
    assert (row["max_iter"], row["batch_size"], row["base_lr"]) == ("2", "4", "0.02")
    recorded = json.loads((run / "run.json").read_text())
    assert (recorded["max_iter"], recorded["processes"]) == (2, 2)
    saved = yaml.safe_load((run / "config.yaml").read_text())["SOLVER"]
    assert (saved["MAX_ITER"], saved["IMS_PER_BATCH"], saved["BASE_LR"], saved["STEPS"]) == (2, 4, 0.02, [1])
    log = (run / "log.txt").read_text()
    assert "Auto-scaling the config to batch_size=4, learning_rate=0.02, max_iter=2" in log
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [1]
    assert (run / "log.txt.rank1").is_file()

    # what was evaluated is what was saved, although each process has BN's statistics of its own images
    alone = tool(
        *CONFIG, "--eval-only", *words, "OUTPUT_DIR", tmp_path / "alone", "MODEL.WEIGHTS", run / "model_final.pth"
    )
    assert alone.returncode == 0, alone.stderr[-3000:]
    found = "inference/tiny/coco_instances_results.json"
    by_score = [sorted(json.loads((out / found).read_text()), key=str) for out in (run, tmp_path / "alone")]
    assert by_score[0] == by_score[1]

    before = content(run)
    alone = tool(*CONFIG, "--resume", *words)
    assert alone.returncode == 2
    said = "holds a run of 2 processes; on 1 SOLVER.REFERENCE_WORLD_SIZE gives it another batch"
    assert said in alone.stderr
    assert "resume with --num-gpus 2" in alone.stderr
    other = tool(*CONFIG, "--num-gpus", "2", "--resume", *words, "SOLVER.GAMMA", "0.5")
    assert other.returncode == 2
    assert other.stderr.count("holds a run with another config (SOLVER.GAMMA is 0.5 now, 0.1 then)") == 1
    assert content(run) == before
    again = tool(*CONFIG, "--num-gpus", "2", "--resume", *words)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "model_final.pth is complete" in (run / "log.txt").read_text()[len(log) :]
