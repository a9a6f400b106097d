"""The table of keys: what its rows say holds, what values are understood, and what others can add to it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scaleprior import plugins
from scaleprior.config import Key, add_keys, get_cfg, load_config
from scaleprior.config.dotted import flat_config, get_key, set_key
from scaleprior.config.keys import (
    ANY,
    POSITIVE,
    SHARE,
    Each,
    Number,
    above,
    all_keys,
    at_least,
    find_key,
    one_of,
    table,
)
from scaleprior.config.keys.key import DETECTORS, EVERYBODY, TORCHVISION
from scaleprior.config.keys.table import check_values
from scaleprior.config.reference import reference_page
from scaleprior.detect import engines
from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine
from scaleprior.errors import UserError
from tests.conftest import REPO

ROWS = pytest.mark.parametrize("key", all_keys(), ids=lambda key: key.name)


@pytest.fixture
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that a test declares go with it."""
    monkeypatch.setattr(table, "_table", dict(table._table))


@ROWS
def test_a_row_is_whole(key: Key) -> None:
    assert key.text.endswith((".", ")"))
    assert set(key.changes) <= {"pretrain", "finetune", "evaluate"}
    assert key.engines
    assert set(key.engines) <= set(EVERYBODY)
    assert not key.by_content or key.changes
    assert not key.fixed or {"finetune", "evaluate"} <= set(key.changes)
    assert key.default is None or key.legal.takes(key.default)
    assert key.since == 1 or key.since == 2
    if "No effect on results" in key.text:
        assert key.changes == ()


def test_the_config_is_the_table() -> None:
    cfg = dict(flat_config(get_cfg()))
    assert cfg == {key.name: key.default for key in all_keys()}
    assert len(cfg) == len(all_keys())


@pytest.mark.parametrize("name", ["MODEL.BACKBONE.NAME", "MODEL.TIMM.MODEL"])
def test_the_rows_of_the_trunk_say_that_pretraining_reads_them(name: str) -> None:
    key = find_key(name)
    assert key is not None
    assert key.changes == ("pretrain", "finetune", "evaluate")
    assert "pretraining" in key.engines


def test_the_page_of_keys_is_made_from_the_table() -> None:
    """Otherwise: python -m scaleprior.config.reference > docs/config.md."""
    assert (REPO / "docs" / "config.md").read_text(encoding="utf-8") == reference_page()


@pytest.mark.parametrize(
    ("legal", "good", "bad", "words"),
    [
        (at_least(1), [1, 2, 10**30], [0, -1, True, "1", None], "a whole number of at least 1"),
        (above(0), [1e-300, 5], [0, -1, math.inf, math.nan], "a whole number above 0"),
        (SHARE, [0, 0.5, 1], [-1e-9, 1.0000001, math.nan], "a whole number from 0 to 1"),
        (Number(0, 1, below=True), [0, 0.999], [1, -0.1], "a whole number of at least 0 and below 1"),
        (Number(0, 1, above=True), [1, 1e-9], [0, 1.1], "a whole number above 0 and at most 1"),
        (Number(1, also=(-1,)), [-1, 1, 7], [0, -2], "a whole number of at least 1, or -1"),
        (Number(), [-3, 0.0], [math.inf, "0"], "a whole number"),
        (one_of("", "BN"), ["", "BN"], ["GN", None], "one of '', BN"),
        (Each(POSITIVE, lengths=(3,)), [[1, 2, 3], (1.5, 2, 3)], [[1, 2], [1, 2, 0], 3, [1, 2, "3"]],
         "three whole numbers above 0"),
        (Each(SHARE, lengths=(1, 2), rising=True), [[0.3, 0.7], [0.5], [1, 1]], [[], [0.7, 0.3], [1.5]],
         "one or two whole numbers from 0 to 1, none smaller than the one before"),
        (Each(POSITIVE, least=1, deep=True, types=(int, float)), [[1], [[1], [2, 3]]], [[], [[1], []], [[0]], [[1], 2]],
         "one or more numbers above 0, in one list or several"),
        (Each(one_of("a", "b")), [[], ["a", "a"]], [["c"], "a"], "names out of a, b"),
        (ANY, [0, "x", None], [], "a whole number"),
    ],
)  # fmt: skip
def test_legal_values_and_their_words(legal: Any, good: list[Any], bad: list[Any], words: str) -> None:
    assert [value for value in good if not legal.takes(value)] == []
    assert [value for value in bad if legal.takes(value)] == []
    assert legal.words(int) == words


# --- what is understood -------------------------------------------------------------------------------------------

