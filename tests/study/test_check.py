"""What would stop a study is said before anything is made, all of it, and once for all cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.study import load_spec, run_study
from scaleprior.study.check import check_study
from tests.corpus.pictures import class_folders
from tests.detect.conftest import make_coco
from tests.study.conftest import TINY, run_study_command, write_spec


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))


def real_data(folder: Path, images: int = 30, **val: Any) -> dict[str, Any]:
    """Sections of a study on files: an index and two sets."""
    source = class_folders(folder / "source", {"cat": images // 2, "dog": images - images // 2})
    Corpus.build(source, folder / "index")
    train, second = make_coco(folder / "train"), make_coco(folder / "val", 4, seed=1, **val)
    sets = {role: {"json": str(s[0]), "images": str(s[1])} for role, s in (("train", train), ("val", second))}
    return {"corpus": {"index": str(folder / "index")}, "detection": sets, "ladder": [8, 16]}


def stage(name: str, **overrides: Any) -> dict[str, Any]:
    changed = {**TINY[name]["overrides"], **{key.replace("__", "."): value for key, value in overrides.items()}}
    return {name: {**TINY[name], "overrides": changed}}


def _rename(data: dict[str, Any]) -> None:
    data["categories"][1]["name"] = "stone"


def test_everything_is_said_before_anything_is_made(tmp_path: Path) -> None:
    sections = real_data(tmp_path, change=_rename)
    (tmp_path / "val" / "images" / "001.png").unlink()
    for image in (tmp_path / "source" / "cat").iterdir():
        image.unlink()
    spec = write_spec(tmp_path, **sections, **stage("pretrain", PRETRAIN__BATCH_SIZE=0))
    out = tmp_path / "out"
    report = sp.check(study=spec, out=out)
    assert [finding.kind for finding in report.findings] == ["image_missing", "categories", "config", "corpus_missing"]
    assert "architecture R-50: PRETRAIN.BATCH_SIZE is 0" in report.of("config")[0].what
    with pytest.raises(UserError, match=r"^4 things would stop this run, nothing was started\n- .*001.png"):
        run_study(load_spec(spec), out)
    assert not out.exists()
    mapping = {**TINY, **sections, **stage("pretrain", PRETRAIN__BATCH_SIZE=0)}
    kinds = [finding.kind for finding in report.findings]
    assert [finding.kind for finding in sp.check(study=mapping, out=out).findings] == kinds
    assert [finding.kind for finding in sp.check(study=sp.Study(mapping), out=out).findings] == kinds


def test_a_sound_study_has_nothing_wrong(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, **real_data(tmp_path))
    report = check_study(load_spec(spec), tmp_path / "out", engine="torchvision")
    assert report.findings == []
    assert list(report.facts) == ["train study_train", "val study_val", "corpus", "held out", "disk", "memory"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"ladder": [8, 99]}, "corpus", "asks for 99 images, the corpus has 30"),
        ({"corpus": {"index": "nowhere"}}, "corpus", "no corpus index at"),
        ({"corpus": {"source": "nowhere"}}, "corpus", "corpus.source of .* is not there"),
        ({"engine": "abacus"}, "engine", "abacus"),
        (stage("finetune", MODEL__ROI_HEADS__NUM_CLASSES=5), "config", "has 2 categories; use .*NUM_CLASSES 2"),
        (stage("pretrain", PRETRAIN__HELD_OUT__IMAGES=20), "config", "overlap in a corpus of 30 images"),
    ],
)
def test_what_cells_would_meet(tmp_path: Path, changes: dict[str, Any], kind: str, message: str) -> None:
    spec = write_spec(tmp_path, **{**real_data(tmp_path), **changes})
    report = check_study(load_spec(spec), tmp_path / "out")
    assert {finding.kind for finding in report.findings} == {kind}
    with pytest.raises(UserError, match=message):
        report.refuse()


def test_worlds_are_made_by_the_study_and_a_source_is_indexed_by_it(tmp_path: Path) -> None:
    report = check_study(load_spec(write_spec(tmp_path)), tmp_path / "out")
    assert (report.findings, report.facts["corpus"]) == ([], "the study makes it")
    sections = real_data(tmp_path) | {"corpus": {"source": str(tmp_path / "source")}}
    assert check_study(load_spec(write_spec(tmp_path, **sections)), tmp_path / "out").ok


def test_a_source_that_would_be_refused_stops_the_check(tmp_path: Path) -> None:
    """The check found nothing, and the run that followed was refused."""
    (tmp_path / "src.csv").write_text("file,label\n0.jpg,a|b\n1.jpg,a\n")
    class_folders(tmp_path / "src", {"train/cat": 1, "val/cat": 1})
    sections = real_data(tmp_path)
    for source, message in [
        ({}, "folders 'train', 'val' .*; in the spec's section corpus, take one of them with split='train'; or, if it"),
        ({"labels": str(tmp_path / "none.csv")}, "table of labels not found"),
        ({"labels": str(tmp_path / "src.csv")}, r"give separator='\|' to split them"),
    ]:
        spec = write_spec(tmp_path, **sections | {"corpus": {"source": str(tmp_path / "src"), **source}})
        report = check_study(load_spec(spec), tmp_path / "out")
        assert [finding.kind for finding in report.findings] == ["corpus"]
        with pytest.raises(UserError, match=message):
            report.refuse()
        assert check_study(load_spec(spec), tmp_path / "out", open_source=False).ok
    assert not (tmp_path / "out").exists()


def test_cells_that_are_done_need_no_space(finished: Path, tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path))
    fresh = check_study(spec, tmp_path / "out").facts["disk"]
    again = check_study(spec, finished).facts["disk"]
    assert "will hold 0 bytes at the end" in again
    backbones = [path.stat().st_size for path in finished.glob("pretrained/*/*.safetensors")]
    models = [path.stat().st_size for path in finished.glob("cells/*/finetune/model.safetensors")]
    assert (len(backbones), len(models)) == (6, 4)
    said = fresh.split("will hold ")[1].split(" at the end")[0]
    # what is said counts tensors; labels and classes of what is not made yet are not known
    assert said.endswith("MiB")
    assert float(said.split()[0]) == pytest.approx((sum(backbones) + sum(models)) / 2**20, rel=0.05)


@pytest.mark.slow
def test_the_command_refuses_and_can_be_told_not_to_look(tmp_path: Path) -> None:
    sections = real_data(tmp_path)
    (tmp_path / "val" / "images" / "003.png").write_bytes(b"no image")
    spec = write_spec(tmp_path, **sections, scratch=False)
    run = run_study_command(spec, tmp_path / "out", "ladder", "[8]")
    assert run.returncode == 2
    assert "val/instances.json has 1 image that cannot be used, first: 003.png: " in run.stderr
    assert not (tmp_path / "out").exists()
    run = run_study_command(spec, tmp_path / "out", "--no-check", "ladder", "[8]")
    assert run.returncode == 1  # its evaluation meets the image; the backbone and the detector stay
    (model,) = (tmp_path / "out").glob("cells/*/finetune/model.safetensors")
    data = json.loads((tmp_path / "out" / "study.json").read_text())
    assert model.is_file()
    assert len(data["cells"]) == 1
