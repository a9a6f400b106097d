"""Who says a fact: the best of those who do is believed, what nobody says is asked for, and a guess is called one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from scaleprior.backbones import (
    Card,
    ReadOptions,
    ResNetSpec,
    TimmSpec,
    build_resnet,
    build_trunk,
    convert_backbone,
    export_backbone,
    read_backbone,
    read_card,
    save_backbone,
    to_detectron2,
)
from scaleprior.backbones.readers.facts import UnknownFactsError, resolve
from scaleprior.backbones.readers.read import inspect_backbone
from scaleprior.backbones.trunks.published import CARD_FACTS, FACT_KINDS, USUAL, KnownFacts, Origin
from scaleprior.backbones.verify import verify_backbone
from scaleprior.errors import UserError
from scaleprior.wording import in_flags

NARROW = ResNetSpec(res2_out_channels=16, width_per_group=4)
GIVEN = ReadOptions(
    pixel_mean=(1, 2, 3), pixel_std=(4, 5, 6), channel_order="RGB", stride_in_1x1=False, norm_eps=1e-5
)  # fmt: skip
# What four places say of each fact; all of them different, and in one channel order.
VALUES: dict[str, dict[str, Any]] = {
    "pixel_mean": {"user": (1, 1, 1), "file": (2, 2, 2), "publisher": (3, 3, 3), "assumed": (0.0,) * 3},
    "pixel_std": {"user": (1, 1, 1), "file": (2, 2, 2), "publisher": (3, 3, 3), "assumed": (255.0,) * 3},
    "channel_order": {"user": "BGR", "file": "RGB", "publisher": "BGR", "assumed": "RGB"},
    "stride_in_1x1": {"user": True, "file": False, "publisher": True, "assumed": False},
    "norm_eps": {"user": 1e-1, "file": 1e-2, "publisher": 1e-3, "assumed": 1e-5},
}  # fmt: skip
SUBSETS = [set(kinds) for n in range(5) for kinds in itertools.combinations(FACT_KINDS, n)]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build_resnet(NARROW).state_dict()


@pytest.fixture
def bare(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """Torchvision's names, and nothing else."""
    torch.save(state, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize("fact", VALUES)
@pytest.mark.parametrize("kinds", SUBSETS, ids=lambda kinds: "-".join(sorted(kinds)) or "nobody")
def test_the_best_of_those_who_say_it_is_believed(fact: str, kinds: set[str]) -> None:
    """The other facts are given, so that this one alone is open; who says it is listed worst first."""
    given = {name: values["user"] for name, values in VALUES.items() if name != fact}
    if "user" in kinds:
        given[fact] = VALUES[fact]["user"]
    options = ReadOptions(**given, assume="unit" if "assumed" in kinds else None)
    known = [
        KnownFacts(f"the {kind}", kind=kind, **{fact: VALUES[fact][kind]})
        for kind in ("publisher", "file") if kind in kinds
    ]  # fmt: skip
    resolved = resolve(options, known, "w.pth")
    best = next((kind for kind in FACT_KINDS if kind in kinds), None)
    if best is None:
        assert resolved.missing == (fact,)
        return
    assert (resolved.missing, resolved.facts[fact], resolved.origins[fact].kind) == ((), VALUES[fact][best], best)


def test_what_the_architecture_leaves_no_choice_of_beats_a_usual_value_only() -> None:
    implied = {"norm_eps": (1e-6, "the LN of every convnext_tiny")}
    known = [KnownFacts("a config", norm_eps=1e-3)]
    usual = ReadOptions(assume="torchvision")
    assert resolve(usual, [], "w", implied=implied).origins["norm_eps"] == Origin("file", implied["norm_eps"][1])
    assert resolve(usual, known, "w", implied=implied).facts["norm_eps"] == 1e-3


def test_places_that_contradict_each_other_are_told(state: dict, tmp_path: Path) -> None:
    options = dataclasses.replace(GIVEN, stride_in_1x1=None)
    known = [KnownFacts("here", stride_in_1x1=True), KnownFacts("there", stride_in_1x1=False, kind="publisher")]
    assert resolve(options, known, "w").notes == ["stride_in_1x1 is True (here); there says False"]
    assert resolve(options, known[:1], "w").notes == []


def test_a_bare_file_is_asked_about_with_options_and_usual_values(bare: Path) -> None:
    with pytest.raises(UnknownFactsError) as error:
        read_backbone(bare)
    assert error.value.absent == ("pixel_mean", "pixel_std", "channel_order", "stride_in_1x1", "norm_eps")
    python, shell = str(error.value).splitlines(), in_flags(error.value).splitlines()
    assert python[0].startswith(
        f"{bare} does not say pixel_mean, pixel_std, channel_order, stride_in_1x1, norm_eps, and "
    )
    for name, usual in USUAL.items():
        (line,) = [i for i, text in enumerate(shell) if f"--assume {name} " in text]
        assert usual.who in shell[line]
        assert usual.words in shell[line + 1]
        assert any(f"assume='{name}'" in text for text in python)
    assert "- --stride-in-1x1 yes|no  " in in_flags(error.value)
    assert "- stride_in_1x1=False  " in str(error.value)
    assert max(map(len, shell[1:])) <= 120


@pytest.mark.parametrize("name", USUAL)
def test_usual_values_are_called_assumed_wherever_the_card_is_seen(name: str, bare: Path, tmp_path: Path) -> None:
    card, report = convert_backbone(bare, tmp_path / "w.safetensors", ReadOptions(assume=name))
    facts = USUAL[name].facts
    for fact in ("pixel_mean", "pixel_std", "channel_order", "stride_in_1x1", "norm_eps"):
        assert getattr(card, fact) == getattr(facts, fact)
        assert card.facts[fact] == Origin("assumed", facts.origin)
    assert card.assumed == ("pixel_mean", "pixel_std", "channel_order", "stride_in_1x1", "norm_eps")
    assert card.facts["norm"] == Origin("file", "names and statistics of its norms")
    assert f"pixel_mean, pixel_std, channel_order, stride_in_1x1, norm_eps: ASSUMED, {facts.origin}" in report.lines()
    again = read_backbone(tmp_path / "w.safetensors")
    assert again.card == card == read_card(tmp_path / "w.safetensors")
    findings = [f for f in verify_backbone(again.tensors, card).findings if "assumed" in f.what]
    assert [f.level for f in findings] == ["warning"]
    assert f"pixel_mean [{facts.pixel_mean[0]:g}, " in findings[0].what  # type: ignore[index]


def test_an_assumption_fills_only_what_is_left(bare: Path) -> None:
    card = read_backbone(bare, ReadOptions(assume="torchvision", stride_in_1x1=True, norm_eps=1e-5)).card
    assert card.assumed == ("pixel_mean", "pixel_std", "channel_order")
    assert (card.stride_in_1x1, card.facts["stride_in_1x1"]) == (True, Origin("user", "given"))
    reading = read_backbone(bare, dataclasses.replace(GIVEN, assume="msra"))
    assert reading.card.assumed == ()
    assert "nothing had to be assumed" in reading.report.notes


def test_exports_keep_who_said_what(bare: Path, tmp_path: Path) -> None:
    reading = read_backbone(bare, ReadOptions(assume="half", channel_order="RGB"))
    export_backbone(reading.tensors, reading.card, tmp_path / "w.pkl")
    assert read_backbone(tmp_path / "w.pkl").card.facts == reading.card.facts
    changed = read_backbone(tmp_path / "w.pkl", ReadOptions(pixel_mean=(1, 2, 3))).card
    assert changed.facts["pixel_mean"] == Origin("user", "given")
    assert changed.facts["pixel_std"].kind == "assumed"


def test_cards_from_before_stay_as_they_are(state: dict, tmp_path: Path) -> None:
    old = Card("old", NARROW, (1, 2, 3), (4, 5, 6), "RGB")
    assert (old.schema, "facts" in old.to_dict(), old.assumed) == (1, False, ())
    saved = save_backbone(tmp_path / "w.safetensors", to_detectron2(state), old)
    assert read_backbone(tmp_path / "w.safetensors").card == saved
    export_backbone(to_detectron2(state), saved, tmp_path / "w.pkl")
    assert read_backbone(tmp_path / "w.pkl").card == saved


def test_a_card_with_origins_has_a_schema_that_older_versions_refuse() -> None:
    facts = {name: Origin(kind, "there") for name, kind in zip(CARD_FACTS, itertools.cycle(FACT_KINDS))}
    card = Card("new", TimmSpec("convnext_tiny"), (1, 2, 3), (4, 5, 6), "RGB", facts=facts)
    value = json.loads(card.to_json())
    assert value["schema"] == 3
    assert value["facts"]["pixel_std"] == {"from": "file", "where": "there"}
    assert Card.from_json(card.to_json()) == card
    for wrong, said in (
        ({"pixel_mean": {"from": "guess", "where": "x"}}, "origin of a fact is .*user, file, publisher, assumed"),
        ({"pixel_mean": {"from": "file"}}, "origin of a fact is"),
        ({"images": {"from": "file", "where": "x"}}, "facts is .*pixel_mean, pixel_std"),
        (["pixel_mean"], "facts is"),
    ):
        with pytest.raises(UserError, match=f"^w: .*{said}"):
            Card.from_dict({**value, "facts": wrong}, source="w")


def test_looking_needs_no_facts(bare: Path, state: dict) -> None:
    seen = inspect_backbone(bare, ReadOptions(channel_order="RGB"))
    assert seen.draft.missing == ("pixel_mean", "pixel_std", "stride_in_1x1", "norm_eps")
    told = seen.draft.to_dict()
    assert (told["pixel_mean"], told["stride_in_1x1"], told["arch"]["stride_in_1x1"]) == ("unknown",) * 3
    assert (told["channel_order"], told["arch"]["depth"]) == ("RGB", 50)
    assert torch.equal(seen.tensors["stem.conv1.weight"], state["conv1.weight"])
    verdict = verify_backbone(seen.tensors, seen.draft)
    said = [f.what for f in verdict.findings if f.level == "warning"]
    assert any(text.startswith("nobody says pixel_mean, pixel_std, stride_in_1x1, norm_eps;") for text in said)
    assert verdict.config == ()
    with pytest.raises(UnknownFactsError):
        seen.draft.card()


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        ("resnet18", ("pixel_mean", "pixel_std", "channel_order", "norm_eps")),  # no 1x1 that could stride
        ("convnext_tiny", ("pixel_mean", "pixel_std", "channel_order")),  # the LayerNorm's eps is the architecture's
    ],
)
def test_only_what_a_trunk_can_differ_in_is_asked(model: str, missing: tuple[str, ...], tmp_path: Path) -> None:
    torch.save(timm.create_model(model).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UnknownFactsError) as error:
        read_backbone(tmp_path / "w.pth")
    assert error.value.absent == missing
    card = read_backbone(tmp_path / "w.pth", ReadOptions(assume="torchvision")).card
    assert card.assumed == missing
    assert card.facts["stride_in_1x1"].kind == "file"