UNDERSTOOD = [  # key, text in YAML and on the command line, value
    ("PRETRAIN.AMP", "off", "off"),
    ("PRETRAIN.AMP", "'off'", "off"),
    ("PRETRAIN.AMP", "bf16", "bf16"),
    ("PRETRAIN.AMP", "False", "off"),
    ("SOLVER.BASE_LR", "1e-3", 0.001),
    ("SOLVER.BASE_LR", "1", 1.0),
    ("SOLVER.BASE_LR", "'2e-3'", 0.002),
    ("PRETRAIN.OPTIMIZER.WEIGHT_DECAY", "5E-5", 0.00005),
    ("SOLVER.MAX_ITER", "3.0", 3),
    ("SOLVER.MAX_ITER", "1e3", 1000),
    ("SOLVER.STEPS", "[5, 8]", (5, 8)),
    ("SOLVER.STEPS", "(5, 8)", (5, 8)),
    ("SOLVER.WEIGHT_DECAY_BIAS", "1e-4", 0.0001),
    ("MODEL.RPN.BBOX_REG_WEIGHTS", "[1.0, 1.0, 2.0, 2.0]", (1.0, 1.0, 2.0, 2.0)),
    ("MODEL.PIXEL_STD", "(1.0, 2.0, 3.0)", [1.0, 2.0, 3.0]),
    ("MODEL.PIXEL_MEAN", "['1e2', 2.0, 3]", [100.0, 2.0, 3.0]),
    ("SOLVER.STEPS", "[1e3, 2000]", (1000, 2000)),
    ("INPUT.MIN_SIZE_TRAIN", "(48.0,)", (48,)),
    ("MODEL.RPN.BBOX_REG_WEIGHTS", "(10, 10, 5, 5)", (10.0, 10.0, 5.0, 5.0)),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[32, 40.5], [64.0]]", [[32, 40.5], [64]]),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.5, 1, 2]]", [[0.5, 1.0, 2.0]]),
    ("DATASETS.TRAIN", "['1e3']", ("1e3",)),  # a name, although it looks like a number
]


@pytest.mark.parametrize(("name", "text", "value"), UNDERSTOOD)
def test_values_are_understood_in_files_and_on_the_command_line(
    tmp_path: Path, name: str, text: str, value: Any
) -> None:
    section, _, leaf = name.rpartition(".")
    file = tmp_path / "x.yaml"
    opening = "".join(f"{'  ' * i}{part}:\n" for i, part in enumerate(section.split(".")))
    file.write_text(f"{opening}{'  ' * name.count('.')}{leaf}: {text}\n")
    for loaded in (load_config(file), load_config(None, [name, text])):
        found = get_key(loaded.cfg, name)
        assert repr(found) == repr(value)  # types, too, of items in lists
        assert loaded.explicit == {name}


def test_lists_of_numbers_that_yaml_reads_as_texts(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "SOLVER: {STEPS: [1e3, 2e3]}\nMODEL: {ANCHOR_GENERATOR: {SIZES: [[1e1], [2e1]]}}\n"
    )
    cfg = load_config(tmp_path / "x.yaml").cfg
    assert repr(cfg.SOLVER.STEPS) == "(1000, 2000)"
    assert repr(cfg.MODEL.ANCHOR_GENERATOR.SIZES) == "[[10], [20]]"
    check_values(cfg, TORCHVISION)


