"""Files recognised by the hash that their publisher prints."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
import yaml
from timm.models.resnet import Bottleneck, ResNet
from torchvision import models
from torchvision.models import detection

from scaleprior.backbones import load_backbone
from scaleprior.backbones.readers.read import inspect_backbone
from scaleprior.backbones.trunks.published import Origin
from scaleprior.backbones.trunks.resnet import ResNetSpec, names_and_shapes
from scaleprior.backbones.zoo import load_catalogue
from scaleprior.backbones.zoo.detectors import NORM_EPS
from scaleprior.backbones.zoo.hashes import HASH_PATTERN, PrintedHash, file_digests
from scaleprior.backbones.zoo.identify import LEAST_BYTES, identified
from scaleprior.errors import UserError
from tests.backbones.zoo.test_catalogue import GOOD

if TYPE_CHECKING:
    from scaleprior.backbones.trunks.family import TrunkSpec


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's names and shapes, random numbers, under a name that says nothing."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("found") / "weights.pth"
    torch.save(resnet18().state_dict(), path)
    return path


def print_hash(home: Path, text: str, **change: Any) -> None:
    """A catalogue of the user's in which somebody prints this hash."""
    home.mkdir(exist_ok=True)
    entry = {**GOOD, "depth": 18, "publisher": "someone", "hash": text, "pixel_std": [2, 2, 2], **change}
    entry = {key: value for key, value in entry.items() if value is not None}
    (home / "zoo.yaml").write_text(yaml.safe_dump({"schema": 1, "public": {"theirs": entry}}))


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_printed_hash_tells_whose_file_it_is(home: Path, resnet18: Path, algorithm: str) -> None:
    digits = hashlib.new(algorithm, resnet18.read_bytes()).hexdigest()
    assert identified(resnet18) is None
    print_hash(home, f"{algorithm}:{digits[:8]}", channel_order="BGR", norm_eps=1e-3)
    facts = identified(resnet18)
    assert facts is not None
    assert facts.kind == "publisher"
    assert facts.origin.endswith(
        f"someone's a.pth, which this is by its {'SHA-256' if algorithm == 'sha256' else 'MD5'}"
    )
    assert (facts.pixel_mean, facts.pixel_std, facts.channel_order) == ((1.0, 2.0, 3.0), (2.0, 2.0, 2.0), "BGR")
    assert (facts.stride_in_1x1, facts.norm_eps, facts.name) == (False, 1e-3, "theirs")
    print_hash(home, f"{algorithm}:{digits[:7]}{'0' if digits[7] != '0' else '1'}")
    assert identified(resnet18) is None


def test_other_files_of_the_same_weights_are_recognised_too(home: Path, resnet18: Path) -> None:
    digits = file_digests(resnet18, {"sha256"})["sha256"]
    copies = [{"url": "https://example.org/older/b.pth", "hash": f"sha256:{digits}"}]
    print_hash(home, "sha256:00000000", also=copies)
    facts = identified(resnet18)
    assert facts is not None
    assert facts.origin == "published for someone's b.pth, which this is by its SHA-256"


def test_a_name_alone_proves_nothing(home: Path, resnet18: Path, tmp_path: Path) -> None:
    named = tmp_path / "resnet18-f37072fd.pth"  # torchvision's own name
    named.write_bytes(resnet18.read_bytes())
    assert identified(named) is None