def test_options_that_cannot_be_true_are_refused(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"norm is 'GN', but its norms are BN; leave it out"):
        read_backbone(bare, ReadOptions(norm="GN", assume="torchvision"))
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "r18.pth")
    with pytest.raises(UserError, match=r"stride_in_1x1=True, but R-18 has no 1x1 convolution that could"):
        read_backbone(tmp_path / "r18.pth", ReadOptions(stride_in_1x1=True, assume="torchvision"))


def test_spellings_prove_nothing_and_names_of_one_publisher_do(tmp_path: Path) -> None:
    """BiT in timm's names is asked about, in Google's it is not; CLIP with OpenAI's three entries is not, either."""
    body = build_trunk(TimmSpec("resnetv2_50x1_bit")).body.state_dict()
    save_file(body, tmp_path / "bit.safetensors")
    with pytest.raises(UnknownFactsError, match=r"does not say pixel_mean, pixel_std, channel_order, and"):
        read_backbone(tmp_path / "bit.safetensors")
    from benchmarks.exactness import FORMATS

    (tmp_path / "clip").mkdir()
    path, _ = FORMATS["CLIP (OpenAI names)"][1](50, tmp_path / "clip")
    assert read_backbone(path).card.facts["norm_eps"] == Origin("publisher", "published by OpenAI for CLIP")
    content = torch.load(path, weights_only=True)
    del content["vocab_size"]
    torch.save(content, path)
    with pytest.raises(UnknownFactsError, match=re.escape("pixel_mean, pixel_std, channel_order, norm_eps, and")):
        read_backbone(path)
