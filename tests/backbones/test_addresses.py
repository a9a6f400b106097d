"""What a text that names weights is: its words, unmangled, and how to get the file; by every door with exit code 2."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.backbones import read_backbone
from scaleprior.backbones.addresses import address_of, is_path, path_of, text_of
from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.zoo import find_weights, local_path, model_path
from scaleprior.cli import main
from scaleprior.errors import UserError

MSRA = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"

# text -> (what it is, how to get it, the file to convert, what it is converted to)
WORDS = {
    MSRA: (
        "a file of Detectron2's model zoo",
        "curl -fL -o R-50.pkl https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
        "R-50.pkl",
        "R-50.safetensors",
    ),
    "https://example.org/a/r50.pth.tar?dl=1": (
        "an address on the web",
        "curl -fL -o r50.pth.tar 'https://example.org/a/r50.pth.tar?dl=1'",
        "r50.pth.tar",
        "r50.safetensors",
    ),
    "http://example.org/My%20Net.pth": (
        "an address on the web",
        "curl -fL -o 'My Net.pth' http://example.org/My%20Net.pth",
        "'My Net.pth'",
        "My Net.safetensors",
    ),
    "https://huggingface.co/o/m/blob/main/model.safetensors": (
        "an address on the web",
        "curl -fL -o model.safetensors https://huggingface.co/o/m/resolve/main/model.safetensors",
        "model.safetensors",
        "model-converted.safetensors",
    ),
    "https://huggingface.co/o/m": (
        "a model of the Hugging Face hub",
        "hf download o/m --local-dir m",
        "m",
        "m.safetensors",
    ),
    "hf-hub:o/m@v1": (
        "a model of the Hugging Face hub",
        "hf download o/m --revision v1 --local-dir m",
        "m",
        "m.safetensors",
    ),
    "hf://o/m/sub/w.bin": (
        "a model of the Hugging Face hub",
        "hf download o/m sub/w.bin --local-dir m",
        "m/sub/w.bin",
        "w.safetensors",
    ),
    "catalog://ImageNetPretrained/FAIR/R-50-GN": (
        "a file of Detectron's model zoo",
        "curl -fL -o R-50-GN.pkl https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/47261647/R-50-GN.pkl",
        "R-50-GN.pkl",
        "R-50-GN.safetensors",
    ),
    "torchvision://resnet50": (
        "a name of torchvision's weights",
        'curl -fL -o resnet50.pth "$(python -c "from torchvision import models as m; '
        "print(m.get_model_weights('resnet50')['IMAGENET1K_V1'].url)\")\"",
        "resnet50.pth",
        "resnet50.safetensors",
    ),
    "open-mmlab://detectron2/resnet50_caffe": (
        "a name of OpenMMLab's model zoo",
        'curl -fL -o resnet50_caffe.pth "$(python -c "from mmengine.runner import checkpoint as c; '
        "print(c.get_external_models()['detectron2/resnet50_caffe'])\")\"",
        "resnet50_caffe.pth",
        "resnet50_caffe.safetensors",
    ),
    "s3://bucket/a/r50.pth": (
        "an object of S3",
        "aws s3 cp s3://bucket/a/r50.pth r50.pth",
        "r50.pth",
        "r50.safetensors",
    ),
    "gs://bucket/r50.ckpt": (
        "an object of Google's cloud storage",
        "gcloud storage cp gs://bucket/r50.ckpt r50.ckpt",
        "r50.ckpt",
        "r50.safetensors",
    ),
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("text", WORDS)
@pytest.mark.parametrize("kind", [str, Path, lambda text: str(Path(text))], ids=["text", "path", "folded"])
def test_an_address_is_named_as_what_it_is(text: str, kind: Callable[[str], Any]) -> None:
    what, fetch, file, converted = WORDS[text]
    with pytest.raises(UserError) as error:
        path_of(kind(text))
    assert str(error.value) == (
        f"weights {text}: this is {what}, and only scaleprior:// names are fetched; get the file with `{fetch}`, "
        f"run `scaleprior backbone convert {file} {shlex.quote(converted)}`, and give {converted}"
    )


def test_an_address_that_nobody_knows() -> None:
    with pytest.raises(
        UserError, match=r"weights corp://a/b\.pth: this is an address, not a file.* by what knows such"
    ):
        path_of("corp://a/b.pth")


@pytest.mark.parametrize("code", ["$(touch x)", "`touch x`", 'a"$(touch x)"', "a'$(touch x)'", "a;touch x", "a b.pth"])
@pytest.mark.parametrize("scheme", ["torchvision", "open-mmlab", "s3", "https", "catalog", "hf"])
def test_no_word_of_an_address_gets_loose_in_the_shell(scheme: str, code: str, tmp_path: Path) -> None:
    """Who pastes a command runs it, and nothing else."""
    address = address_of(f"{scheme}://h/{code}")
    assert address is not None
    quiet = "".join(f"{program}() {{ :; }}; " for program in ("curl", "aws", "hf", "python"))
    run = subprocess.run(["bash", "-c", quiet + address.fetch], cwd=tmp_path, check=False, capture_output=True)
    assert (run.returncode, run.stderr, list(tmp_path.iterdir())) == (0, b"", [])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a/b.pth", "a/b.pth"),
        ("a:b", "a:b"),
        ("C:/a", "C:/a"),
        ("runs:/a/b", "runs:/a/b"),
        ("file:///a/b%20c.pth", "/a/b c.pth"),
        ("file://localhost/a", "/a"),
        (Path("file:///a/b"), "/a/b"),
        ("~/a", "HOME/a"),
        ("r.pkl?matching_heuristics=True", "r.pkl"),
    ],
)
def test_paths_stay_paths(text: str | Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert path_of(text) == local_path(text) == model_path(text) == Path(path.replace("HOME", "/home/me"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "weights are named by an empty text"),
        ("file://host/a", "lie on the machine 'host'"),
        ("~nobody-of-that-name/a", "write the whole path"),
        ("scaleprior://X", "is a name of the zoo, not a path"),
    ],
)
def test_what_is_no_path_either(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        path_of(text)


def test_which_texts_are_relative_to_a_specs_folder() -> None:
    assert all(map(is_path, ("a.pth", "timm", "a:b", "/x", "~/x")))
    assert not any(map(is_path, (MSRA, "scaleprior://X", "timm:resnet50", "file:///a", "hf-hub:a/b", "https:/a/b")))
    assert text_of(Path("scaleprior://X")) == "scaleprior://X"


def test_a_name_of_the_zoo_without_its_prefix(tmp_path: Path) -> None:
    for text in ("R-50-imagenet-1k", "r-50-ImageNet-1k", "R50-imagenet-1k"):
        with pytest.raises(UserError, match=r"not found: .*; did you mean scaleprior://R-50-imagenet-1k") as error:
            find_weights(text)
        assert str(error.value).startswith(f"weights not found: {text}; ")
    with pytest.raises(UserError, match=r"weights not found: nothing\.pth; check the path"):
        find_weights("nothing.pth")


def test_the_zoos_name_of_the_same_file() -> None:
    """Also for the weights that every config of Detectron2's own names."""
    said = r"; give scaleprior://R-50-imagenet-1k-msra, which is that file; or get the file with `curl"
    with pytest.raises(UserError, match=said):
        local_path(MSRA)
    with pytest.raises(UserError, match="; give scaleprior://R-50-imagenet-1k, which is that file; or "):
        local_path("hf-hub:timm/" + _timm_name("R-50-imagenet-1k"))


