"""Keys of cells: the same as ever for the same study, and moved by nothing that does not change a result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scaleprior.backbones import Card, ResNetSpec, build_resnet, save_backbone, to_detectron2
from scaleprior.config import Key, add_keys, get_cfg, load_config
from scaleprior.config.fingerprint import cell_settings
from scaleprior.config.keys import table
from scaleprior.corpus import Corpus
from scaleprior.pretrain.plan import planned_card
from scaleprior.study import load_spec
from scaleprior.study.cell import Cell
from scaleprior.study.cells import _backbone, plan_cells
from scaleprior.study.prepare import StudyData, prepare_data
from scaleprior.study.rungs import Rung
from scaleprior.study.spec import StudySpec
from tests.study.conftest import write_spec

# As ScalePrior wrote them into results.csv before there was a table of keys.
TINY_CELLS = ["f5aeb50dfb226182", "3c4b37d6124c50d8", "e1b4d3c33e70951e", "16d90134ec4ffcfd"]
QUICKSTART_CELLS = [
    "8f01d5c0365f399d", "12ceb8c1caac9122", "9c11c106543de3e1", "cd92d8a23bb130cb", "b4c356006714f558",
    "743381f2f989fe24", "daa0159e2d14c479", "1d9a0f9270462bf6", "19d105a13973f29e", "501d5424d3264d92",
    "53394cd767a998b1", "692b39318ffd90a7", "371b9151772449d2", "06ce85b7610a0071", "be6b609abc14fd02",
    "4f384eecfb1d093f", "bf01122830d2f4d3", "c21c103dad8e458a", "dc56802994ce74f4", "aec1eeb5ae499a89",
]  # fmt: skip


def keys(spec: StudySpec, data: StudyData) -> list[str]:
    return [cell.key for cell in plan_cells(spec, data, "torchvision")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudySpec, StudyData]:
    folder = tmp_path_factory.mktemp("cells")
    spec = load_spec(write_spec(folder))
    return spec, prepare_data(spec, folder / "out")


def with_overrides(spec: StudySpec, stage: str, *words: str) -> StudySpec:
    section = getattr(spec, stage)
    return replace(spec, **{stage: replace(section, overrides=(*section.overrides, *words))})


def test_cells_of_the_tiny_study_are_those_of_the_first_version(tiny: tuple[StudySpec, StudyData]) -> None:
    assert keys(*tiny) == TINY_CELLS


def test_what_is_a_cells_own_reaches_its_configs_as_it_is(tiny: tuple[StudySpec, StudyData], tmp_path: Path) -> None:
    """Typed, through cell.json and on top of what the stage's config says."""
    spec, data = tiny
    spec = with_overrides(spec, "pretrain", "SEED", "5", "PRETRAIN.FRACTION.IMAGES", "7")  # as a file may say it
    scratch, cell = plan_cells(replace(spec, seeds=(3,)), data, "torchvision")[:2]
    assert (scratch.images, scratch.pretrain_config(), cell.images, cell.seed) == (0, None, 16, 3)
    cell.save(tmp_path)
    cell = Cell.load(tmp_path)
    learner, detector = cell.pretrain_config(), cell.finetune_config()
    assert learner is not None
    assert (learner.cfg.SEED, learner.cfg.PRETRAIN.FRACTION.IMAGES, learner.cfg.PRETRAIN.NOISE.RATE) == (3, 16, 0.2)
    assert (detector.cfg.SEED, detector.cfg.DATASETS.TRAIN) == (3, ("study_train",))
    assert {"SEED", "PRETRAIN.CORPUS", "PRETRAIN.NOISE.KIND"} <= learner.explicit
    assert "SEED" not in cell.finetune.overrides


