"""Without Detectron2, or with one that is broken or too old: every door says so in one line, with a pointer.

These tests run with and without Detectron2: a process of their own sees none, or a fake. Who sees none starts anew, as
nothing may have been imported before; a fake that fails is imported by the process itself, whatever it shares.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaleprior.detect import known_engines
from tests import processes
from tests.conftest import REPO
from tests.study.conftest import write_spec

GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"

# Python runs this first. It hides a Detectron2 that is installed; one of PYTHONPATH is not passed on at all.
HIDE = """
import importlib.machinery, sys
found = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] == "detectron2" else found(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
sys.meta_path[:] = [f for f in sys.meta_path if "detectron2" not in getattr(f, "__module__", "")]
"""

# Each door is opened in turn, and what came out of it is printed as JSON: [exit code or error's class, words].
DOORS = """
import contextlib, io, json, runpy, sys
doors = json.loads(sys.argv[1])
found = {}
for name, (kind, value) in doors.items():
    words = io.StringIO()
    with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
        try:
            if kind == "python":
                exec(value)
                code = 0
            elif kind == "cli":
                from scaleprior.cli import main
                code = main(value)
            else:
                code = runpy.run_path(kind)["main"](value)
        except Exception as e:
            code = [c.__name__ for c in type(e).__mro__]
            words.write(str(e))
    found[name] = [code, words.getvalue()]
print(json.dumps(found))
"""


def open_doors(
    doors: dict[str, Any], folder: Path, run: Callable[..., Any] = processes.run
) -> dict[str, tuple[Any, str]]:
    """What ``doors`` say in a process of their own that finds ``folder`` before everything else."""
    path = {"PYTHONPATH": os.pathsep.join([str(folder), str(REPO)]), "OMP_NUM_THREADS": "1"}
    done = run([sys.executable, "-c", DOORS, json.dumps(doors)], cwd=folder, env={**os.environ, **path})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def doors(folder: Path) -> dict[str, Any]:
    """All there are: door -> (kind, what to open it with)."""
    config = ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml"]
    spec = write_spec(folder)
    return {
        "import": ("python", "import scaleprior.d2"),
        "model_zoo": ("python", "import scaleprior; scaleprior.model_zoo.with_backbone('a.yaml', 'w')"),
        "detect": ("cli", ["detect", "train", "--engine", "detectron2", *config]),
        "eval": ("cli", ["detect", "eval", "--engine", "detectron2", *config]),
        "study": ("cli", ["study", "run", str(spec), "--engine", "detectron2", "--out", str(folder / "study")]),
        "train_net": (str(REPO / "tools" / "train_net.py"), ["--engine", "detectron2", *config]),
        "pretrain_net": (
            str(REPO / "tools" / "pretrain_net.py"),
            ["--runtime", "detectron2", "--config-file", "Pretrain/quickstart.yaml"],
        ),
    }


def said(found: tuple[Any, str], door: str) -> str:
    """The one line, after checking that it is one, and bad input."""
    code, words = found
    if isinstance(code, list):
        assert {"UserError", "ImportError", "ValueError"} <= set(code), (door, code)
    else:
        assert code == 2, (door, words)
    assert "Traceback" not in words, (door, words)
    (line,) = [line for line in words.splitlines() if "Detectron2" in line]
    return line


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[Any, str]]]:
    """A folder, and what all doors and those of ``NOT_ASKED`` said there in a new interpreter without Detectron2."""
    folder = tmp_path_factory.mktemp("absent")
    (folder / "sitecustomize.py").write_text(HIDE)
    new = functools.partial(subprocess.run, capture_output=True, text=True, check=False)
    # those that go on without it come first: nothing has looked for it yet
    return folder, open_doors({**NOT_ASKED, **doors(folder)}, folder, new)


NOT_ASKED: dict[str, Any] = {
    "auto": ("python", "from scaleprior.detect import get_engine; print(get_engine('auto').name)"),
    "zoo": ("python", "import scaleprior; print(scaleprior.model_zoo.list('*jft-10m'))"),
    "tool": (str(REPO / "tools" / "train_net.py"), ["--config-file", "nothing.yaml"]),
}


def test_absent(without: tuple[Path, dict[str, tuple[Any, str]]]) -> None:
    folder, found = without
    for door in found.keys() - NOT_ASKED.keys():
        line = said(found[door], door)
        assert "is not installed" in line, door
        assert f"install it by {GUIDE}" in line, door
    assert len(found) == len(NOT_ASKED) + 7
    assert not (folder / "study").exists()


def test_absent_does_not_matter_to_those_who_do_not_ask(without: tuple[Path, dict[str, tuple[Any, str]]]) -> None:
    _, found = without
    assert found["auto"] == [0, "torchvision\n"]
    assert found["zoo"] == [0, "['paper-R-50-jft-10m', 'paper-R-101-jft-10m', 'paper-R-152-jft-10m']\n"]
    assert found["tool"][0] == 2
    assert "Detectron2" not in found["tool"][1]


def fake(folder: Path, **files: str) -> None:
    """A package ``detectron2`` of these files (``a__b`` is a/b.py)."""
    for name, text in {"__init__": "", **files}.items():
        path = folder / "detectron2" / f"{name.replace('__', '/') if name != '__init__' else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for parent in path.parents:
            if parent == folder:
                break
            (parent / "__init__.py").touch()


@pytest.mark.skipif("detectron2" not in known_engines(), reason="scaleprior is not installed, only importable")
@pytest.mark.parametrize(
    ("files", "words"),
    [
        # built against another torch
        (
            {"__init__": "raise ImportError('_C.so: undefined symbol: _ZN2at4_ops5zeros')"},
            "this Detectron2 cannot be used with this torch: ImportError: _C.so: undefined symbol",
        ),
        ({"__init__": "raise OSError('libcudart.so.9: cannot open')"}, "OSError: libcudart.so.9: cannot open"),
        # from before it had a path manager of its own
        ({"utils__file_io": ""}, "ImportError: cannot import name 'PathManager' from 'detectron2.utils.file_io'"),
        ({"utils__comm": ""}, "Detectron2 cannot be imported: No module named 'detectron2.utils.file_io'"),
        ({"utils__file_io": "import gone"}, "Detectron2 cannot be imported: No module named 'gone'"),
    ],
    ids=["other torch", "no library", "too old", "a file missing", "a requirement missing"],
)  # fmt: skip
def test_broken_or_too_old(files: dict[str, str], words: str, tmp_path: Path) -> None:
    fake(tmp_path, **files)
    for door, answer in open_doors(doors(tmp_path), tmp_path).items():
        line = said(answer, door)
        assert words in line, door
        assert GUIDE in line, door


@pytest.mark.skipif("detectron2" not in known_engines(), reason="scaleprior is not installed, only importable")
def test_pretraining_goes_on_without_a_broken_one(tmp_path: Path) -> None:
    """It needs nothing of it, so "auto" warns and does not stop; the config's error comes after."""
    fake(tmp_path, __init__="raise ImportError('_C.so: undefined symbol')")
    words = ["--config-file", "Pretrain/quickstart.yaml", "PRETRAIN.TYPO", "1"]
    code, text = open_doors({"tool": (str(REPO / "tools" / "pretrain_net.py"), words)}, tmp_path)["tool"]
    warning, error = text.splitlines()
    assert code == 2
    assert warning.startswith("pretrain_net: warning: going on without Detectron2: this Detectron2 cannot be used")
    assert error.startswith("pretrain_net: error: unknown config key PRETRAIN.TYPO")
