"""The study spec: what it accepts and how it refuses."""

from __future__ import annotations

import inspect
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaleprior.cli import main
from scaleprior.config import load_config
from scaleprior.config.keys.key import PRETRAINING
from scaleprior.config.keys.table import check_values
from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.study import reading
from scaleprior.study.cell import Cell, CellData, Noise
from scaleprior.study.sections import StageSection
from scaleprior.study.spec import StudySpec, load_spec
from tests.study.conftest import TINY, write_spec

GOOD: dict[str, Any] = {
    "name": "s",
    "corpus": {"source": "images", "label_column": "wnid"},
    "detection": {
        "train": {"json": "t.json", "images": "t"},
        "val": {"json": "${VAL:-v}.json", "images": "/data/v-*.tar"},
    },
    "ladder": [10, 100],
    "architectures": {"R-50": {"MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.NORM": "BN"}},
    "pretrain": {"config": "Pretrain/quickstart.yaml"},
    "finetune": {"config": "COCO-Detection/quickstart_FPN.yaml", "overrides": {"SOLVER.STEPS": [1, 2]}},
}

WORLD = {"world": {"seed": 0, "images": 9, "image_size": 32}}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
    return path


def test_defaults_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAL", raising=False)
    spec = load_spec(write(tmp_path))
    assert spec.seeds == (0,)
    assert spec.scratch is True
    assert spec.engine == "auto"
    assert spec.threads == 1
    assert spec.noise == {"rate": 0.0, "kind": "uniform", "drop": 0.0}
    assert spec.corpus.source == tmp_path / "images"
    assert spec.corpus.build == {"label_column": "wnid"}
    assert spec.detection.val is not None
    assert spec.detection.val.json == tmp_path / "v.json"
    assert spec.detection.val.images == "/data/v-*.tar"
    assert spec.architectures == {"R-50": ("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.NORM", "BN")}
    assert spec.finetune.overrides == ("SOLVER.STEPS", "[1, 2]")


def test_what_says_how_a_table_is_meant_are_the_parameters_of_a_build(tmp_path: Path) -> None:
    said = {"separator": "|", "missing": ["none"], "uncertain": "positive", "min_confidence": 0.5, "skip_missing": True}
    assert load_spec(write(tmp_path, corpus={"source": "images", **said})).corpus.build == said
    assert set(reading._CORPUS_BUILD) <= set(inspect.signature(Corpus.build).parameters)


def test_variables_come_from_the_environment_and_unset_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, corpus={"source": "${MY_CORPUS}/train"})
    monkeypatch.setenv("MY_CORPUS", "/data/c")
    assert load_spec(path).corpus.source == Path("/data/c/train")
    monkeypatch.delenv("MY_CORPUS")
    with pytest.raises(UserError, match=r"corpus.source .* MY_CORPUS is not set; set MY_CORPUS"):
        load_spec(path)


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path), ["seeds", "[3, 4]", "noise.rate", "0.25", "corpus.salt", "x"])
    assert spec.seeds == (3, 4)
    assert spec.noise["rate"] == 0.25
    assert spec.corpus.build["salt"] == "x"


@pytest.mark.parametrize("value", [0, 0.25, 1, 1.0])
def test_noise_is_what_its_key_takes(tmp_path: Path, value: float) -> None:
    """1.0 in the spec as in a config: one row says it."""
    noise = load_spec(write(tmp_path, noise={"rate": value, "drop": value, "kind": "sibling"})).noise
    assert noise == {"rate": value, "drop": value, "kind": "sibling"}
    assert {type(noise["rate"]), type(noise["drop"])} == {float}
    check_values(load_config(None, ["PRETRAIN.NOISE.RATE", str(value)]).cfg, PRETRAINING)


def test_the_largest_seed(tmp_path: Path) -> None:
    assert load_spec(write(tmp_path, seeds=[2**63 - 1, 0])).seeds == (2**63 - 1, 0)


