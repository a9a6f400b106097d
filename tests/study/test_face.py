"""``scaleprior.Study``: a study from a dict, run from a program, its results and report as objects."""

from __future__ import annotations

import copy
import csv
import shlex
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import scaleprior as sp
from scaleprior.ap_names import AP_NAMES
from scaleprior.errors import UserError
from scaleprior.study.report import summary
from scaleprior.study.report.page import build_report
from scaleprior.study.runner import _command
from scaleprior.study.spec import StudySpec, load_spec
from scaleprior.study.status import study_status
from tests import processes
from tests.study.conftest import TINY, write_spec


def test_a_mapping_a_file_and_keywords_are_one_spec(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "seeds": [0, 1]}, sort_keys=False))
    file = load_spec(tmp_path / "tiny.yaml")
    (tmp_path / "one_seed.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))
    nested = copy.deepcopy(TINY)
    nested["architectures"] = {"R-50": {"MODEL": {"RESNETS": {"DEPTH": np.int64(50)}}}}
    ways = (
        sp.Study({**TINY, "seeds": (0, 1)}),
        sp.Study(**TINY, overrides={"seeds": list(np.arange(2))}),
        sp.Study({**TINY, "ladder": 2 ** np.arange(4, 7), "seeds": range(2)}),
        sp.Study(tmp_path / "one_seed.yaml", overrides={"ladder": np.array([16, 32, 64]), "seeds": range(2)}),
        sp.Study(nested, overrides={"seeds": (0, 1), "noise.rate": 0.2}),
        sp.Study(tmp_path / "one_seed.yaml", overrides={"seeds": [0, 1]}),
        sp.Study(file),
    )
    where = {"source": file.source, "folder": file.folder, "path": file.path, "overrides": ()}
    for study in ways:
        spec = replace(study.spec, **where)
        assert replace(spec, raw={}) == replace(file, raw={})
        assert (spec.raw["corpus"], spec.raw["detection"]) == (file.raw["corpus"], file.raw["detection"])  # identity


def test_paths_are_relative_to_the_folder_that_is_given(tmp_path: Path) -> None:
    section: dict[str, Any] = {**TINY, "corpus": {"source": Path("images")}}
    section["detection"] = {part: {"json": f"{part}.json", "images": part} for part in ("train", "val")}
    spec = StudySpec.from_dict(section, folder=tmp_path)
    assert spec.corpus is not None
    assert spec.corpus.source == tmp_path / "images"
    assert spec.detection.val is not None
    assert spec.detection.val.json == tmp_path / "val.json"


def test_errors_name_the_study_and_the_section() -> None:
    with pytest.raises(UserError, match=r"study spec 'tiny': unknown key 'laddr'; did you mean 'ladder'\?"):
        sp.Study({**TINY, "laddr": [1]})
    with pytest.raises(UserError, match=r"override noise.rate.x: rate is not a section"):
        sp.Study(TINY, overrides={"noise.rate.x": 1})
    with pytest.raises(UserError, match="either a spec or its sections"):
        sp.Study()
    with pytest.raises(UserError, match=r"study 'tiny' has no folder yet; call run\(out\), or Study.open"):
        sp.Study(TINY).status()
    with pytest.raises(UserError, match=r"no study in .*nowhere"):
        sp.Study.open("nowhere")
    with pytest.raises(UserError, match=r"^jobs is 0; give a whole number"):
        sp.Study(TINY).run("nowhere", jobs=0)


def test_what_would_be_ignored_or_misread_is_refused_in_one_line(tmp_path: Path) -> None:
    file = write_spec(tmp_path)
    for spec in (file, str(file), load_spec(file)):
        with pytest.raises(UserError, match=r"^folder is '/x', which goes with a mapping of sections; leave it out"):
            sp.Study(spec, folder="/x")
    for overrides in (3, ["seeds", "[0]"], "seeds"):
        for made in (lambda o: sp.Study(TINY, overrides=o), lambda o: sp.Study(file, overrides=o),
                     lambda o: StudySpec.from_dict(TINY, overrides=o)):  # fmt: skip
            with pytest.raises(UserError, match=r"^overrides are .*; give a mapping"):
                made(overrides)
    for name in ("", " ", ".", "..", "../x", "a/b", "/x", "a/"):
        with pytest.raises(UserError, match=r"name is .*; (give one that a folder may have|take letters)"):
            sp.Study({**TINY, "name": name})


def test_a_finished_study_is_objects(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = sp.Study.open(finished)
    assert repr(study) == f"Study('tiny', in {finished})"
    with pytest.raises(UserError, match="was opened to look at"):
        study.run()
    with (finished / "results.csv").open() as file:
        expected = list(csv.DictReader(file))
    table = study.results("arrow")
    assert table.column_names == list(expected[0])
    assert [str(n) for n in table.column("images").to_pylist()] == [row["images"] for row in expected]
    assert table.column("ap").to_pylist() == [float(row["ap"]) for row in expected]
    assert set(study.laws()) <= {"R-50"}
    with pytest.raises(UserError, match="as_ is 'polars'"):
        study.results("polars")  # type: ignore[call-overload]
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert study.results().equals(table)
    with pytest.raises(UserError, match="as_ is 'pandas', which is not installed"):
        study.results("pandas")
    assert [cell.state for cell in study.status().cells] == ["done"] * len(expected)


def test_a_table_has_the_same_types_whatever_was_measured(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no AP of small objects where there are none, nor a count of what another's backbone saw."""
    whole, text, ap = ("images", "seed", "images_seen"), ("arch", "engine", "cell"), tuple(AP_NAMES)
    study = sp.Study.open(finished)
    rows = summary.result_rows(study.status())
    blank = [{**row, "images_seen": None, **dict.fromkeys(ap)} for row in rows]
    for found in (rows, blank, []):
        monkeypatch.setattr(summary, "result_rows", lambda view, found=found: found)
        schema = study.results("arrow").schema
        assert tuple(schema.names) == summary.COLUMNS
        for columns, kind in ((whole, "int64"), (text, "string"), (ap, "double")):
            assert {str(schema.field(column).type) for column in columns} == {kind}
        if find_spec("pandas") is not None:
            types = study.results("pandas").dtypes.astype(str)
            assert set(types[["images", "seed"]]) == {"int64"}
            assert (types["images_seen"], set(types[list(ap)])) == ("Int64", {"float64"})


def test_a_report_is_an_object_before_it_is_a_file(finished: Path, tmp_path: Path) -> None:
    report = sp.Study.open(finished).report()
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert repr(report) == f"StudyReport('tiny', {len(report.view.cells)} of {len(report.view.cells)} cells)"
    page, shown = report.html(), report._repr_html_()
    assert report.markdown() == (finished / "report.md").read_text()
    assert page.startswith("<!doctype html>")
    for text in (page, shown):
        assert "data:image/png;base64," in text
        assert all(sentence.split("<")[0][:20] in text for sentence in report.sentences)
    assert "<style" not in shown
    assert len(shown) < 200_000
    assert report.figure().axes
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert report.write(tmp_path / "again") == tmp_path / "again" / "report.html"
    assert (tmp_path / "again" / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    assert {p.name for p in (tmp_path / "again").iterdir()} == {"results.csv", "curve.png", "report.md", "report.html"}


def test_the_command_of_a_study_without_a_file_makes_it_again(tmp_path: Path) -> None:
    spec = StudySpec.from_dict(TINY, folder=tmp_path)
    program, option, code = shlex.split(_command(spec, tmp_path / "out", "torchvision", None))
    assert (program, option) == ("python", "-c")
    made = eval(code.split("; ", 1)[1].rsplit(".run(", 1)[0], {"sp": sp})
    assert made.spec == spec
    assert code.endswith(f".run({str(tmp_path / 'out')!r}, engine='torchvision')")


PROGRAM = """
import sys
import scaleprior as sp
print("the program runs", flush=True)
tiny = {tiny!r}
study = sp.Study({{**tiny, "ladder": [16], "scratch": False}}).run(sys.argv[1], jobs=1)
print(study.results("arrow").num_rows, "rows")
study.run()
"""


@pytest.mark.slow
def test_a_program_without_a_guard_runs_a_study_once(tmp_path: Path) -> None:
    """Processes of cells do not import it; and the results are the command's, byte for byte."""
    (tmp_path / "program.py").write_text(PROGRAM.format(tiny=TINY))
    run = processes.run([sys.executable, "program.py", "out"], cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["the program runs", "1 rows"]
    sp.Study.open(tmp_path / "out").report().write(tmp_path / "ours")
    spec = write_spec(tmp_path, ladder=[16], scratch=False)
    sp.Study(spec).run(tmp_path / "file", jobs=1).report().write(tmp_path / "theirs")
    assert (tmp_path / "ours" / "results.csv").read_bytes() == (tmp_path / "theirs" / "results.csv").read_bytes()


def test_rungs_that_differ_in_more_than_images_are_points_and_no_law(finished: Path) -> None:
    """One supervision is a ladder; of two that differ no slope is said, whichever arm fine-tunes them."""
    view = study_status(finished)
    known = "16 and 32 images: not known, a supervision is unknown"
    apart = "16 and 32 images: NOT comparable by images alone (labels of a against captions)"
    laws = {}
    for name, said in {"alike": "all rungs have one supervision (a)", "unknown": known, "apart": apart}.items():
        report = build_report(replace(view, facts={**view.facts, "comparable R-50": said}))
        laws[name] = report.summaries[0].law
        page = report.markdown()
        assert ("per tenfold pretraining images at the top" in page) == (name != "apart")
        assert len(report.summaries[0].points) == 3
    assert [name for name, law in laws.items() if law is None] == ["apart"]
    assert f"R-50: no law: {apart}: a picture, not a slope." in page
    assert report.to_dict()["laws"]["R-50"] == {"missing": f"{apart}: a picture, not a slope"}
    points, gains = report.figure().axes
    assert points.get_xlim()[1] > 64
    assert [text.get_text() for text in gains.texts] == ["no law:\nthe report says why"]