@pytest.mark.parametrize("line", ["PRETRAIN.AMP: off", "PRETRAIN.AMP: 'off'", "PRETRAIN.SCHEDULE.WARMUP: 1e-1"])
def test_overrides_of_a_study_are_understood(tmp_path: Path, line: str) -> None:
    from scaleprior.study import load_spec
    from tests.study.conftest import write_spec

    name = line.split(":")[0]
    spec = load_spec(write_spec(tmp_path), ["pretrain.overrides", f"{{{line}}}", "architectures", f"{{A: {{{line}}}}}"])
    assert spec.pretrain is not None
    for words in (spec.pretrain.overrides, spec.architectures["A"]):
        value = get_key(load_config(None, words).cfg, name)
        assert value == (0.1 if "WARMUP" in name else "off")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "SOLVER.MAX_ITER",
            "True",
            "SOLVER.MAX_ITER is True .*a bool; expected int; give a whole number of at least 0",
        ),
        ("SOLVER.BASE_LR", "False", "SOLVER.BASE_LR is False .*a bool; expected float; give a number above 0"),
        ("SOLVER.MAX_ITER", "2.5", "SOLVER.MAX_ITER is 2.5 .*a float; expected int; give a whole number"),
        ("SOLVER.MAX_ITER", "1e999", "SOLVER.MAX_ITER is inf .*a float; expected int"),
        ("SOLVER.MAX_ITER", "None", "SOLVER.MAX_ITER is None .*a NoneType; expected int"),
        ("SOLVER.STEPS", "[2.5]", r"SOLVER.STEPS is \(2.5,\) .*with 2.5 in it; expected int there; give whole numbers"),
        ("SOLVER.STEPS", "[True]", "with True in it; expected int there"),
        ("INPUT.MIN_SIZE_TRAIN", "(48.7,)", "with 48.7 in it; expected int there; give one or more whole numbers"),
        ("MODEL.RPN.CONV_DIMS", "[1.5]", "with 1.5 in it; expected int there"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[['small']]", "with 'small' in it; expected int or float there"),
        ("MODEL.PIXEL_STD", "[1.0, None, 1.0]", "with None in it; expected float there"),
        ("DATASETS.TRAIN", "[3]", "with 3 in it; expected str there; give names of data sets"),
        ("MODEL.RESNETS.OUT_FEATURES", "[4]", "with 4 in it; expected str there"),
        (
            "SOLVER.STEPS",
            "7",
            r"SOLVER.STEPS is 7 .*an int; expected tuple; give whole numbers of at least 0 \(steps\)",
        ),
        ("SOLVER.WEIGHT_DECAY_BIAS", "x", "is 'x' .*expected float; give a number of at least 0, or None"),
        ("SOLVER.NESTEROV", "1", "SOLVER.NESTEROV is 1 .*an int; expected bool; give True or False"),
        ("INPUT.FORMAT", "off", "INPUT.FORMAT is 'off'.*needs the detectron2 engine; take one of BGR, RGB"),
        ("INPUT.FORMAT", "False", "INPUT.FORMAT is False .*a bool; expected str; take one of BGR, RGB"),
        ("PRETRAIN.AMP", "on", "PRETRAIN.AMP is 'on'; take one of off, bf16"),
        ("PRETRAIN.AMP", "True", "PRETRAIN.AMP is 'on'; take one of off, bf16"),
        ("PRETRAIN.AMP", "0", "PRETRAIN.AMP is 0 .*an int; expected str; take one of off, bf16"),
        (
            "MODEL.PIXEL_MEAN",
            "['1e2', 'x', True]",
            r"MODEL.PIXEL_MEAN is \[100.0, 'x', True\] .*with 'x' in it; expected float there; give three numbers",
        ),
        ("MODEL.RPN.IOU_THRESHOLDS", "[0.1, 0.2, 0.3]", "needs the detectron2 engine; give one or two numbers"),
        ("MODEL.RPN.IOU_THRESHOLDS", "[0.1, 2]", r"is \[0.1, 2.0\]; give one or two numbers from 0 to 1"),
    ],
)
def test_other_types_and_values_are_refused_in_one_line(name: str, value: str, message: str) -> None:
    def load_and_check() -> None:
        cfg = load_config(None, [name, value]).cfg
        check_values(cfg, "torchvision")
        check_values(cfg, "pretraining")

    with pytest.raises(UserError, match=message) as caught:
        load_and_check()
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_dotted_names() -> None:
    cfg = get_cfg()
    set_key(cfg, "SOLVER.AMP.ENABLED", True)
    set_key(cfg, "SEED", 3)
    assert (get_key(cfg, "SOLVER.AMP.ENABLED"), cfg.SEED) == (True, 3)
    assert list(flat_config({"a": {"b": 1, "c": {}}, "d": [2]})) == [("a.b", 1), ("d", [2])]
    with pytest.raises(KeyError):
        get_key(cfg, "SOLVER.NONE")


# --- keys of others -----------------------------------------------------------------------------------------------

TILES = (
    Key("MINE.TILES", 1, "Tiles a side.", changes=("finetune",), engines=("mine",), legal=at_least(1), since=2),
    Key("MINE.LOG", "", "Where to log.", changes=(), engines=("mine",), since=2),
)


class MyEngine(TorchvisionEngine):
    """What a package outside writes to have keys of its own: the rows above and one method."""

    name = "mine"
    model_file = "model.pt"

    def default_config(self) -> Any:
        cfg = get_cfg()
        add_keys(cfg, TILES)
        return cfg


@pytest.fixture
def my_engine(own_table: None, monkeypatch: pytest.MonkeyPatch) -> MyEngine:
    class Point:
        name = "mine"

        def load(self) -> Any:
            return MyEngine

    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: [Point()])
    return engines.get_engine("mine")  # type: ignore[return-value]


