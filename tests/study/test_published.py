"""A published study: from results.csv and published.json alone comes the report again, to the byte."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.backbones.weights import read_card
from scaleprior.errors import UserError
from scaleprior.study import publish_study
from scaleprior.study.publish import _cards
from scaleprior.study.published import read_published
from scaleprior.study.report.page import build_report
from scaleprior.study.report.section import study_section
from scaleprior.study.status import study_status
from tests import processes


@pytest.fixture(scope="module")
def published(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publication of the finished tiny study."""
    out = tmp_path_factory.mktemp("published") / "tiny"
    publish_study(finished, out, facts={"machine": "two cores"})
    return out


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """One to damage."""
    return Path(shutil.copytree(published, tmp_path / "copy"))


def _cli(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scaleprior", "study", *map(str, words)]
    return processes.run(command)


def test_the_report_is_the_study_s_own_and_comes_again_from_two_files(
    finished: Path, published: Path, tmp_path: Path
) -> None:
    """Of numbers, words and laws; what only the study's folder knows (classes, recalls) is in no report."""
    for name in ("results.csv", "published.json"):
        (tmp_path / "two").mkdir(exist_ok=True)
        shutil.copy(published / name, tmp_path / "two" / name)
    done = _cli("report", tmp_path / "two" / "results.csv", "--json")
    assert json.loads(done.stdout)["report"] == str(tmp_path / "two" / "report.html")
    for name in ("results.csv", "report.md", "curve.png"):
        assert (tmp_path / "two" / name).read_bytes() == (published / name).read_bytes(), name
    assert (published / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    own, theirs = build_report(study_status(finished)), build_report(study_status(published))
    assert theirs.sentences == own.sentences
    assert theirs.table() == own.table()
    assert sp.Study.open(published).results("arrow").equals(sp.Study.open(finished).results("arrow"))
    assert "| machine | two cores |" in (published / "report.md").read_text()


def test_no_place_of_the_machine_and_no_weights_are_in_it(finished: Path, published: Path) -> None:
    files = [path for path in published.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".csv", ".json", ".md", ".png"}
    record = json.loads((published / "published.json").read_text())
    named = {name for name, fact in record.pop("facts").items() if str(finished.parent) in str(fact)}
    assert str(finished.parent) not in json.dumps(record)
    assert not [path for path in (published / "cards").iterdir() if str(finished.parent) in path.read_text()]
    # what a person wrote is left, and said
    notes = publish_study(finished, published, facts={"machine": "two cores"}).notes
    assert notes == (f"places of this machine stand in: {', '.join(sorted(named))}",)
    assert named == {"command", "spec"}


def test_every_backbone_has_its_card_once(finished: Path, published: Path) -> None:
    cards = {path.stem: json.loads(path.read_text()) for path in (published / "cards").iterdir()}
    assert {(card["images"], card["seed"]) for card in cards.values()} == {(n, 0) for n in (16, 32, 64)}
    assert set(cards) == {path.name for path in (finished / "pretrained").iterdir()}
    (published / "cards" / "of_an_earlier_one.json").write_text("{}")
    assert publish_study(finished, published, facts={"machine": "two cores"}).cards == 3
    assert {path.stem for path in (published / "cards").iterdir()} == set(cards)


def test_backbones_of_several_runs_keep_their_cards_apart(finished: Path, tmp_path: Path) -> None:
    """Every run calls its file backbone.safetensors."""
    view, cells = study_status(finished), []
    for status in view.cells[1:3]:
        made = finished / "pretrained" / status.cell.backbone_name / "backbone.safetensors"
        sha256 = read_card(made).tensors_sha256
        cells.append(replace(status, cell=replace(status.cell, weights=str(made), weights_sha256=sha256)))
    cards, notes = _cards(replace(view, cells=tuple(cells)))
    assert sorted(card["images"] for card in cards.values()) == [16, 32]
    assert notes == []


def test_a_publication_that_was_killed_is_made_again(finished: Path, published: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    shutil.copy(published / "published.json", tmp_path / "out")
    publish_study(finished, tmp_path / "out", facts={"machine": "two cores"})
    assert (tmp_path / "out" / "report.md").read_bytes() == (published / "report.md").read_bytes()


def test_a_cell_without_a_row_is_missing_and_said_so(copy: Path) -> None:
    path = copy / "results.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    report = build_report(read_published(copy))
    assert report.missing == ("R-50, 64 images, seed 0: not run yet",)


def _change(path: Path, line: int, **cells: str) -> None:
    with open(path, newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    rows[line - 2].update(cells)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("line", "cells", "message"),
    [
        (3, {"ap": "103"}, r"results.csv, line 3, column 'ap': 103 is no AP; AP is in \[0, 100\]"),
        (3, {"ap": ""}, "line 3, column 'ap': the cell is empty"),
        (2, {"ap50": "high"}, "line 2, column 'ap50': 'high' is not a number"),
        (2, {"images": "7"}, "line 2: images of cell .* is 7, in published.json 0"),
        (4, {"cell": "0123456789abcdef"}, "line 4: published.json has no cell 0123456789abcdef"),
    ],
)
def test_what_does_not_hold_together_is_named(copy: Path, line: int, cells: dict[str, str], message: str) -> None:
    _change(copy / "results.csv", line, **cells)
    with pytest.raises(UserError, match=message):
        read_published(copy)


def test_a_row_twice_a_column_less_and_another_schema(copy: Path) -> None:
    path, whole = copy / "results.csv", (copy / "results.csv").read_text()
    path.write_text(whole + whole.splitlines(keepends=True)[-1])
    with pytest.raises(UserError, match=r"line 6: cell \w+ again, after line 5"):
        read_published(copy)
    path.write_text(whole.replace("ap_large", "big"))
    with pytest.raises(UserError, match="has no column 'ap_large'"):
        read_published(copy)
    path.unlink()
    with pytest.raises(UserError, match="results file not found"):
        read_published(copy)
    (copy / "published.json").write_text('{"schema": 7}')
    with pytest.raises(UserError, match="has schema 7, this version reads 1"):
        read_published(copy)


def test_what_cannot_be_published_writes_nothing(finished: Path, published: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is published already"):
        publish_study(published, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty and holds no published study"):
        publish_study(finished, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    done = _cli("publish", finished, tmp_path / "out", "--fact", "machine")
    assert (done.returncode, done.stderr) == (2, "scaleprior: error: --fact is 'machine'; give NAME=TEXT\n")
    assert not (tmp_path / "out").exists()


def test_a_backbone_that_is_gone_is_said_and_the_rest_is_published(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "study", symlinks=True))
    (gone,) = (folder / "pretrained").glob("R-50-32-*")
    shutil.rmtree(gone)
    made = publish_study(folder, tmp_path / "out")
    assert made.cards == 2
    assert f"no card of {gone.name}: no longer here" in made.notes


def test_the_section_of_the_zoo_s_page(published: Path) -> None:
    section = study_section(published, link=Path("results/tiny"))
    assert "[results/tiny](results/tiny/report.md)" in section
    assert "![AP against pretraining images](results/tiny/curve.png)" in section
    for row in build_report(read_published(published)).table():
        assert "| " + " | ".join(row) + " |" in section


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("name", 3, "name is 3"),
        ("engine", None, "engine is None"),
        ("facts", {"seeds": [1]}, "facts is {'seeds': "),
        ("cells", 3, "cells is 3"),
        ("cells.0", [], r"cell 1 is damaged, .*: it holds \[\]"),
        ("cells.1.cell", None, "cell 2 is damaged, .*: it holds None"),
        ("cells.1.cell.arch", "../../x", r"cell 2: the folder is '\.\./\.\./x-16-"),
        ("cells.1.cell.seed", "0", "cell 2 is damaged, .*: seed is '0'"),
        ("cells.1.cell.finetune", {}, "cell 2: finetune is damaged, .*: config is missing"),
        ("cells.1.seconds", {"finetune": "long"}, "cell 2 is damaged, .*: seconds is {'finetune': 'long'}"),
        ("cells.1.seconds", {"finetune": -1}, "seconds is {'finetune': -1}"),
        ("cells.1.cpu_seconds", None, "cpu_seconds is None"),
        ("cells.1.versions", {"torch": 2}, "versions is {'torch': 2}"),
        ("cells.1.cells_at_once", [1], r"cells_at_once is \[1\]"),
        ("cells.1.pretrain", None, "pretrain is None"),
        ("cells.1.pretrain.images_seen", 2.5, "images_seen is 2.5"),
        ("cells.1.pretrain.images_seen", 2**63, "images_seen is 9223372036854775808"),
        ("cells.1.pretrain.loss", [[0] * 9] * 9, "loss is "),
        ("cells.1.pretrain.probe", {"later": 1}, "later"),
    ],
)
def test_of_a_hostile_publication_one_line(copy: Path, at: str, value: Any, message: str) -> None:
    path = copy / "published.json"
    raw = json.loads(path.read_text())
    node, (*parents, leaf) = raw, [int(part) if part.isdecimal() else part for part in at.split(".")]
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=rf"published\.json.*{message}") as caught:
        read_published(copy)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_cell_that_is_published_twice_counts_once(copy: Path) -> None:
    """... or its seed would weigh double in every mean."""
    path = copy / "published.json"
    raw = json.loads(path.read_text())
    raw["cells"].append(raw["cells"][1])
    path.write_text(json.dumps(raw))
    with pytest.raises(
        UserError, match=rf"it has cell {raw['cells'][1]['cell']['key']} twice; publish the study again"
    ):
        read_published(copy)


def test_a_publication_without_a_command_is_reported_all_the_same(copy: Path) -> None:
    path = copy / "published.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "facts": {"comparable R-50": 3}}))
    assert build_report(read_published(copy)).command == ""


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
def test_a_publication_that_is_no_file_keeps_nobody_waiting(copy: Path, kind: str) -> None:
    path = copy / "published.json"
    path.unlink()
    {"a pipe": os.mkfifo, "a folder": os.mkdir, "a device": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(UserError, match=f"published.json is {kind}"):
        read_published(copy)
    with pytest.raises(UserError, match="no study in"):
        study_status(copy)