def test_a_config_beside_the_spec_wins(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("SEED: 1\n", encoding="utf-8")
    spec = load_spec(write(tmp_path, pretrain={"config": "mine.yaml"}))
    assert spec.pretrain.config == str(tmp_path / "mine.yaml")
    assert spec.finetune.config == "COCO-Detection/quickstart_FPN.yaml"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ladder": []}, r"ladder is \[\]"),
        ({"ladder": [10, 5]}, r"ladder \[10, 5\] does not rise"),
        ({"ladder": [10, 10]}, "does not rise"),
        ({"ladder": [0, 10]}, "each at least 1"),
        ({"ladder": [1.5]}, "whole numbers"),
        ({"laddr": [1]}, "unknown key 'laddr'; did you mean 'ladder'"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"seeds": [-1]}, "seeds is .*different whole numbers, each at least 0"),
        ({"seeds": [0.5]}, "seeds is 0.5; give a whole number at most 9223372036854775807"),
        ({"seeds": [2**63]}, "seeds is 9223372036854775808; give a whole number at most 9223372036854775807"),
        ({"noise": {"rate": 1.5}}, "noise.rate is 1.5; give a number from 0 to 1"),
        ({"noise": {"drop": math.nan}}, "noise.drop is nan; give a number from 0 to 1"),
        ({"noise": {"drop": True}}, "noise.drop is True; give a number from 0 to 1"),
        ({"noise": {"rate": "much"}}, "noise.rate is 'much'"),
        ({"noise": {"kind": "odd"}}, "noise.kind is 'odd'"),
        ({"noise": {"wrong": 0.1}}, "unknown key 'wrong' in section noise"),
        (
            {"corpus": {"source": "a", "index": "b"}},
            r"exactly one of world, source and index, has \['source', 'index'\]",
        ),
        ({"corpus": {"index": "b", "split": "train"}}, "only go with source"),
        ({"corpus": {"source": "a", "labels": 5}}, "labels is 5, expected str"),
        ({"detection": {"world": {"train": 1, "val": 1, "canvas": 64}}}, "detection.world needs corpus.world"),
        (
            {"corpus": WORLD, "detection": {"world": {"train": 1, "val": 1, "canvas": 64, "masks": "yes"}}},
            "detection.world.masks is 'yes'; give true or false",
        ),
        ({"corpus": {"world": {"images": 9, "image_size": 32}}}, "corpus.world.seed is None; give a whole number"),
        ({"corpus": {"world": {**WORLD["world"], "kinds": 4}}}, "corpus.world: unknown world setting 'kinds'"),
        ({"corpus": {"world": {**WORLD["world"], "shapes": ["blob"]}}}, "corpus.world: .*blob"),
        ({"detection": {"train": {"json": "a", "images": "b"}}}, "detection.val needs json and images"),
        ({"architectures": {}}, "architectures is empty"),
        ({"architectures": {"A": [1]}}, "architectures.A is"),
        ({"pretrain": {}}, "section pretrain needs a config"),
        ({"threads": 0}, "threads is 0"),
        ({"scratch": "yes"}, "scratch is 'yes', expected bool"),
        ({"name": 3}, "name is 3, expected str"),
    ],
)
def test_bad_values_name_the_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_spec(write(tmp_path, **changes))
    assert "spec.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "section"),
    [
        ("SEED", "seeds"),
        ("PRETRAIN.CORPUS", "corpus"),
        ("PRETRAIN.FRACTION.IMAGES", "ladder"),
        ("PRETRAIN.FRACTION.RATIO", "ladder"),
        ("PRETRAIN.NOISE.RATE", "noise"),
        ("PRETRAIN.NOISE.KIND", "noise"),
        ("PRETRAIN.NOISE.DROP", "noise"),
        ("SCALEPRIOR.DATASETS", "detection"),
        ("DATASETS.TRAIN", "detection"),
        ("DATASETS.TEST", "detection"),
    ],
)
def test_what_the_study_itself_sets_is_no_override(tmp_path: Path, key: str, section: str) -> None:
    nested: Any = 0.5
    for part in reversed(key.split(".")):
        nested = {part: nested}
    for overrides in ({key: 0.5}, nested):
        for where, changes in (
            ("pretrain.overrides", {"pretrain": {**GOOD["pretrain"], "overrides": overrides}}),
            ("finetune.overrides", {"finetune": {**GOOD["finetune"], "overrides": overrides}}),
            ("architectures.A", {"architectures": {"A": overrides}}),
        ):
            with pytest.raises(UserError, match=rf"{where} sets {key} to 0.5, .*; say it under {section}$"):
                load_spec(write(tmp_path, **changes))