def test_reading_takes_all_that_is_known_of_a_recognised_file(home: Path, resnet18: Path) -> None:
    with pytest.raises(UserError, match="does not say pixel_mean, pixel_std, channel_order, norm_eps"):
        load_backbone(resnet18)
    print_hash(home, "sha256:" + file_digests(resnet18, {"sha256"})["sha256"][:8], labels=7)
    card = load_backbone(resnet18).card
    assert (card.pixel_mean, card.pixel_std, card.norm_eps) == ((1.0, 2.0, 3.0), (2.0, 2.0, 2.0), 1e-5)
    assert (card.images, card.labels, card.corpus["name"], card.licence) == (10, 7, "c", "mit")
    said = card.facts["pixel_std"]
    assert said == Origin("publisher", "published for someone's a.pth, which this is by its SHA-256")
    given = load_backbone(resnet18, pixel_std=(3.0, 3.0, 3.0), images=11).card
    assert (given.pixel_std, given.pixel_mean, given.images, given.labels) == ((3.0,) * 3, (1.0, 2.0, 3.0), 11, 7)
    assert (given.facts["pixel_std"].kind, given.facts["pixel_mean"].kind) == ("user", "publisher")


def test_a_recognised_file_tells_the_kind_of_norms_that_names_do_not(home: Path, tmp_path: Path) -> None:
    """timm's ResNets with GroupNorm have gains and biases under BatchNorm's names."""
    path = tmp_path / "gn.pth"
    torch.manual_seed(0)
    torch.save(ResNet(Bottleneck, (3, 4, 6, 3), norm_layer="groupnorm", base_width=32).state_dict(), path)
    with pytest.raises(UserError, match="no running statistics, so they are GroupNorm or folded BatchNorm"):
        load_backbone(path)
    print_hash(home, "sha256:" + file_digests(path, {"sha256"})["sha256"], depth=50, norm="GN")
    card = load_backbone(path).card
    assert (card.norm, card.facts["norm"].kind) == ("GN", "publisher")


def test_small_files_are_not_read_for_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes a number of the smallest trunk that the catalogue has."""
    numbers = sum(torch.Size(shape).numel() for shape in names_and_shapes(ResNetSpec(depth=18)).values())
    assert 0.95 < LEAST_BYTES / (2 * numbers) < 1
    small = tmp_path / "small.pth"
    small.write_bytes(b"\0" * (LEAST_BYTES - 1))
    monkeypatch.setattr("scaleprior.backbones.zoo.identify.file_digests", lambda *a: pytest.fail("was read"))
    assert identified(small) is None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The algorithms of each pass over a file."""
    passes: list[set[str]] = []

    def counted(path: Path, algorithms: set[str]) -> dict[str, str]:
        passes.append(set(algorithms))
        return file_digests(path, algorithms)

    monkeypatch.setattr("scaleprior.backbones.zoo.identify.file_digests", counted)
    return passes


def test_only_hashes_that_are_printed_of_such_a_trunk_are_computed(
    home: Path, resnet18: Path, asked: list[set[str]]
) -> None:
    print_hash(home, "md5:00000000", depth=50)
    assert inspect_backbone(resnet18).draft.missing
    assert asked == [{"sha256"}]  # torchvision's and others' R-18
    print_hash(home, "md5:00000000")
    assert inspect_backbone(resnet18).draft.missing
    assert asked[1:] == [{"sha256", "md5"}]
    unprinted = SimpleNamespace(family=SimpleNamespace(name="plain"), depth=6)
    assert identified(resnet18, cast("TrunkSpec", unprinted)) is None
    assert len(asked) == 2


def test_no_file_is_passed_over_whose_facts_are_all_stated(
    home: Path, resnet18: Path, tmp_path: Path, asked: list[set[str]]
) -> None:
    words = [
        "crop_pct",
        "interpolation",
        "bn_eps",
        "reprob",
        "remode",
        "sched",
        "model_ema",
    ]  # what tells timm's arguments
    args = argparse.Namespace(model="resnet18", mean=[0.5] * 3, std=[0.5] * 3, **dict.fromkeys(words))
    path = tmp_path / "model_best.pth.tar"
    torch.save({"state_dict": torch.load(resnet18, weights_only=True), "args": args}, path)
    assert load_backbone(path).card.facts["pixel_mean"].kind == "file"
    load_backbone(resnet18, pixel_mean=(1, 2, 3), pixel_std=(1, 1, 1), channel_order="RGB", norm_eps=1e-5)
    assert asked == []


