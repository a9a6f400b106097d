"""Messages name parameters in the library and flags on the command line, and the library spells no flag itself."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import scaleprior as sp
from scaleprior.backbones import ReadOptions
from scaleprior.errors import UserError
from scaleprior.wording import (
    Wording,
    counted,
    either,
    flag,
    in_flags,
    one_line,
    parameter,
    printable,
    shown,
    without_effects,
)

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
PACKAGE = Path(__file__).resolve().parents[2] / "scaleprior"
_FLAG = re.compile(r"(?<![\w-])--[a-z]")
_OF_OTHERS = ("--query-gpu=", "--format=csv")  # nvidia-smi's
_COMMAND = re.compile(r"scaleprior [a-z]+ [^`;]*?--[^`;]*")  # a whole command is a whole command in any language


def test_a_parameter_has_two_spellings() -> None:
    both = {
        parameter("max_skipped"): ("max_skipped", "--max-skipped"),
        parameter("norm", "GN"): ("norm='GN'", "--norm GN"),
        parameter("num_gpus", 1): ("num_gpus=1", "--num-gpus 1"),
        parameter("resume", True): ("resume=True", "--resume"),
        parameter("pixel_mean", words="A B C"): ("pixel_mean", "--pixel-mean A B C"),
        parameter("processes", option="num_gpus"): ("processes", "--num-gpus"),
    }
    for marked, (python, shell) in both.items():
        wording = Wording(f"give {marked}, or {{}} {marked}")
        assert wording == f"give {python}, or {{}} {python}"
        assert in_flags(wording) == f"give {shell}, or {{}} {shell}"
    assert flag("config_file") == "--config-file"
    assert (Wording(f"a {either('b', '')}c"), in_flags(Wording(f"a {either('b', '')}c"))) == ("a bc", "a c")


def test_an_error_carries_both_also_through_a_pickle_and_from_its_marked_text() -> None:
    error = UserError(f"{parameter('norm')} is 'BN'", hint=f"take {parameter('norm', 'GN')}")
    for again in (error, pickle.loads(pickle.dumps(error)), UserError(error.wording.marked)):
        assert str(again) == "norm is 'BN'; take norm='GN'"
        assert in_flags(again) == "--norm is 'BN'; take --norm GN"
        assert again.exit_code == 2
    assert str(error.hint) == "take norm='GN'"
    assert in_flags(ValueError("plain")) == "plain"


def test_python_reads_parameters_and_the_terminal_flags(cli: Cli) -> None:
    with pytest.raises(UserError, match=r"^norm is 'BN'; take GN or FrozenBN$"):
        ReadOptions(norm="BN")
    run = cli("backbone", "show", "timm:resnet50", "--norm-eps", "-1")
    assert run.stderr == "scaleprior: error: --norm-eps is -1.0; give a number of at least 0 such as 1e-3\n"


SETS = "COCO-Detection/quickstart_FPN.yaml"
# Without the check before a run, which would tell all of a config's faults at once.
REFUSED: dict[str, tuple[Callable[[], object], str, str]] = {
    "no study": (lambda: sp.Study.open("nope"), "folder that its run had as out", "folder that its run had as --out"),
    "no corpus": (
        lambda: sp.pretrain("Pretrain/R_50_jft.yaml", "out"), "index folder: corpus=FOLDER", ": PRETRAIN.CORPUS FOLDER",
    ),
    "no such set": (
        lambda: sp.detect(SETS, "out", engine="torchvision"),
        "; give train or val as (json, root), or add yours to SCALEPRIOR.DATASETS as [name, json, root]",
        "_8k; add yours to SCALEPRIOR.DATASETS as [name, json, root]",
    ),
    "set that is not here": (
        lambda: sp.detect(SETS, "out", engine="torchvision", train="coco_2017_train", check=False),
        "; or give train and val",
        "",
    ),
    "no set": (
        lambda: sp.detect(SETS, "out", engine="torchvision", overrides={"DATASETS.TRAIN": ()}, check=False),
        "give train: a name or (json, root)",
        "give DATASETS.TRAIN \"('NAME',)\" and define NAME in SCALEPRIOR.DATASETS",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_remedy_is_one_of_the_language_that_was_spoken(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", "nowhere")
    call, python, shell = REFUSED[case]
    with pytest.raises(UserError) as refused:
        call()
    assert str(refused.value).endswith(python)
    assert in_flags(refused.value).endswith(shell)
    assert not list(tmp_path.iterdir())


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of a file's string constants but its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_library_string_names_a_flag(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in ("cli.py", "commands"):
        return
    spelled = [
        (line, text)
        for line, text in strings(path)
        if _FLAG.search(_COMMAND.sub("", text)) and not text.startswith(_OF_OTHERS)
    ]
    assert not spelled, f"{path}: name the parameter with scaleprior.wording.parameter: {spelled}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_error_is_worded_with_a_flag(path: Path) -> None:
    """``flag`` is for commands that are shown whole; an error that Python reads has parameters."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    errors = [call for call in calls if ast.unparse(call.func).endswith(("Error", "_fail"))]
    worded = [
        call.lineno
        for error in errors
        for call in ast.walk(error)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("flag", "wording.flag")
    ]
    assert not worded, f"{path}: name the parameter with scaleprior.wording.parameter: lines {worded}"


