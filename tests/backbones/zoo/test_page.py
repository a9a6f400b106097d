"""The page, the results and the command line."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaleprior.backbones import save_backbone
from scaleprior.backbones.trunks.published import Origin
from scaleprior.backbones.weights import load_canonical
from scaleprior.backbones.zoo import Catalogue, load_catalogue
from scaleprior.backbones.zoo.page import human_count, render_page
from scaleprior.backbones.zoo.published import load_results, read_results
from scaleprior.errors import UserError
from scaleprior.pages.texts import plain
from scaleprior.study.report.section import measured_sections

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
REPO = Path(__file__).resolve().parents[3]


def test_the_committed_page_is_the_generated_one(home: Path) -> None:
    page = render_page(load_catalogue(user=False), load_results(), measured_sections())
    assert (REPO / "model_zoo" / "README.md").read_text(encoding="utf-8") == page, (
        "run `scaleprior zoo readme --out model_zoo/README.md`"
    )
    for entry in load_catalogue(user=False):
        if entry.kind == "public":  # in three tables, the notes and the facts
            assert page.count(f"`{entry.name}`") == 5
            assert all(plain(text) in page for text in entry.proof.values())
            assert all(digits[:8] in page for digits in re.findall(r":([0-9a-f]{8,})", entry.hash or ""))


def test_the_page_says_what_was_never_downloaded(home: Path) -> None:
    catalogue = load_catalogue(user=False)
    public = [e for e in catalogue if e.kind == "public"]
    page = render_page(catalogue, [])
    assert f"None of these {len(public)} files was ever downloaded here" in page
    assert page.count("| never |") == len(public)
    one = replace(public[0], downloaded="2027-01-01, SHA-256 0676ba61")
    page = render_page(Catalogue({**catalogue.entries, one.name: one}), [])
    assert f"All but 1: none of the others of these {len(public)} files" not in page
    assert f"All but 1 of these {len(public)} files were never downloaded here" in page
    assert "| 2027-01-01, SHA-256 0676ba61 |" in page


@pytest.mark.parametrize(
    ("images", "text"),
    [(None, "unknown"), (999, "999"), (12_345, "12,345"), (1_281_167, "1.28M"), (940_000_000, "940M"), (10**9, "1B")],
)
def test_counts_for_people(images: int | None, text: str) -> None:
    assert human_count(images) == text


def test_published_results_are_never_ours() -> None:
    (table,) = load_results()
    assert table.source == "arXiv:1707.02968"
    assert {r["pretraining"]: r["ap"] for r in table.rows}["ImageNet then JFT-300M"] == 37.4


ROW: dict[str, Any] = {"pretraining": "p", "images": 5, "ap": 30.0}


@pytest.mark.parametrize(
    ("change", "row", "message"),
    [
        ({}, {"ap": 103.0}, r"entry row-1: key ap is 103.0; give a number in \[0, 100\]"),
        ({"source": None}, {}, "key source is missing"),
        ({"measured_here": True}, {}, "unknown key 'measured_here'"),
        ({}, {"map": 3}, "unknown key 'map'"),
    ],
)
def test_bad_results_are_named(tmp_path: Path, change: dict[str, Any], row: dict[str, Any], message: str) -> None:
    table = {"schema": 1, "source": "s", "dataset": "d", "detector": "e"}
    path = tmp_path / "our_results.yaml"
    path.write_text(yaml.safe_dump({**table, **change, "rows": [{**ROW, **row}]}))
    with pytest.raises(UserError, match=message):
        read_results(path)


def test_the_commands(cli: Cli, home: Path, backbone: Path, tmp_path: Path) -> None:
    table = cli("zoo", "list").stdout
    assert table.splitlines()[0].split() == ["NAME", "TRUNK", "IMAGES", "SUPERVISION"]
    assert max(map(len, table.splitlines())) <= 100
    words = {line.split()[0] for line in table.splitlines() if line}
    assert words >= {"public", "not", *load_catalogue(user=False).entries}
    assert "own" not in words
    assert len(json.loads(cli("zoo", "list", "--json").stdout)) == len(load_catalogue(user=False).entries)
    added = cli("zoo", "add", backbone, "--name", "mine")
    assert added.stdout.startswith("registered: scaleprior://mine (R-50-w8, SHA-256 ")
    again = cli("zoo", "add", backbone, "--name", "mine")
    assert (again.returncode, again.stderr) == (
        2, "scaleprior: error: the zoo already has a backbone 'mine', which you registered; choose another --name, or "
        "`scaleprior zoo remove mine` first\n",
    )  # fmt: skip
    assert [line for line in cli("zoo", "list").stdout.splitlines() if line][-4].split()[0] == "own"
    shown = cli("zoo", "show", "scaleprior://mine").stdout
    assert "MODEL.RESNETS.WIDTH_PER_GROUP 8" in shown
    assert "images       1,234" in shown
    assert json.loads(cli("zoo", "show", "mine", "--json").stdout)["card"]["name"] == "mine"
    fetched = cli("zoo", "fetch", "mine", "--out", "copy.safetensors")
    assert fetched.stdout == "copy.safetensors\n"
    assert (tmp_path / "copy.safetensors").read_bytes() == backbone.read_bytes()


def test_show_says_hash_proof_and_that_nobody_downloaded_it(cli: Cli, home: Path) -> None:
    shown = cli("zoo", "show", "R-50-moco-v2-200ep").stdout
    assert re.search(r"^hash +MD5 59fd9945\.\.\., by its publisher$", shown, re.M)
    assert re.search(r"^proof +pixel statistics and channel order: facebookresearch/moco: main_moco.py", shown, re.M)
    assert re.search(r"^downloaded +never by ScalePrior's authors$", shown, re.M)
    assert re.search(r"^hash +not published; the server's", cli("zoo", "show", "R-50-dino").stdout, re.M)


def test_the_commands_errors(cli: Cli, home: Path) -> None:
    assert "To make your own from a corpus of yours" in cli("zoo", "show", "paper-R-152-jft-300m").stdout
    run = cli("zoo", "fetch", "paper-R-152-jft-300m")
    assert run.returncode == 2
    assert "scaleprior pretrain --config-file Pretrain/R_152_jft.yaml" in run.stderr
    run = cli("zoo", "fetch", "R-50-imagenet-1k", SCALEPRIOR_OFFLINE="1")
    assert run.returncode == 2
    assert "SCALEPRIOR_OFFLINE or HF_HUB_OFFLINE is set" in run.stderr


def test_an_own_backbone_with_assumed_facts_is_shown_as_such(cli: Cli, home: Path, backbone: Path) -> None:
    tensors, card = load_canonical(backbone)
    assumed = Origin("assumed", "usual values of half, which nobody stated for these weights")
    save_backbone(backbone, tensors, replace(card, facts={"pixel_mean": assumed}))
    cli("zoo", "add", backbone, "--name", "mine")
    said = [line for line in cli("zoo", "show", "mine").stdout.splitlines() if line.startswith("warning")]
    assert said == [
        "warning      assumed, not known, of backbone mine: pixel_mean [127.5, 127.5, 127.5] (usual values of half, "
        "which nobody stated for these weights); a wrong value costs AP in silence"
    ]


def test_what_an_entry_says_is_text_on_the_page(home: Path) -> None:
    """Of a catalogue that somebody else wrote: no table, link or tag more than the data make."""
    one = load_catalogue(user=False).find("R-50-dino")
    hostile = "a | b <script>x</script> [x](http://evil) `c` *d*\n\n# head"
    entry = replace(
        one, licence=hostile, corpus=hostile, comparable=hostile, publisher=hostile, source=hostile,
        images_note=hostile,
        url="https://host/a(b)|c<d>`e", proof=dict.fromkeys(one.proof, hostile),
    )  # fmt: skip
    page, usual = (
        render_page(Catalogue({**load_catalogue(user=False).entries, one.name: each}), []) for each in (entry, one)
    )
    lines, before = page.splitlines(), usual.splitlines()
    assert [line.replace("\\|", "").count("|") for line in lines] == [line.count("|") for line in before]
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[x\]|^# head", page, re.M)
    assert "(https://host/a%28b%29%7Cc%3Cd%3E%60e)" in page
