"""``scaleprior check`` and ``scaleprior.check``: one thing is looked at, and all that is wrong is said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.checking import CheckReport, Finding
from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.wording import parameter
from tests.corpus.pictures import class_folders
from tests.detect.conftest import make_coco

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))


def test_the_command_prints_what_is_wrong_and_ends_with_2(cli: Cli, tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "a", 6)
    run = cli("check", "--data", path, root)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("train instances  6 images, 2 classes, 9 boxes")
    assert run.stdout.endswith("nothing that would stop a run was found\n")
    for number in range(5):
        (root / f"{number:03d}.png").unlink()
    run = cli("check", "--data", path, root)
    assert run.returncode == 2
    assert f"STOPS  {path} has 5 images that are not at {root}\n       000.png\n" in run.stdout
    assert "       ... and 2 more\n" in run.stdout
    said = json.loads(cli("check", "--data", path, root, "--json").stdout)
    assert (said["ok"], said["findings"][0]["kind"], said["findings"][0]["count"]) == (False, "image_missing", 5)


def test_names_that_a_terminal_would_obey_are_printed_as_they_are_spelled(cli: Cli, tmp_path: Path) -> None:
    def rename(data: dict[str, Any]) -> None:
        data["images"][0]["file_name"] = "\ud800\x1b[2J.png"

    path, root = make_coco(tmp_path / "a", 6, change=rename)
    run = cli("check", "--data", path, root)
    assert run.returncode == 2
    assert "\n       \\ud800\\x1b[2J.png\n" in run.stdout


@pytest.mark.slow
def test_the_remedy_that_the_check_names_can_be_tried_on_it(cli: Cli, tmp_path: Path) -> None:
    def no_size(data: dict[str, Any]) -> None:
        data["annotations"][0]["bbox"] = [0, 0, 0, 0]

    path, root = make_coco(tmp_path / "a", 6, change=no_size)
    refused = cli("check", "--data", path, root)
    assert "leave them out by --drop-bad annotations" in refused.stdout
    run = cli("check", "--data", path, root, "--drop-bad", "annotations")
    assert (refused.returncode, run.returncode) == (2, 0)
    assert f"note   {path} has 1 box of zero or negative size, left out\n" in run.stdout
    words = ("SCALEPRIOR.DATASETS", repr([["mine", str(path), str(root)]]), "DATASETS.TRAIN", "('mine',)")
    config = ("--config-file", "COCO-Detection/quickstart_FPN.yaml", "--engine", "torchvision")
    kinds = [
        [finding["kind"] for finding in json.loads(cli("check", *config, *drop, "--json", *words).stdout)["findings"]]
        for drop in ((), ("--drop-bad", "images"))
    ]
    assert "box_size" in kinds[0]
    assert "image_of_bad" not in kinds[0]
    assert "image_of_bad" in kinds[1]
    with pytest.raises(UserError, match=r"set SCALEPRIOR.DROP_BAD among the overrides of its finetune section"):
        sp.check(study="studies/quickstart.yaml", drop_bad="images")


def test_a_set_without_images_is_no_index(cli: Cli, tmp_path: Path) -> None:
    run = cli("check", "--data", make_coco(tmp_path / "a", 6)[0])
    assert run.returncode == 2
    assert "instances.json, without its images; give COCO.json and IMAGES" in run.stderr


def test_an_index_and_sets_can_be_looked_at_together(tmp_path: Path) -> None:
    Corpus.build(class_folders(tmp_path / "images", {"cat": 3, "dog": 1}), tmp_path / "index")
    train, val = make_coco(tmp_path / "a", 6), make_coco(tmp_path / "b", 4, seed=1)
    report = sp.check(data=[tmp_path / "index", train, val])
    assert report.ok
    assert list(report.facts) == [f"corpus {tmp_path / 'index'}", "train a/instances", "val b/instances"]
    (tmp_path / "images" / "cat" / "1.jpg").unlink()
    assert [f.kind for f in sp.check(data=tmp_path / "index").findings] == ["corpus_missing"]
    assert [f.kind for f in sp.check(data=tmp_path / "nowhere").findings] == ["corpus"]


def test_statistics_are_printed_and_drawn(cli: Cli, tmp_path: Path) -> None:
    Corpus.build(class_folders(tmp_path / "images", {"cat": 3, "dog": 1}), tmp_path / "index")
    path, root = make_coco(tmp_path / "a", 6)
    (root / "000.png").unlink()
    words = ("check", "--data", "index", "--data", path, root)
    run = cli(*words, "--html", "index.html", "--html", "set.html")
    assert (run.returncode, run.stderr) == (2, "")  # an image is missing: what there is, is drawn all the same
    assert "  4 images; labels an image: 1 in the mean" in run.stdout
    assert "  6 images with 9 boxes of 2 classes" in run.stdout
    for page, title in (("index.html", "index</bdi>: what the corpus holds"), ("set.html", "5 images with 8 boxes of")):
        assert title in (tmp_path / page).read_text()
    figures = json.loads(cli(*words, "--json").stdout)["statistics"]
    assert [label["images"] for label in figures["corpus index"]["labels"]] == [3, 1]
    assert figures["train instances"]["boxes"] == 9
    refused = cli("check", "--data", "index", "--html", "a.html", "--html", "b.html")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "there are 2 --html for 1 --data" in refused.stderr
    absent = cli("check", "--data", "nowhere.json", root, "--html", "c.html")
    assert absent.returncode == 2
    assert absent.stdout.count("STOPS") == 1
    assert not (tmp_path / "c.html").exists()


def test_one_thing_is_looked_at(cli: Cli, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^a check looks at one thing; give data, config or study$"):
        sp.check()
    with pytest.raises(UserError, match="one thing"):
        sp.check("COCO-Detection/quickstart_FPN.yaml", data="index")
    with pytest.raises(UserError, match=r"^data is 3; give an index, or a COCO JSON and its images$"):
        sp.check(data=[3])  # pyright: ignore[reportArgumentType]
    assert cli("check").returncode == 2
    assert "--data has a b c; give an index" in cli("check", "--data", "a", "b", "c").stderr


def test_a_report_raises_everything_in_the_readers_own_words() -> None:
    report = CheckReport()
    report.refuse()
    with report.collecting("config"):
        raise UserError(f"{parameter('norm')} is 3", hint=f"take {parameter('norm', 'GN')}")
    report.add(Finding("note", "worth knowing", stops=False))
    with pytest.raises(UserError) as one:
        report.refuse()
    assert str(one.value) == "norm is 3; take norm='GN'"
    assert one.value.wording.flags == "--norm is 3; take --norm GN"
    report.add(Finding.of("images", "a.json", "images that are bad", ["1", "2"], hint="repair"))
    report.add(Finding.of("images", "a.json", "images that are bad", ["1", "2"], hint="repair"))
    with pytest.raises(UserError) as two:
        report.refuse()
    assert two.value.wording.flags == (
        "2 things would stop this run, nothing was started\n- --norm is 3; take --norm GN\n"
        "- a.json has 2 images that are bad, first: 1; repair"
    )
    assert [finding["what"] for finding in report.to_dict()["findings"]][:2] == [
        "--norm is 3; take --norm GN", "worth knowing",
    ]  # fmt: skip