@pytest.mark.slow
def test_cells_of_the_first_quickstart_are_those_of_the_first_version(tmp_path: Path) -> None:
    spec = load_spec(Path(__file__).parents[2] / "benchmarks" / "engines.yaml")
    assert keys(spec, prepare_data(spec, tmp_path)) == QUICKSTART_CELLS


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [
        ("finetune", "DATALOADER.NUM_WORKERS", "3"),
        ("finetune", "SCALEPRIOR.IMAGE_CACHE_MB", "7"),
        ("finetune", "SCALEPRIOR.IMAGE_STORE_MB", "7"),
        ("finetune", "SOLVER.CHECKPOINT_PERIOD", "7"),
        ("finetune", "SCALEPRIOR.RESULTS", "r.csv"),
        ("finetune", "OUTPUT_DIR", "elsewhere"),
        ("pretrain", "PRETRAIN.LOADER.NUM_WORKERS", "2"),
        ("pretrain", "PRETRAIN.LOADER.CACHE_MB", "0"),
        ("pretrain", "PRETRAIN.LOADER.MAX_UNREADABLE", "0.5"),
        ("pretrain", "PRETRAIN.TENSORBOARD", "True"),
        ("pretrain", "PRETRAIN.CHECKPOINT_PERIOD", "9"),
        ("pretrain", "DATALOADER.NUM_WORKERS", "9"),
    ],
)
def test_what_has_no_effect_on_results_re_runs_no_cell(
    tiny: tuple[StudySpec, StudyData], stage: str, key: str, value: str
) -> None:
    spec, data = tiny
    assert keys(with_overrides(spec, stage, key, value), data) == TINY_CELLS


@pytest.mark.parametrize(
    ("stage", "key", "value", "scratch_too"),
    [
        ("finetune", "SOLVER.BASE_LR", "0.01", True),
        ("finetune", "INPUT.MIN_SIZE_TEST", "40", True),
        ("pretrain", "PRETRAIN.OPTIMIZER.BASE_LR", "0.01", False),
        ("pretrain", "PRETRAIN.NOISE.SEED", "1", False),
    ],
)
def test_what_changes_results_re_runs_the_cells_it_changes(
    tiny: tuple[StudySpec, StudyData], stage: str, key: str, value: str, scratch_too: bool
) -> None:
    spec, data = tiny
    changed = [a != b for a, b in zip(keys(with_overrides(spec, stage, key, value), data), TINY_CELLS)]
    assert changed == [scratch_too, True, True, True]


@pytest.mark.parametrize(("words", "megabytes"), [([], 2048), (["SCALEPRIOR.IMAGE_STORE_MB", "0"], 0)])
def test_cells_store_decoded_images_unless_the_spec_says_otherwise(
    tiny: tuple[StudySpec, StudyData], words: list[str], megabytes: int
) -> None:
    spec, data = tiny
    spec = with_overrides(spec, "finetune", *words) if words else spec
    for cell in plan_cells(spec, data, "torchvision"):
        loaded = cell.finetune_config()
        assert megabytes == loaded.cfg.SCALEPRIOR.IMAGE_STORE_MB
        assert ("SCALEPRIOR.IMAGE_STORE_MB" in loaded.explicit) == bool(words)


def pretrainings(spec: StudySpec, data: StudyData) -> list[str]:
    return [cell.pretraining for cell in plan_cells(spec, data, "torchvision")]


def test_what_comes_after_pretraining_is_no_part_of_its_identity(tiny: tuple[StudySpec, StudyData]) -> None:
    """A repaired JSON, or another recipe of fine-tuning, makes other cells on the same backbones."""
    spec, data = tiny
    whole = pretrainings(spec, data)
    assert whole[0] == ""  # from scratch
    assert len({*whole[1:]}) == 3
    for other_spec, other_data in (
        (spec, replace(data, detection_fingerprint="0" * 64)),
        (with_overrides(spec, "finetune", "SOLVER.BASE_LR", "0.01"), data),
        (with_overrides(spec, "pretrain", "PRETRAIN.LOADER.NUM_WORKERS", "2"), data),
    ):
        assert pretrainings(other_spec, other_data) == whole
    assert not set(keys(spec, replace(data, detection_fingerprint="0" * 64))) & set(TINY_CELLS)
    for other_spec in (
        with_overrides(spec, "pretrain", "PRETRAIN.OPTIMIZER.BASE_LR", "0.01"),
        with_overrides(spec, "pretrain", "PRETRAIN.NOISE.SEED", "1"),
        with_overrides(spec, "pretrain", "PRETRAIN.HELD_OUT.IMAGES", "7"),
        with_overrides(spec, "pretrain", "MODEL.DEVICE", "cpu"),
        replace(spec, threads=2),
        replace(spec, seeds=(1,)),
    ):
        assert not set(pretrainings(other_spec, data)[1:]) & set(whole)