def _timm_name(name: str) -> str:
    from scaleprior.backbones.zoo import load_catalogue

    found = load_catalogue().find(name).timm
    assert found is not None
    return found


def test_a_detector_is_not_converted() -> None:
    with pytest.raises(UserError) as error:
        model_path("https://example.org/model_final.pkl")
    assert str(error.value).endswith(
        "get the file with `curl -fL -o model_final.pkl https://example.org/model_final.pkl`, give that file"
    )
    for text in ("scaleprior://R-50-imagenet-1k", "timm:resnet50"):
        with pytest.raises(UserError, match=f"{text} is a backbone, not a trained detector"):
            model_path(text)


CONFIG = ("--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--engine", "torchvision", "--out", "run")
DOORS = {
    **{
        f"backbone {action}": ["backbone", action, MSRA, *more]
        for action, more in {
            "show": [], "convert": ["out.safetensors"], "verify": [], "export": ["out.pkl"], "diff": [MSRA],
        }.items()
    },
    "zoo add": ["zoo", "add", MSRA, "--name", "mine"],
    "detect train": ["detect", "train", *CONFIG, "--no-check", "--weights", MSRA],
    "detect train, checked": ["detect", "train", *CONFIG, "--weights", MSRA],
    "detect train MODEL.WEIGHTS": ["detect", "train", *CONFIG, "--no-check", "MODEL.WEIGHTS", MSRA],
    "detect eval": ["detect", "eval", *CONFIG, "--weights", MSRA],
    "detect eval MODEL.WEIGHTS": ["detect", "eval", *CONFIG, "MODEL.WEIGHTS", MSRA],
    "pretrain": ["pretrain", "--config-file", "Pretrain/quickstart.yaml", "--out", "run", "PRETRAIN.CORPUS", "x",
        "MODEL.WEIGHTS", MSRA,
    ],
    "check": ["check", *CONFIG, "--weights", MSRA],
    "check MODEL.WEIGHTS": ["check", *CONFIG, "MODEL.WEIGHTS", MSRA],
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_every_command_says_so(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(DOORS[door]) == 2
    said = "".join(capsys.readouterr())
    assert f"weights {MSRA}: this is a file of Detectron2's model zoo" in said
    assert "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl" in said
    assert "detectron2:/I" not in said
    assert not any(tmp_path.glob("run/*"))


@pytest.mark.parametrize(
    "call", [sp.load_backbone, read_backbone, canonical_file, lambda w: sp.convert(w, "x.safetensors")]
)
def test_every_function_says_so(call: Callable[[Any], object]) -> None:
    for weights in (MSRA, Path(MSRA)):
        with pytest.raises(UserError, match=f"weights {MSRA}: this is a file of Detectron2's model zoo"):
            call(weights)


@pytest.mark.parametrize("text", ["http://[", "https://[a/b", "~\ud800/a", "catalog://[" + "x" * 5000])
def test_what_cannot_be_an_address_or_a_path_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as error:
        path_of(text)
    assert str(error.value).isprintable()
