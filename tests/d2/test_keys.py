"""Keys of Detectron2's, each told by its effect: none is set and left aside."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from scaleprior.d2 import Trainer, register_coco
from scaleprior.d2.backends import check_backends, torch_settings
from scaleprior.d2.checks import check_keys
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.plan import plan_training
from scaleprior.errors import UserError
from scaleprior.training.seeds import seed_everything
from tests.d2.conftest import backbone_file, tiny

TRAINABLE_BN = ["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0", "TEST.PRECISE_BN.ENABLED", "True"]


def trained(out: Path, words: list[str], *, resume: bool = False) -> Trainer:
    seed_everything(3)
    trainer = Trainer(plan_training(tiny("FPN", words), out.parent / "w.safetensors", out).cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def statistics(trainer: Trainer) -> list[torch.Tensor]:
    return [t for name, t in trainer.model.state_dict().items() if "running" in name]


def test_cudnn_benchmark_holds_while_the_engine_trains(
    tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone_file(tmp_path / "w.safetensors")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    seen: list[bool] = []
    loaded = tiny("FPN", [*coco, "SOLVER.MAX_ITER", "1", "CUDNN_BENCHMARK", "True"])
    Detectron2Engine().train(
        loaded,
        tmp_path / "w.safetensors",
        tmp_path / "run",
        progress=lambda *_: seen.append(torch.backends.cudnn.benchmark),
    )
    assert seen == [True]
    assert not torch.backends.cudnn.benchmark
    with torch_settings(loaded.cfg, training=False):
        assert not torch.backends.cudnn.benchmark  # as Detectron2: test sets are too small for it


def test_float32_precision_is_torchs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny("FPN", ["FLOAT32_PRECISION", "high"]).cfg
    before = torch.get_float32_matmul_precision()
    with torch_settings(cfg, training=True):  # Detectron2's own set-up does nothing without a GPU either
        assert torch.get_float32_matmul_precision() == ("high" if torch.cuda.is_available() else before)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with torch_settings(cfg, training=False):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(UserError, match="FLOAT32_PRECISION is 'double'; use one of '', 'highest', 'high', 'medium'"):
        check_backends(tiny("FPN", ["FLOAT32_PRECISION", "double"]).cfg)


def test_precise_bn_does_not_depend_on_an_interruption(tmp_path: Path, coco: list[str]) -> None:
    """Its statistics are no moving averages, and a run resumed after step 2 of 3 ends with the undisturbed one's."""
    backbone_file(tmp_path / "w.safetensors")
    words = [*coco, *TRAINABLE_BN, "TEST.PRECISE_BN.NUM_ITER", "2", "TEST.EVAL_PERIOD", "1", "DATASETS.TEST", "()"]
    words += ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.BASE_LR", "1e-6"]
    whole = statistics(trained(tmp_path / "whole", [*words, "SOLVER.MAX_ITER", "3"]))
    moving = statistics(trained(tmp_path / "off", [*words, "SOLVER.MAX_ITER", "3", "TEST.PRECISE_BN.ENABLED", "False"]))
    assert not all(map(torch.equal, whole, moving))
    trained(tmp_path / "cut", [*words, "SOLVER.MAX_ITER", "3"])
    (tmp_path / "cut" / "last_checkpoint").write_text("model_0000001.pth")
    resumed = trained(tmp_path / "cut", [*words, "SOLVER.MAX_ITER", "3"], resume=True)
    assert resumed.start_iter == 2
    assert all(map(torch.equal, whole, statistics(resumed)))


def test_precise_bn_without_a_bn_says_so(tmp_path: Path, coco: list[str], caplog: pytest.LogCaptureFixture) -> None:
    backbone_file(tmp_path / "w.safetensors")
    words = [*coco, "TEST.PRECISE_BN.ENABLED", "True", "DATASETS.TEST", "()", "MODEL.RESNETS.NORM", "FrozenBN"]
    Trainer(plan_training(tiny("FPN", words), tmp_path / "w.safetensors", tmp_path / "run").cfg)
    assert "TEST.PRECISE_BN.ENABLED does nothing: no BN of the model is in training" in caplog.text