def test_an_engine_from_outside_brings_keys_of_its_own(my_engine: MyEngine) -> None:
    from scaleprior.config.fingerprint import cell_settings, training_settings

    def load(*words: str) -> Any:
        return load_config(None, words, defaults=my_engine.default_config())

    assert load("MINE.TILES", "2.0").cfg.MINE.TILES == 2
    with pytest.raises(UserError, match=r"MINE.TILES is 'x' .*a str; expected int; give a whole number of at least 1"):
        load("MINE.TILES", "x")
    with pytest.raises(UserError, match=r"unknown config key MINE.TILE .*did you mean MINE.TILES"):
        load("MINE.TILE", "1")
    with pytest.raises(UserError, match=r"MINE.TILES is 0; give a whole number of at least 1"):
        check_values(load("MINE.TILES", "0").cfg, "mine")
    with pytest.raises(UserError, match=r"unknown config key MINE.TILES"):
        load_config(None, ["MINE.TILES", "2"])  # another engine's
    plain = load_config(None)
    for words, changes in ((["MINE.LOG", "l"], False), (["MINE.TILES", "1"], False), (["MINE.TILES", "2"], True)):
        own = load(*words)
        settings = cell_settings(own.cfg, own.explicit, "finetune")
        assert (settings != cell_settings(plain.cfg, plain.explicit, "finetune")) == changes
        assert (training_settings(own.cfg) != training_settings(plain.cfg)) == changes


def test_a_name_is_declared_once(own_table: None) -> None:
    add_keys(get_cfg(), TILES)
    add_keys(get_cfg(), TILES)  # again the same is no other
    with pytest.raises(UserError, match="config key SEED is declared twice, differently"):
        add_keys(get_cfg(), [Key("SEED", 0, "Mine.", changes=(), engines=("mine",))])


# --- the command --------------------------------------------------------------------------------------------------


def run(*words: str) -> int:
    from scaleprior.cli import build_parser

    args = build_parser().parse_args(["config", *words])
    return args.handler(args)


def test_the_command_prints_rows_and_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pretrain.amp", "MODEL.KEYPOINT_ON") == 0
    blocks = capsys.readouterr().out.split("\n\n")
    key = find_key("PRETRAIN.AMP")
    assert key is not None
    assert blocks[0].splitlines() == [
        "PRETRAIN.AMP", f"  {key.text}", "  default  'off' (str)", "  values   one of off, bf16",
        "  read by  pretraining", "  changes  pretrain",
    ]  # fmt: skip
    assert "read by  detectron2" in blocks[1]
    assert run("SOLVER.CLIP_GRADIENTS") == 0
    assert capsys.readouterr().out.count("SOLVER.CLIP_GRADIENTS.") == 4
    assert run() == 0
    assert len(capsys.readouterr().out.splitlines()) == len(all_keys())
    assert run("--json", "INPUT.FORMAT") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["default"], row["values"], row["read_by"]) == ("BGR", "one of BGR, RGB", "all")
    with pytest.raises(UserError, match=r"unknown config key SOLVER.MAX_ITR; did you mean SOLVER.MAX_ITER\?"):
        run("SOLVER.MAX_ITR")


def test_the_command_knows_keys_of_other_engines(my_engine: MyEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--engine", "mine", "MINE.TILES") == 0
    assert "values   a whole number of at least 1\n  read by  mine\n  changes  finetune" in capsys.readouterr().out


def test_the_command_needs_no_torch(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    done = cli("config", "SOLVER.BASE_LR", PYTHONPATH=f"{tmp_path}:{REPO}")
    assert (done.returncode, done.stderr) == (0, "")
    assert DETECTORS == ("torchvision", "detectron2")
    assert "read by  both engines" in done.stdout


@pytest.mark.parametrize("engine", EVERYBODY)
@pytest.mark.parametrize("name", ["SEED", "PRETRAIN.NOISE.SEED"])
def test_a_seed_is_one_that_generators_take(name: str, engine: str) -> None:
    """Larger ones would overflow when a cell, minutes later, seeds with them."""
    most = 2**63 - 1
    key = find_key(name)
    assert key is not None
    if engine in key.engines:
        check_values(load_config(None, [name, str(most)]).cfg, engine)
        with pytest.raises(UserError, match=rf"{name} is 9{{20}}; give a whole number .*{most}"):
            check_values(load_config(None, [name, "9" * 20]).cfg, engine)
    torch.manual_seed(most)