def test_what_is_assumed_hides_no_publisher(home: Path, resnet18: Path) -> None:
    print_hash(home, "sha256:" + file_digests(resnet18, {"sha256"})["sha256"][:8])
    loaded = load_backbone(resnet18, assume="torchvision")
    assert (loaded.card.pixel_std, loaded.card.assumed) == ((2.0, 2.0, 2.0), ())


def test_our_catalogue_is_parsed_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_catalogue()
    monkeypatch.setattr("scaleprior.backbones.zoo.catalogue.read_yaml", lambda path: pytest.fail(f"parsed {path}"))
    assert load_catalogue().find("R-50-imagenet-1k") is first.find("R-50-imagenet-1k")


def test_a_catalogue_that_cannot_be_read_stops_no_conversion(
    home: Path, resnet18: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home.mkdir(exist_ok=True)
    (home / "zoo.yaml").write_text("public: [")
    assert identified(resnet18) is None
    assert "public files of your catalogue are not recognised: " in caplog.text


def test_hashes_as_they_are_printed(tmp_path: Path) -> None:
    printed = PrintedHash.parse("sha256:0676ba61")
    assert (str(printed), printed.name, printed.words) == ("sha256:0676ba61", "SHA-256", "0676ba61...")
    assert PrintedHash("md5", "0" * 32).words == "0" * 32
    assert re.fullmatch(HASH_PATTERN, "sha256:" + "0" * 65) is None
    (tmp_path / "f").write_bytes(b"abc")
    # RFC 1321 and FIPS 180's example
    assert file_digests(tmp_path / "f", {"md5", "sha256"}) == {
        "md5": "900150983cd24fb0d6963f7d28e17f72",
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }


def test_torchvisions_detectors_are_all_there_with_the_eps_that_their_builders_set() -> None:
    """Against the installed torchvision: every ResNet-50 of its detectors, and whom its source gives an eps of 0."""
    found = {}
    for build in (
        *(detection.fasterrcnn_resnet50_fpn, detection.fasterrcnn_resnet50_fpn_v2, detection.maskrcnn_resnet50_fpn),
        *(detection.maskrcnn_resnet50_fpn_v2, detection.keypointrcnn_resnet50_fpn),
        *(detection.retinanet_resnet50_fpn, detection.retinanet_resnet50_fpn_v2),
    ):
        source = inspect.getsource(inspect.unwrap(build))
        for weights in models.get_model_weights(build.__name__):
            overwritten = f"if weights == {weights}:\n            overwrite_eps(model, 0.0)" in source
            found[Path(weights.url).stem] = 0.0 if overwritten else 1e-5
    assert dict(NORM_EPS) == found
    assert list(found.values()).count(0.0) == 4


def test_a_detector_of_torchvisions_is_read_without_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    state = ResNet(Bottleneck, (3, 4, 6, 3), base_width=16).state_dict()  # type: ignore[arg-type]
    monkeypatch.setattr("scaleprior.backbones.zoo.identify.LEAST_BYTES", 0)
    digests = {"sha256": "258fb6c6" + "0" * 56, "md5": "0" * 32}
    monkeypatch.setattr("scaleprior.backbones.zoo.identify.file_digests", lambda *given: digests)
    state["layer1.0.bn1.running_var"][0] = 1e-9
    torch.save({f"backbone.body.{name}": tensor for name, tensor in state.items()}, tmp_path / "detector.pth")
    backbone = load_backbone(tmp_path / "detector.pth")
    assert (backbone.card.norm_eps, backbone.card.channel_order, backbone.card.stride_in_1x1) == (0, "RGB", False)
    assert backbone.card.name == "fasterrcnn_resnet50_fpn_coco-258fb6c6"
    assert "torchvision's fasterrcnn_resnet50_fpn_coco-258fb6c6.pth, which this is by" in str(backbone.report.facts)
