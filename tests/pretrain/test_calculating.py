"""PRETRAIN.STEP: what a run calculates with, that its card says so, and that the process is left as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import backends

from scaleprior.backbones import read_card
from scaleprior.pretrain import call, evaluate_pretrained, pretrain
from scaleprior.pretrain.costs import dry_run
from scaleprior.pretrain.loop.calculating import calculating
from scaleprior.pretrain.recipe import recipe_fingerprint, recipe_of
from tests.pretrain.conftest import SMALL

KEYS = {"TF32": True, "CUDNN_BENCHMARK": False, "DETERMINISTIC": True}


def settings() -> tuple[bool, ...]:
    return (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )


def test_a_run_calculates_as_the_keys_say_and_leaves_the_process_as_it_was(
    small_config: Callable, tmp_path: Path
) -> None:
    seen = []
    words = [word for name, value in KEYS.items() for word in (f"PRETRAIN.STEP.{name}", str(value))]
    before = settings()
    for name, overrides in (("plain", []), ("other", words)):
        config = small_config("PRETRAIN.BUDGET.AMOUNT", "2", "PRETRAIN.HELD_OUT.IMAGES", "8", *overrides)
        pretrain(config, tmp_path / name, progress=lambda *call: seen.append(settings()))
        assert evaluate_pretrained(config, tmp_path / name).images == 8
        assert settings() == before
    assert seen == [(False, False, True, before[3], False)] * 2 + [(True, True, False, True, True)] * 2
    # None of them is anything to a CPU: the same bits, under cards that differ.
    plain, other = (tmp_path / name / "head.safetensors" for name in ("plain", "other"))
    assert plain.read_bytes() == other.read_bytes()
    plain, other = (read_card(tmp_path / name / "backbone.safetensors").recipe for name in ("plain", "other"))
    assert "STEP" not in plain["PRETRAIN"]
    assert other["PRETRAIN"]["STEP"] == KEYS


@pytest.mark.parametrize("work", [pretrain, dry_run.dry_run])
def test_cublas_is_told_before_the_check_looks_at_the_gpu(
    work: Callable, small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Looked(Exception):
        pass

    def look(*args: object, **options: object) -> None:
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise Looked

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for module in (call, dry_run):
        monkeypatch.setattr(module, "check_first", look)
    config = small_config("PRETRAIN.STEP.DETERMINISTIC", "True", "MODEL.DEVICE", "auto")
    with pytest.raises(Looked):
        work(config, tmp_path / "run")
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


@pytest.mark.parametrize("name", KEYS)
def test_each_is_another_run(name: str, small_config: Callable) -> None:
    plain, other = small_config().cfg, small_config(f"PRETRAIN.STEP.{name}", str(KEYS[name])).cfg
    assert recipe_fingerprint(plain) != recipe_fingerprint(other)
    assert recipe_of(other)["PRETRAIN"]["STEP"] == {name: KEYS[name]}


@pytest.mark.gpu
def test_deterministic_runs_on_a_gpu_repeat_to_the_bit(corpus_folder: Path, tmp_path: Path, cli: Callable) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    words = ("PRETRAIN.CORPUS", str(corpus_folder), "MODEL.DEVICE", "cuda", "PRETRAIN.STEP.DETERMINISTIC", "True")
    for name in ("one", "two"):
        config = ("--config-file", "Pretrain/Base-Pretrain.yaml", "--out", tmp_path / name)
        done = cli("pretrain", *config, *SMALL, *words, "PRETRAIN.BUDGET.AMOUNT", "8")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one/head.safetensors").read_bytes() == (tmp_path / "two/head.safetensors").read_bytes()


@pytest.mark.parametrize("before", [None, "mine"])
def test_where_compiled_code_is_kept_is_the_programs_own_again(
    before: str | None, small_config: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)

    def interrupted() -> None:
        with calculating(small_config().cfg):
            os.environ[name] = "a run's"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.environ.get(name) == before
