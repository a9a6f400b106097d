"""``scaleprior backbone``: from a timm checkpoint to Detectron2, and the errors on the way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from benchmarks.exactness import randomise
from scaleprior.backbones import load_backbone, read_card
from scaleprior.cli import main
from scaleprior.errors import UserError
from tests.backbones.foreign import write_telling

Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``scaleprior ARGS`` in this process (importing torch again for each would cost more than the work)."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in args])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = randomise(timm.create_model("resnet18"), 0)
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "last.pth.tar")
    return tmp_path / "last.pth.tar"


def test_diff_names_the_facts_that_others_say(run: Run, checkpoint: Path) -> None:
    for out, more in (("a", ["--norm-eps", "1e-5"]), ("b", [])):
        assert run("backbone", "convert", checkpoint, f"{out}.safetensors", "--assume", "torchvision", *more)[0] == 0
    code, out, _ = run("backbone", "diff", "a.safetensors", "b.safetensors")
    said = "usual values of torchvision, which nobody stated for these weights"
    assert out.splitlines() == [
        f"card facts.norm_eps: user (given) | assumed ({said})",
        "100 tensors are equal bit by bit; no tensor differs",
    ]
    assert (code, read_card("a.safetensors").name) == (0, "last")  # of last.pth.tar


def test_from_timm_to_detectron2(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "backbone",
        "convert",
        checkpoint,
        "--out",
        "r18.safetensors",
        "--name",
        "mine",
        "--images",
        50,
        "--assume",
        "torchvision",
        "--json",
    )
    told = json.loads(out)
    assert (code, told["card"]["name"], told["card"]["images"], told["report"]["matched"]) == (0, "mine", 50, 100)

    _, out, _ = run("backbone", "show", "r18.safetensors")
    assert "MODEL.RESNETS.DEPTH 18" in out
    assert "licence         unknown" in out

    _, out, _ = run("backbone", "export", "r18.safetensors", "r18.pkl", "--json")
    assert json.loads(out)["config"][0] == "MODEL.WEIGHTS r18.pkl"

    code, out, _ = run("backbone", "diff", "r18.safetensors", "r18.pkl")
    assert (code, out) == (0, "100 tensors are equal bit by bit; no tensor differs\n")
    assert read_card(tmp_path / "r18.safetensors").arch.depth == 18
    other = randomise(timm.create_model("resnet18"), 1).state_dict()
    torch.save(other, tmp_path / "other.pth")
    code, out, _ = run("backbone", "diff", "r18.safetensors", "other.pth")
    assert code == 1
    assert "values of res2.0.conv1.norm.bias: differ by up to" in out


def test_every_command_takes_a_name_of_the_zoo(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    write_telling(tmp_path / "x.pth")
    assert run("zoo", "add", "x.pth", "--name", "mine")[0] == 0  # converted on the way
    name = "scaleprior://mine"
    code, out, _ = run("backbone", "show", name, "--json")
    assert (code, json.loads(out)["card"]["name"]) == (0, "resnet50")
    code, out, _ = run("backbone", "verify", name, "--json")
    assert (code, json.loads(out)["level"]) == (0, "warning")  # its convolutions are random
    for action, target in (("convert", "again.safetensors"), ("export", "again.pkl")):
        code, out, _ = run("backbone", action, name, target, "--json")
        assert (code, json.loads(out)["out"]) == (0, target)
    for a, b in ((name, "x.pth"), ("again.pkl", name), (name, name)):
        code, out, _ = run("backbone", "diff", a, b, "--json")
        assert (code, json.loads(out)["same_tensors"]) == (0, True)
    assert load_backbone(name).card == read_card(tmp_path / "again.safetensors")
    for words in (["show", "mine"], ["diff", "x.pth", "mine"]):
        code, _, error = run("backbone", *words)
        assert (code, error) == (
            2,
            "scaleprior: error: weights not found: mine; did you mean scaleprior://mine?\n",
        )


def test_verify_speaks_and_draws(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, out, _ = run("backbone", "verify", checkpoint, "--picture", "p.png", "--assume", "torchvision")
    assert code == 0
    assert out.startswith("warning: last is a whole R-18, but look at the warnings")
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_show_of_a_canonical_file_imports_no_torch(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    run("backbone", "convert", checkpoint, "--out", "r18.safetensors", "--assume", "torchvision")
    code = (
        "import sys; from scaleprior.cli import main; main(['backbone', 'show', 'r18.safetensors']); "
        "print(sorted({'torch', 'timm', 'numpy'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_out_is_a_word_or_an_option(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    assert run("backbone", "convert", checkpoint, "a.safetensors", "--assume", "torchvision")[0] == 0
    assert run("backbone", "convert", checkpoint, "--out", "b.safetensors", "--assume", "torchvision")[0] == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert run("backbone", "export", "a.safetensors", "a.pth")[0] == 0
    assert run("backbone", "export", "a.safetensors", "--out", "b.pth")[0] == 0
    for action in ("convert", "export"):
        code, _, error = run("backbone", action, checkpoint, "c.pkl", "--out", "d.pkl")
        assert (code, error) == (2, "scaleprior: error: OUT is c.pkl and --out is d.pkl; give one of them\n")
        code, _, error = run("backbone", action, checkpoint)
        assert code == 2
        assert f"backbone {action} was not told where to write; add OUT after SRC, or --out OUT" in error


def test_errors_are_one_line(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, _, error = run("backbone", "convert", checkpoint, "--out", "r18.pth")
    assert code == 2
    assert error == (
        "scaleprior: error: OUT is r18.pth; name it *.safetensors; `backbone export` writes other formats\n"
    )
    (tmp_path / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'touch executed'\ntR.")
    code, _, error = run("backbone", "convert", "evil.pkl", "--out", "x.safetensors")
    assert code == 2
    assert "evil.pkl: it calls posix.system, which is no part of weights [refused: code]; do not open it" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pkl", "last.pth.tar"]


def test_options_that_a_card_has_no_use_for_are_refused_but_in_a_comparison(run: Run, checkpoint: Path) -> None:
    run("backbone", "convert", checkpoint, "--out", "r18.safetensors", "--assume", "torchvision")
    for words in (["show", "r18.safetensors"], ["verify", "r18.safetensors"], ["diff"] + 2 * ["r18.safetensors"]):
        code, _, error = run("backbone", *words, "--stride-in-1x1", "yes", "--labels", 3)
        assert code == 2
        assert "r18.safetensors has a card, on which --stride-in-1x1, --labels would have no effect; leave" in error
    code, out, _ = run("backbone", "show", "r18.safetensors", "--name", "other", "--json")
    assert (code, json.loads(out)["card"]["name"]) == (0, "other")
    code, out, _ = run("backbone", "diff", "r18.safetensors", checkpoint, "--stride-in-1x1", "no")
    assert (code, "no tensor differs" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "facts", "said"),
    [
        (["--norm", "BN"], {"norm": "BN"}, "{norm} is 'BN'; take GN or FrozenBN"),
        (["--channel-order", "rgb"], {"channel_order": "rgb"}, "{channel_order} is 'rgb'; take RGB or BGR"),
        (["--depth", "99"], {"depth": 99}, "{depth} is 99; take one of [18, 34, 50, 101, 152]"),
    ],
)
def test_the_terminal_reads_the_librarys_own_words(
    run: Run, checkpoint: Path, words: list[str], facts: dict[str, object], said: str
) -> None:
    """argparse would answer first, in other words, if it held a list of choices of its own."""
    (name,) = facts
    with pytest.raises(UserError, match=f"^{re.escape(said.format(**{name: name}))}$"):
        load_backbone(checkpoint, **facts)  # type: ignore[arg-type]
    code, _, error = run("backbone", "show", checkpoint, *words)
    assert (code, error) == (2, f"scaleprior: error: {said.format(**{name: words[0]})}\n")


def test_a_format_that_is_none_is_refused_before_reading(run: Run) -> None:
    code, _, error = run("backbone", "export", "absent.pth", "w.pkl", "--format", "onnx")
    assert (code, error) == (2, "scaleprior: error: --format is 'onnx' for w.pkl; take detectron2 or torchvision\n")
    code, _, error = run("backbone", "export", "absent.pth", "w.pkl", "--format", "torchvision")
    assert (code, error) == (2, "scaleprior: error: --format is 'torchvision' for w.pkl; name it *.pth\n")


def test_norms_of_another_eps_and_what_stock_detectron2_can_have_of_them(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state["layer1.0.bn1.running_var"][3] = 1e-9
    torch.save(state, checkpoint)
    facts = ["--pixel-mean", 1, 2, 3, "--pixel-std", 1, 2, 3, "--channel-order", "RGB", "--stride-in-1x1", "no"]
    _, out, _ = run("backbone", "convert", checkpoint, "r18.safetensors", "--norm-eps", 0, *facts)
    assert "the norms keep their eps, 0: 1 running variances are too small to take up the difference to 1e-05" in out
    code, out, _ = run("backbone", "verify", "r18.safetensors")
    assert code == 0
    assert "MODEL.NORM_EPS 0.0" in out
    code, _, error = run("backbone", "export", "r18.safetensors", "r18.pkl")
    assert code == 2
    assert "--frozen-norms puts it into the gains of their channels" in error
    _, out, _ = run("backbone", "export", "r18.safetensors", "r18.pkl", "--frozen-norms")
    assert "MODEL.RESNETS.NORM FrozenBN" in out
    assert "NORM_EPS" not in out  # a key that stock Detectron2 does not know
