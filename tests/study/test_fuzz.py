"""Files of a study with anything in them: a value, or one line; never a place outside the study's folder."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaleprior.errors import ScalePriorError
from scaleprior.study import load_spec, study_status
from scaleprior.study.cell import Cell, Noise
from scaleprior.study.folder import StudyFolder, StudyRecord
from scaleprior.study.published import write_published
from scaleprior.study.report.page import build_report
from scaleprior.study.report.summary import write_results
from scaleprior.study.sections import StageSection
from scaleprior.study.status import study_view
from scaleprior.study.view import CellStatus, StudyView
from tests.pretrain.test_metrics import RECORD as LEARNED
from tests.study.conftest import TINY
from tests.study.test_damage import CELL, RESULT

FULL = replace(
    CELL, pretrain=StageSection("p.yaml", ("A", "1")), noise=Noise(0.1, "uniform", 0.0), pretraining="b" * 16
)
VIEW = StudyView(
    Path(), "a", "torchvision", (CellStatus(FULL, Path(), "done", result=replace(RESULT, pretrain=LEARNED)),),
    {"command": "scaleprior study run a.yaml", "comparable R-50": "all rungs have one supervision", "threads": 1},
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**64, 10**400, 1e308, float("nan"), float("inf"), "", "../../x", "/etc/passwd", "\0", "3",
    "\x1b[31m[/b]\n\u202e", "x" * 10_000, [], {}, [[[]]], {"a": {"b": []}}, [1, 2, 3], ["a", "b", "c"],
)  # fmt: skip
_INSERTS = (b"[" * 5000, b"9" * 5000, b"\0", b"\xff", b'"', b"{", b"1e999", b"\\ud800", b"&a ", b"*a", b"!!int ")


def _mutants(text: str, dump: Callable[[Any], str], count: int) -> Iterator[bytes]:
    """Of a JSON: a value that is another, a key that is gone or more; bytes that are others, cut off or in between."""
    rng = random.Random(17)
    for n in range(count):
        if n % 2:
            data = bytearray(text.encode())
            at = rng.randrange(len(data))
            kind = rng.randrange(3)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at : at + rng.choice((1, 8, len(data)))]
            else:
                data[at:at] = rng.choice(_INSERTS)
            yield bytes(data)
            continue
        raw = json.loads(text)
        node, key = rng.choice([*_places(raw)])
        kind = rng.randrange(6)
        if kind == 0 and isinstance(node, dict):
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[rng.choice(("later", "", "x" * 300))] = node[key]
        else:
            node[key] = rng.choice(_VALUES)
        yield dump(raw).encode()


def _places(raw: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a value."""
    for key in raw if isinstance(raw, dict) else range(len(raw)) if isinstance(raw, list) else ():
        yield raw, key
        yield from _places(raw[key])


def _record() -> dict[str, Any]:
    return {"schema": 1, "name": "a", "fingerprint": "1", "engine": "torchvision", "facts": dict(VIEW.facts),
            "cells": [FULL.to_dict()]}  # fmt: skip


def _read_study(root: Path) -> None:
    for status in study_status(root).cells:
        assert status.folder.parent == root / "cells"
        assert ".." not in status.cell.backbone_name.split("/")


def _read_cell(root: Path) -> None:
    cell = Cell.load(root)
    assert (root / cell.folder_name).parent == (root / cell.backbone_name).parent == root


def _read_report(root: Path) -> None:
    report = build_report(study_status(root))
    for make in (report.table, report.to_dict, report.markdown):
        make()


def _read_status(root: Path) -> None:
    """No file of a cell stops it."""
    view = study_view(StudyFolder(root), StudyRecord("a", "1", cells=(FULL,)), busy=True)
    if view.finished():
        build_report(replace(view, facts=VIEW.facts)).to_dict()


def _files(root: Path) -> dict[str, tuple[Path, Callable[[Path], None]]]:
    """Sound files, and who reads them."""
    study, cell, own, published = (root / name for name in ("study", "cell", "own", "published"))
    for folder in (study, cell, published):
        folder.mkdir()
    (study / "study.json").write_text(json.dumps(_record()))
    FULL.save(cell)
    at_work = StudyFolder(own).cell(FULL)
    at_work.mkdir(parents=True)
    VIEW.finished()[0][1].save(at_work)
    (at_work / "error.json").write_text(json.dumps({"error": "diverged", "memory": "host"}))
    (at_work / "progress.json").write_text(
        json.dumps({"stage": "finetune", "done": 1, "total": 2, "numbers": {"loss": 1.0}})
    )
    write_published(VIEW, published, facts=VIEW.facts)
    write_results(VIEW, published / "results.csv")
    (root / "spec.yaml").write_text(json.dumps(TINY))
    return {
        "study": (study / "study.json", lambda _: _read_study(study)),
        "cell": (cell / "cell.json", lambda _: _read_cell(cell)),
        "result": (at_work / "result.json", lambda _: _read_status(own)),
        "error": (at_work / "error.json", lambda _: _read_status(own)),
        "progress": (at_work / "progress.json", lambda _: _read_status(own)),
        "published": (published / "published.json", lambda _: _read_report(published)),
        "spec": (root / "spec.yaml", lambda path: load_spec(path) and None),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["study", "cell", "result", "error", "progress", "published", "spec"])
def test_whatever_a_file_holds_it_is_a_value_or_one_line(tmp_path: Path, name: str) -> None:
    path, read = _files(tmp_path)[name]
    if name in ("error", "progress"):
        (path.parent / "result.json").unlink()
    read(path)  # sound as it is
    refused: list[str] = []
    dump = json.dumps if name != "spec" else lambda raw: yaml.safe_dump(raw, sort_keys=False)
    for mutant in _mutants(path.read_text(), dump, 200 if name == "spec" else 400):
        path.write_bytes(mutant)
        try:
            read(path)
        except ScalePriorError as e:
            refused.append(str(e))
        except Exception as e:
            raise AssertionError(f"{type(e).__name__}: {e}, of {mutant[:2000]!r}") from e
    assert all(said.isprintable() for said in refused)
    assert max(map(len, refused), default=0) < 12_000
    assert (len(refused) > 50) == (name not in ("result", "error", "progress"))