def test_one_thing_is_singular() -> None:
    assert counted(2, "boxes that lie outside their image") == "2 boxes that lie outside their image"
    assert counted(0, "boxes") == "0 boxes"
    of_one = {
        "boxes of zero or negative size": "box of zero or negative size",
        "boxes that reach out of their image": "box that reaches out of their image",
        "images that are not at a/that are": "image that is not at a/that are",
        "images that cannot be used": "image that cannot be used",
        "images that train.json has, too": "image that train.json has, too",
        "images whose file another has, too": "image whose file another has, too",
        "category ids that occur twice, with different names": "category id that occurs twice, with different names",
        "categories whose name another has, too": "category whose name another has, too",
        "annotations that repeat another: image, category and box": "annotation that repeats another: image, "
        "category and box",
        "areas outside 0 to 1e10": "area outside 0 to 1e10",
        "entries that are no image id": "entry that is no image id",
        "files that are gone": "file that is gone",
        "processes": "process",
    }
    for things, one in of_one.items():
        assert counted(1, things) == f"1 {one}"


class _Costly(list):
    """Renders for ever."""

    def __repr__(self) -> str:
        raise AssertionError("it was rendered")


def test_what_is_shown_is_all_that_is_looked_at() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    wide: list[object] = ["x"]
    for _ in range(60):
        wide = [wide, wide]  # 2 ** 60 leaves
    for value in (deep, wide, {"a": wide}, (wide,), 10**100_000, -(10**100_000), ["a" * 10**7] * 3, {1: {2: deep}}):
        assert len(shown(value)) < 130
    assert len(shown([*range(200), _Costly()])) < 130
    for value in ([], {}, (), set(), (1,), {1: [2, (3,)], "a": None}, {4}, frozenset({5}), [b"x", 1.5, True, 10**30]):
        assert shown(value) == repr(value)


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "a\r\nb", "\x9b2J", "\u202edlrow", "\u2028", "\x00", "\ud800", "\x02", "\x1f\x03"]
)
def test_text_of_others_does_not_act(text: str) -> None:
    error = UserError(f"label {text} of {parameter('labels')}", hint=f"remove {text}, or {parameter('labels', 'x')}")
    for said in (
        str(error),
        in_flags(error),
        str(UserError(error.wording.marked)),
        str(pickle.loads(pickle.dumps(error))),
    ):
        assert said.isprintable()
        assert "label " in said
    assert in_flags(error).endswith("or --labels x")
    assert UserError("two things", lines=[text, "b"]).wording.count("\n") == 2
    assert without_effects(f"a\tb\n{text[0]}") in (f"a\tb\n{text[0]}", f"a\tb\n{printable(text[0])}")


def test_an_exception_is_told_in_one_line() -> None:
    assert one_line(ValueError("a\n  b\x1b[0m")) == "a b\\x1b[0m"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 10_000))) == 303
