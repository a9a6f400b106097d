"""One entry of the catalogue: what a backbone is, what it learned from, and where its weights are. Torch-free.

Three kinds: ``paper`` (published work whose weights are not public; says how to make one's own), ``public`` (weights
that anyone can download) and ``own`` (files that the user registered, described by their cards).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from scaleprior.backbones.card import UNKNOWN, Card
from scaleprior.backbones.settings import config_lines
from scaleprior.backbones.trunks.family import TrunkSpec, families, get_family
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.backbones.zoo.hashes import PrintedHash
from scaleprior.backbones.zoo.schema import (
    COUNT,
    FLAG,
    HASH,
    NOT_NEGATIVE,
    SECTION,
    SHA256,
    TEXT,
    TRIPLE,
    URL,
    check_entry,
    list_of,
    mapping_of,
    one_of,
    optional,
)
from scaleprior.errors import UserError
from scaleprior.wording import flag

__all__ = ["PROOFS", "Entry", "own_entry", "public_entry", "supervision_of"]

PROOFS = {
    "pixels": "pixel statistics and channel order",
    "trunk": "stride, norms and their eps",
    "names": "the file's names and what wraps them",
    "hash": "the hash",
}
"""What a ``proof`` can stand for, in words for the page."""
_PARTS = {
    "norm": "norm",
    "groups": "num_groups",
    "width_per_group": "width_per_group",
    "stride_in_1x1": "stride_in_1x1",
}
"""Key of an entry -> field of a ``ResNetSpec`` that depth and trunk do not tell."""
_PUBLIC_KEYS = {
    "trunk": TEXT,
    "depth": COUNT,
    "width": optional(COUNT),
    "groups": optional(COUNT),
    "width_per_group": optional(COUNT),
    "norm": optional(TEXT),
    "model": optional(TEXT),
    "timm": optional(TEXT),
    "torchvision": optional(TEXT),
    "publisher": optional(TEXT),
    "url": optional(URL),
    "sha256": optional(SHA256),
    "hash": optional(HASH),
    "also": optional(list_of(mapping_of({"url": URL, "hash": HASH}))),
    "state": optional(TEXT),
    "prefix": optional(TEXT),
    "select": optional(TEXT),
    "corpus": TEXT,
    "images": COUNT,
    "images_note": optional(TEXT),
    "labels": optional(COUNT),
    "supervision": TEXT,
    "fine_tuned_on": optional(TEXT),
    "comparable": TEXT,
    "licence": TEXT,
    "source": TEXT,
    "pixel_mean": TRIPLE,
    "pixel_std": TRIPLE,
    "channel_order": optional(one_of("RGB", "BGR")),
    "stride_in_1x1": optional(FLAG),
    "norm_eps": optional(NOT_NEGATIVE),
    "downloaded": optional(TEXT),
    "proof": optional(mapping_of({what: optional(TEXT) for what in PROOFS})),
}
_EITHER = (
    ("timm", "model", "timm's name says it"),
    ("timm", "hash", "hash is that of the file at url; other files of the same weights go into also"),
    ("sha256", "hash", "a whole SHA-256 is enough"),
)
"""Keys that exclude each other, and what to do."""
_OWN_KEYS = {"sha256": SHA256, "card": SECTION}


@dataclass(frozen=True)
class Entry:
    """A backbone in the catalogue.

    Attributes:
        name: what follows ``scaleprior://``.
        kind: ``paper``, ``public`` or ``own``.
        trunk: a family of trunks: ``resnet`` (Detectron2's ResNet), ``bit``, ``clip``, ``convnext``, ...
        depth, width: layers; width 2 doubles the channels. Of CLIP both are as in its name: R50x4 is 50 and 4.
        parts: what depth does not tell of a ResNet: norm, num_groups, width_per_group, stride_in_1x1.
        model: value of MODEL.TIMM.MODEL, of a trunk of another family that has no timm name.
        corpus, images, labels: what it learned from; None = unknown, or no label set (image and text pairs).
        images_note: what ``images`` counts, where that is not plain.
        supervision: what told it right from wrong; two backbones can be compared by images only where it is the same.
        fine_tuned_on: a second corpus it was trained on afterwards; None if there is none.
        comparable: why it is or is not comparable with its neighbours on the ladder.
        licence, source: of the weights; where the facts come from.
        timm, torchvision: the weights' names there.
        publisher: whose file it is, for people.
        url: a direct address, where no library names one.
        sha256: of the file; None = not published as a whole.
        hash: of the file, as its publisher prints it: "sha256:0676ba61", "md5:b251726a". With neither, the first
            download's is kept.
        also: other files of the same weights, ``{"url": ..., "hash": ...}``: recognised, not downloaded.
        state, prefix, select: where in the file the trunk is, as ``ReadOptions`` takes them; None = where the search
            finds it.
        recipe: what makes such a backbone, for weights that are not public: a config of pretraining, then ``KEY VALUE``
            words in which CORPUS stands for an index folder.
        parent: the entry whose weights such a backbone begins from; None = random weights.
        fills: of an own backbone under a name whose weights are not public: the source of that entry.
        checked, differs, unchecked: in words, what of its card agrees with that entry, what does not and need not, and
            what it does not tell.
        card: of a canonical file.
        pixel_mean, pixel_std: 0-255 scale, in ``channel_order``.
        norm_eps: what the norms add to the variance; a public entry that does not say it has its family's.
        downloaded: by whom and when the file was downloaded and read, where this catalogue's authors did; None = never.
        proof: where the facts were read: key of ``PROOFS`` -> repository and file, or paper.
    """

    name: str
    kind: str
    trunk: str
    depth: int
    corpus: str
    images: int | None
    supervision: str
    licence: str
    source: str
    comparable: str
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    channel_order: Literal["RGB", "BGR"] = "RGB"
    norm_eps: float | None = None
    width: int = 1
    parts: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    labels: int | None = None
    images_note: str = ""
    fine_tuned_on: str | None = None
    timm: str | None = None
    torchvision: str | None = None
    publisher: str | None = None
    url: str | None = None
    sha256: str | None = None
    hash: str | None = None
    also: tuple[Mapping[str, str], ...] = ()
    state: str | None = None
    prefix: str | None = None
    select: str | None = None
    downloaded: str | None = None
    proof: Mapping[str, str] = field(default_factory=dict)
    recipe: tuple[str, ...] = ()
    parent: str | None = None
    fills: str | None = None
    checked: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    card: Card | None = None

    @cached_property
    def spec(self) -> TrunkSpec | None:
        """The trunk; None for one by address that only its file tells."""
        if self.card is not None:
            return self.card.arch
        model = self.model or (self.timm.split(".")[0] if self.timm else None)
        return get_family(self.trunk).spec_of_entry(self.depth, model, self.parts)

    @property
    def arch(self) -> str:
        """Name of the architecture: R-50, X-101-32x8d, BiT-R50x1, CLIP-R50; of an own backbone, its card's."""
        family = get_family(self.trunk)
        if self.card is not None or (self.spec is not None and not family.named):
            assert self.spec is not None
            return self.spec.name
        return family.label(self.depth, self.width)

    @property
    def printed(self) -> PrintedHash | None:
        """The hash that the file must have; None where nobody printed one."""
        if self.hash is not None:
            return PrintedHash.parse(self.hash)
        return PrintedHash("sha256", self.sha256) if self.sha256 is not None else None

    @property
    def file(self) -> str:
        """Where its file is: an address, or ``timm:NAME``; empty where there is none."""
        return self.url or (f"timm:{self.timm}" if self.timm else "")

    @property
    def signal(self) -> str:
        """Supervision with what came after it; backbones with another signal are not comparable by images."""
        return (
            f"{self.supervision}, then fine-tuned on {self.fine_tuned_on}" if self.fine_tuned_on else self.supervision
        )

    @property
    def weights(self) -> str:
        """Whether anyone can have the weights, for people."""
        return {"paper": "not public", "public": "public", "own": "own"}[self.kind]

    @property
    def command(self) -> str | None:
        """Shell command that makes such a backbone, for weights that are not public."""
        if not self.recipe:
            return None
        config, *words = self.recipe
        return shlex.join(["scaleprior", "pretrain", flag("config_file"), config, flag("out"), self.name, *words])

    @property
    def register_command(self) -> str:
        """Shell command that gives the backbone which ``command`` made this entry's name."""
        return shlex.join(["scaleprior", "zoo", "add", f"{self.name}/backbone.safetensors", flag("name"), self.name])

    def detection_lines(self) -> list[str]:
        """``KEY VALUE`` words that a detector needs with these weights; empty for a trunk by address that only its file
        tells."""
        if self.card is not None:
            return config_lines(self.card)
        if self.spec is None:
            return []
        return config_lines(Card(self.name, self.spec, self.pixel_mean, self.pixel_std, self.channel_order))

    def facts(self, origin: str) -> KnownFacts:
        """What the publisher states of these weights.

        Args:
            origin: how it is known that a file is his, in words for a report.
        """
        return KnownFacts(
            origin,
            self.pixel_mean,
            self.pixel_std,
            self.channel_order,
            bool(self.spec is not None and self.spec.stride_in_1x1),
            licence=self.licence,
            source=self.source,
            name=self.name,
            norm=self.parts.get("norm"),
            norm_eps=self.norm_eps,
            images=self.images,
            labels=self.labels,
            corpus=self.corpus,
            kind="publisher",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: every fact, and what follows from them."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "card"}
        facts["pixel_mean"], facts["pixel_std"] = list(self.pixel_mean), list(self.pixel_std)
        facts |= {"parts": dict(self.parts), "also": [dict(copy) for copy in self.also], "proof": dict(self.proof)}
        facts |= {name: list(facts[name]) for name in ("recipe", "checked", "differs", "unchecked")}
        return {
            **facts,
            "arch": self.arch,
            "weights": self.weights,
            "command": self.command,
            "uri": f"scaleprior://{self.name}",
            "detection": self.detection_lines(),
            "card": self.card.to_dict() if self.card else None,
        }


def public_entry(name: str, value: Any, *, where: str) -> Entry:
    """An entry from its mapping in a catalogue file.

    Args:
        where: the file, for error messages.

    Raises:
        UserError: a missing, unknown or impossible key; names file, entry and key.
    """
    checked = check_entry(name, value, {**_PUBLIC_KEYS, "trunk": one_of(*families())}, where=where)
    if ("timm" in checked) == ("url" in checked):
        raise UserError(f"{where}: entry {name}: needs one of the keys timm and url", hint="say where its weights are")
    for one, other, hint in _EITHER:
        if one in checked and other in checked:
            raise UserError(f"{where}: entry {name}: has the keys {one} and {other}", hint=hint)
    for key in ("pixel_mean", "pixel_std"):
        checked[key] = tuple(map(float, checked[key]))
    checked.setdefault("norm_eps", get_family(checked["trunk"]).eps)
    parts = {field: checked.pop(key) for key, field in _PARTS.items() if key in checked}
    entry = Entry(name=name, kind="public", parts=parts, **{**checked, "also": tuple(checked.get("also", ()))})
    if parts or entry.model:
        try:
            _ = entry.spec
        except UserError as e:
            raise UserError(f"{where}: entry {name}: {e}") from e
    return entry


def own_entry(name: str, value: Any, *, where: str) -> Entry:
    """An entry of the user's: the file's hash and its card."""
    checked = check_entry(name, value, _OWN_KEYS, where=where)
    card = Card.from_dict(checked["card"], source=f"{where}: entry {name}")
    return Entry(
        name=name,
        kind="own",
        trunk=card.arch.family.name,
        depth=card.arch.depth,
        corpus=card.corpus.get("name", UNKNOWN),
        images=card.images,
        labels=card.labels,
        supervision=supervision_of(card),
        licence=card.licence,
        source=card.source,
        comparable="Comparable with backbones of the same recipe on other fractions of the same corpus.",
        pixel_mean=card.pixel_mean,
        pixel_std=card.pixel_std,
        channel_order=card.channel_order,
        norm_eps=card.norm_eps,
        sha256=checked["sha256"],
        card=card,
    )


def supervision_of(card: Card) -> str:
    """What told right from wrong, as far as the card says it: it does for ScalePrior's runs, which count their steps.

    A corpus alone does not: the same images are learned from by labels, by captions and by teachers.
    """
    corpus = card.corpus.get("name", UNKNOWN)
    if card.steps is None or corpus == UNKNOWN:
        return UNKNOWN
    noise = card.noise or {}
    words = [f"{noise[key]:.0%} {what}" for key, what in (("rate", "wrong"), ("drop", "dropped")) if noise.get(key)]
    start = f", after {card.parent.get('name', UNKNOWN)}" if card.parent else ""
    return f"labels of {corpus}" + (f" ({', '.join(words)})" if words else "") + start