def test_a_held_out_corpus_counts_by_its_content(tiny: tuple[StudySpec, StudyData], tmp_path: Path) -> None:
    spec, data = tiny
    assert data.corpus is not None
    (tmp_path / "link").symlink_to(data.corpus)
    other = with_overrides(spec, "pretrain", "PRETRAIN.HELD_OUT.CORPUS", str(data.corpus))
    here = keys(other, data)
    there = keys(with_overrides(spec, "pretrain", "PRETRAIN.HELD_OUT.CORPUS", str(tmp_path / "link")), data)
    assert here == there
    assert [a == b for a, b in zip(here, TINY_CELLS)] == [True, False, False, False]  # from scratch none is held out
    Corpus.open(data.corpus).fraction(images=40).save(tmp_path / "less")
    less = keys(with_overrides(spec, "pretrain", "PRETRAIN.HELD_OUT.CORPUS", str(tmp_path / "less")), data)
    assert [a == b for a, b in zip(here, less)] == [True, False, False, False]
    unused = ["PRETRAIN.HELD_OUT.CORPUS", "nowhere", "PRETRAIN.HELD_OUT.IMAGES", "0"]
    assert len(keys(with_overrides(spec, "pretrain", *unused), data)) == 4


def test_a_backbone_to_go_on_from_counts_by_its_content(tiny: tuple[StudySpec, StudyData], tmp_path: Path) -> None:
    spec, data = tiny
    assert spec.pretrain is not None
    cfg = load_config(spec.pretrain.config, (*spec.pretrain.overrides, "PRETRAIN.CORPUS", "any")).cfg
    found = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        torch.manual_seed(seed)
        card = planned_card(cfg)
        save_backbone(tmp_path / name, to_detectron2(build_resnet(card.arch).state_dict()), card)
        found.append(keys(with_overrides(spec, "pretrain", "MODEL.WEIGHTS", str(tmp_path / name)), data))
    assert found[0] == found[1]
    for changed in (TINY_CELLS, found[2]):
        assert [a == b for a, b in zip(found[0], changed)] == [True, False, False, False]


def test_a_later_key_enters_only_when_it_is_not_at_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_table", dict(table._table))
    before = cell_settings(get_cfg(), {"SEED"}, "finetune")
    cfg = get_cfg()
    key = Key("SOLVER.LATER_FOR_CELLS", 1.0, "Later.", changes=("finetune",), engines=("torchvision",), since=2)
    add_keys(cfg, [key])
    assert cell_settings(cfg, {"SEED"}, "finetune") == before
    assert cell_settings(cfg, {"SEED", key.name}, "finetune") == before  # set, but to what it is anyway
    cfg.SOLVER.LATER_FOR_CELLS = 2.0
    after = cell_settings(cfg, {"SEED", key.name}, "finetune")
    assert after["config"] == {**before["config"], key.name: 2.0}
    assert after["explicit"] == sorted([*before["explicit"], key.name])


def test_the_eps_of_a_backbones_norms_counts_where_it_is_another(tmp_path: Path) -> None:
    """Equal tensors under another eps are another backbone; the key of those with their family's is as ever."""
    loaded = load_config(None)
    cards = [Card("b", ResNetSpec(), (1.0,) * 3, (1.0,) * 3, "RGB", norm_eps=eps) for eps in (1e-5, 0.0, 1e-3)]
    found = [_backbone(Rung(1, tmp_path, card, "unknown"), loaded)["contract"] for card in cards]
    assert "MODEL.NORM_EPS" not in found[0]
    assert [contract.pop("MODEL.NORM_EPS") for contract in found[1:]] == [0.0, 1e-3]
    assert found[0] == found[1] == found[2]