def test_vis_period_draws(tmp_path: Path, coco: list[str]) -> None:
    """Detectron2's models draw proposals into the event storage, which TensorBoard's writer takes from there."""
    pytest.importorskip("tensorboard")
    backbone_file(tmp_path / "w.safetensors")
    trained(tmp_path / "run", [*coco, "VIS_PERIOD", "2", "SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()"])
    events = b"".join(path.read_bytes() for path in (tmp_path / "run").glob("events*"))
    assert b"Left: GT bounding boxes;  Right: Predicted proposals" in events


def proposals(path: Path, ids: list[int], box: list[float]) -> str:
    data: dict[str, Any] = {"ids": ids, "boxes": [np.array([box], np.float32)] * len(ids), "bbox_mode": 0}
    data["objectness_logits"] = [np.array([1.0], np.float32)] * len(ids)
    path.write_bytes(pickle.dumps(data))
    return str(path)


def test_proposal_files_are_read(tmp_path: Path, coco: list[str]) -> None:
    """Fast R-CNN: every image of a step carries the boxes of the file, and the detector is trained on them."""
    backbone_file(tmp_path / "w.safetensors")
    file = proposals(tmp_path / "p.pkl", list(range(100, 108)), [4.0, 4.0, 40.0, 40.0])
    words = [
        *(*coco, "MODEL.LOAD_PROPOSALS", "True", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        *("DATASETS.PROPOSAL_FILES_TRAIN", f"('{file}',)", "DATASETS.PROPOSAL_FILES_TEST", f"('{file}',)"),
        *("SOLVER.MAX_ITER", "1"),
    ]
    trainer = trained(tmp_path / "run", words)
    assert all(len(image["proposals"]) == 1 for image in trainer.data_loader.last)
    assert "bbox" in trainer._last_eval_results


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["MODEL.LOAD_PROPOSALS", "True"], "PROPOSAL_GENERATOR.NAME RPN makes proposals of its own"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"], "and MODEL.LOAD_PROPOSALS is False"),
        (["DATASETS.PROPOSAL_FILES_TRAIN", "('x',)"], "PROPOSAL_FILES_TRAIN is set, and MODEL.LOAD_PROPOSALS is False"),
        (["DATASETS.PROPOSAL_FILES_TEST", "('x',)"], "PROPOSAL_FILES_TEST is set, and MODEL.LOAD_PROPOSALS is False"),
        (
            ["MODEL.LOAD_PROPOSALS", "True", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"],
            "DATASETS.PROPOSAL_FILES_TRAIN names 0 files, DATASETS.TRAIN 1 sets",
        ),
        (
            [
                *("MODEL.LOAD_PROPOSALS", "True", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
                *("DATASETS.PROPOSAL_FILES_TRAIN", "('/nowhere.pkl',)", "DATASETS.PROPOSAL_FILES_TEST", "('x',)"),
            ],
            "DATASETS.PROPOSAL_FILES_TRAIN: no file /nowhere.pkl",
        ),
    ],
)
def test_proposals_that_nothing_would_read(words: list[str], said: str, tmp_path: Path, coco: list[str]) -> None:
    with pytest.raises(UserError) as e:
        check_keys(tiny("FPN", [*coco, *words]).cfg, training=True)
    assert said in str(e.value)
    backbone_file(tmp_path / "w.safetensors")
    with pytest.raises(UserError):
        Detectron2Engine().train(tiny("FPN", [*coco, *words]), tmp_path / "w.safetensors", tmp_path / "run")


def test_repeat_threshold_repeats(tmp_path: Path, coco: list[str]) -> None:
    """DATALOADER's keys reach Detectron2's own samplers: images of a rare class come more often."""
    from scaleprior.detect.data.names import own_sets

    ((name, (path, root)),) = own_sets(tiny("FPN", coco).cfg).items()
    register_coco(name, path, root)
    words = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD"]
    loaders = [Trainer.build_train_loader(tiny("FPN", [*coco, *words, value]).cfg) for value in ("0.001", "1.0")]
    whole = [sampler._int_part + sampler._frac_part for sampler in (loader.batches._indices for loader in loaders)]
    assert torch.equal(whole[0], torch.ones(len(whole[0])))
    assert (whole[1] > 1).any()