def test_every_key_that_a_cell_sets_is_refused_as_an_override(tmp_path: Path) -> None:
    """Against the cell itself, so that the list in the reader cannot fall behind."""
    (tmp_path / "empty.yaml").touch()
    stage, data = StageSection(str(tmp_path / "empty.yaml"), ()), CellData("/c", ("t", "/t", "/"), ("v", "/v", "/"))
    cell = Cell("k", "A", 1, 1, "torchvision", 1, stage, stage, data, Noise(0.1, "sibling", 0.1))
    learner = cell.pretrain_config()
    assert learner is not None
    own = learner.explicit | cell.finetune_config().explicit
    assert len(own) == 9
    for key in own:
        with pytest.raises(UserError, match=rf"sets {key} to 1"):
            load_spec(write(tmp_path, architectures={"A": {key: 1}}))


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="study spec not found"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"no file none\.yaml"):
        load_spec("none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        load_spec(tmp_path / "bad.yaml")


def test_a_study_on_a_lazy_config_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ViTDet's and other LazyConfigs have no keys that a cell could be known by."""
    (tmp_path / "vitdet.py").write_text("model = {}\n")
    finetune = {**TINY["finetune"], "config": str(tmp_path / "vitdet.py")}
    code = main(["study", "run", str(write_spec(tmp_path, finetune=finetune)), "--out", str(tmp_path / "out")])
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert (code, len(said)) == (2, 1)
    assert "vitdet.py is a LazyConfig" in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 5000, "nested too deeply to be read; repair the YAML"),
        ("a: &a [*a]", "an alias within itself"),
        (
            "\n".join([f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(8)]),
            "aliases written",
        ),
        ("name: 2020-99-99", "month must be in 1..12"),
        ("threads: " + "9" * 5000, "a whole number of 5,000 characters"),
        ("name: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("? [1]\n: 2", "unhashable key"),
        ("name: \x1b[31m", "unacceptable character"),
        ("[1, 2]", "holds no mapping"),
    ],
)
def test_of_a_yaml_that_is_no_spec_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^study spec .*spec\.yaml .*{message}") as caught:
        load_spec(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[" * 5000, r"override ladder: '\[\[.*\.\.\. \(5,000 characters\) is nested too deeply to be read; quote"),
        ("2020-99-99", "override ladder: '2020-99-99' cannot be read: month must be in 1..12"),
        ("a: b: c", "override ladder: 'a: b: c' cannot be read: mapping values are not allowed here"),
        ("9" * 5000, "a whole number of 5,000 characters"),
    ],
)
def test_of_an_override_that_is_no_yaml_one_line(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_spec(write(tmp_path), ["ladder", value])
    assert len(str(caught.value)) < 600


def test_of_an_override_that_is_no_value_of_a_spec_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="override ladder: Object of type object is not JSON serializable"):
        load_spec(write(tmp_path), {"ladder": object()})


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
def test_a_spec_is_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "spec.yaml"
    {"a pipe": os.mkfifo, "a folder": os.mkdir, "a device": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(UserError, match=f"study spec .* is {kind}; give a file"):
        load_spec(path)


NO_NAMES = ["../x", "/etc", "a/b", "a\\b", "..", ".x", "", "C:x", "a\0b", "a\x1b[31m", "a\nb", "\u202eb", "x" * 300]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_becomes_a_folder_stays_in_its_own(tmp_path: Path, name: str) -> None:
    """That of the study, which is the folder of a run without another; of an architecture; of an arm."""
    for changes in ({"name": name}, {"architectures": {name: {}}}, {"arms": {name: {}}}):
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
        if "arms" in changes and len(name) == 300:
            continue  # seen where the folder of its cells is known
        with pytest.raises(UserError, match=r"cannot be the name|too many|no name of an arm|name is ''") as e:
            load_spec(tmp_path / "spec.yaml")
        assert "spec.yaml: " in str(e.value)
        assert str(e.value).isprintable()
        assert len(str(e.value)) < 700


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ladder": [10, 2**63]}, r"ladder is \[10, 9223372036854775808\]"),
        ({"ladder": [1] * 10_000}, r"ladder \[1, 1, .*\.\.\. does not rise"),
        ({"threads": 10**30}, "threads is 10+; give"),
        ({"detection": {"world": {"train": True, "val": 1, "canvas": 64}}, "corpus": WORLD}, "world.train is True"),
        ({"corpus": {"source": "~nobody-of-that-name/x"}}, "corpus.source is '~nobody-of-that-name/x': .*home"),
        ({"scratch": [[[1] * 100] * 100] * 10}, r"scratch is \[\[\[1, .*\.\.\., expected bool"),
    ],
)
def test_values_beyond_measure_are_refused_and_cut_in_the_message(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    raw = {**GOOD, **changes}
    with pytest.raises(UserError, match=message) as caught:
        StudySpec.from_dict(raw, folder=tmp_path)
    assert len(str(caught.value)) < 600
