"""Whatever names a backbone becomes one canonical file: as it is, or converted once; or one error that says how."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scaleprior.backbones import canonical, convert_backbone, read_card
from scaleprior.backbones.canonical import canonical_file
from scaleprior.errors import FailureError, UserError
from scaleprior.wording import in_flags
from tests import processes
from tests.backbones.foreign import write_silent, write_telling

Count = Callable[[], int]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Count:
    """How many were made."""
    made: list[object] = []

    def counted(*args: object) -> object:
        made.append(args)
        return convert_backbone(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(canonical, "convert_backbone", counted)
    return lambda: len(made)


def test_a_foreign_file_is_converted_once_to_what_convert_writes(
    home: Path, tmp_path: Path, conversions: Count, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_telling(tmp_path / "x.pth")
    with caplog.at_level(logging.INFO):
        path = canonical_file(source)
        assert canonical_file(str(source)) == path
    assert conversions() == 1
    convert_backbone(source, tmp_path / "by hand.safetensors")
    assert path.read_bytes() == (tmp_path / "by hand.safetensors").read_bytes()
    assert path.is_relative_to(home / "zoo" / "converted")
    assert path.name == "resnet50.safetensors"
    first, second = [r.getMessage() for r in caplog.records if r.name == canonical.__name__]
    assert first.startswith(f"{source} has no card; it was converted to {path}: read as ")
    assert "pixel_mean, pixel_std, channel_order" in first
    assert "config.json" in first
    assert second.startswith(f"{source} was converted before, to {path}: ")


def test_what_lies_beside_a_file_is_part_of_what_it_is(home: Path, tmp_path: Path, conversions: Count) -> None:
    """The same bytes with another config.json are another backbone."""
    source = write_telling(tmp_path / "x.pth")
    first = canonical_file(source)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("0.485", "0.5"))
    second = canonical_file(source)
    assert (conversions(), first != second) == (2, True)
    assert [round(read_card(path).pixel_mean[0], 3) for path in (first, second)] == [123.675, 127.5]


def test_another_file_under_the_old_name_is_converted_anew(home: Path, tmp_path: Path) -> None:
    source = write_telling(tmp_path / "x.pth")
    first = canonical_file(source)
    write_telling(source, seed=1)
    assert read_card(canonical_file(source)).tensors_sha256 != read_card(first).tensors_sha256


@pytest.mark.parametrize("damage", ["cut", "flipped", "another"])
def test_a_damaged_entry_of_the_cache_is_made_again(
    home: Path, tmp_path: Path, damage: str, conversions: Count
) -> None:
    source = write_telling(tmp_path / "x.pth")
    path = canonical_file(source)
    whole = path.read_bytes()
    if damage == "another":
        shutil.copyfile(canonical_file(write_telling(tmp_path / "y.pth", seed=1)), path)
    else:
        path.write_bytes(whole[:-100] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    before = conversions()
    assert canonical_file(source) == path
    assert (path.read_bytes() == whole, conversions() - before) == (True, 1)


def test_two_processes_convert_once(home: Path, tmp_path: Path) -> None:
    source = write_telling(tmp_path / "x.pth")
    code = (
        "import sys, logging; logging.basicConfig(level=logging.INFO); "
        "from scaleprior.backbones import canonical, convert; "
        "real = canonical.convert_backbone; "
        "canonical.convert_backbone = lambda *a: (print('made'), real(*a))[1]; "
        "print(canonical.canonical_file(sys.argv[1]))"
    )
    started = [processes.start([sys.executable, "-c", code, source], stderr=None) for _ in range(2)]
    printed = [process.communicate()[0].split() for process in started]
    assert sorted(len(words) for words in printed) == [1, 2]
    assert {words[-1] for words in printed} == {str(canonical_file(source))}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_is_read_only(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    home.chmod(0o500)
    _assert_refused(write_telling(tmp_path / "x.pth"))


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "file" / "home"))
    _assert_refused(write_telling(tmp_path / "x.pth"))


def _assert_refused(source: Path) -> None:
    with pytest.raises(FailureError) as error:
        canonical_file(source)
    assert str(error.value).startswith(f"{source} has no card and was to be converted, but the zoo's folder ")
    assert "set SCALEPRIOR_HOME to a folder that can; or run `scaleprior backbone convert " in str(error.value)


def test_facts_that_nobody_says_are_asked_for_with_the_whole_command(home: Path, tmp_path: Path) -> None:
    state = torch.load(write_silent(tmp_path / "x.pth"), weights_only=True)
    # Hugging Face's names, whose files have never said anything of pixels
    torch.save({f"backbone.bottom_up.{k}": v for k, v in _detectron2_names(state).items()}, tmp_path / "my net.pth")
    with pytest.raises(UserError) as error:
        canonical_file(tmp_path / "my net.pth")
    assert in_flags(error.value).startswith(
        f"{tmp_path / 'my net.pth'} does not say pixel_mean, pixel_std, channel_order"
    )
    assert in_flags(error.value).endswith(
        f"; convert it with `scaleprior backbone convert '{tmp_path / 'my net.pth'}' 'my net.safetensors' "
        "--pixel-mean A B C --pixel-std A B C --channel-order RGB|BGR --stride-in-1x1 yes|no`, "
        "and give what that writes; without options it lists usual values"
    )
    assert not (home / "zoo" / "converted").exists()


def _detectron2_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from scaleprior.backbones import to_detectron2

    return to_detectron2(state)


def test_a_partial_file_names_the_command_that_takes_the_option(home: Path, tmp_path: Path) -> None:
    state = torch.load(write_telling(tmp_path / "x.pth"), weights_only=True)
    state.pop("layer1.0.conv1.weight")
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        canonical_file(tmp_path / "x.pth")
    said = in_flags(error.value)
    assert "only partly" in said
    assert said.endswith(f"; options are those of `scaleprior backbone convert {tmp_path / 'x.pth'} x.safetensors`")


def test_a_trained_detector_is_no_backbone(home: Path, tmp_path: Path) -> None:
    state = torch.load(write_telling(tmp_path / "x.pth"), weights_only=True)
    head = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(3, 4)}
    torch.save(
        {"model": {f"backbone.bottom_up.{k}": v for k, v in _detectron2_names(state).items()} | head},
        tmp_path / "d.pth",
    )
    with pytest.raises(UserError) as error:
        canonical_file(tmp_path / "d.pth")
    assert str(error.value) == (
        f"{tmp_path / 'd.pth'} is a trained detector, not a backbone; "
        f"`scaleprior backbone convert {tmp_path / 'd.pth'} d.safetensors` cuts the backbone out; "
        "or evaluate the detector; or fine-tune all of it with SCALEPRIOR.START detector (detectron2 engine)"
    )


def test_shards_count_with_their_index(home: Path, tmp_path: Path) -> None:
    """The index alone says nothing of the numbers."""
    from safetensors.torch import save_file

    state = torch.load(write_telling(tmp_path / "x.pth"), weights_only=True)
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copyfile(tmp_path / "config.json", folder / "config.json")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(state, "a.safetensors")})
    )
    save_file(state, folder / "a.safetensors")
    first = canonical_file(folder)
    save_file({**state, "conv1.weight": state["conv1.weight"] + 1}, folder / "a.safetensors")
    second = canonical_file(folder)
    assert read_card(first).tensors_sha256 != read_card(second).tensors_sha256


def test_no_option_is_offered_for_what_is_not_here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleprior.backbones.readers.timm_names._hugging_face", lambda: tmp_path)
    with pytest.raises(UserError) as error:
        canonical_file("timm:resnet18.fb_ssl_yfcc100m_ft_in1k")
    assert in_flags(error.value).endswith('pretrained=True)"')
