"""One entry of the catalogue: what a backbone is, what it learned from, and where its weights are. Torch-free.

Three kinds: ``paper`` (published work whose weights are not public; says how to make one's own), ``public`` (weights
that anyone can download) and ``own`` (files that the user registered, described by their cards).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scaleprior.backbones.card import UNKNOWN, Card
from scaleprior.backbones.settings import config_lines
from scaleprior.backbones.trunks.family import families, get_family
from scaleprior.backbones.zoo.schema import COUNT, SECTION, SHA256, TEXT, TRIPLE, URL, check_entry, one_of, optional
from scaleprior.errors import UserError

__all__ = ["Entry", "own_entry", "public_entry", "supervision_of"]

_PUBLIC_KEYS = {
    "trunk": TEXT,
    "depth": COUNT,
    "width": optional(COUNT),
    "timm": optional(TEXT),
    "torchvision": optional(TEXT),
    "url": optional(URL),
    "sha256": optional(SHA256),
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
}
_OWN_KEYS = {"sha256": SHA256, "card": SECTION}


@dataclass(frozen=True)
class Entry:
    """A backbone in the catalogue.

    Attributes:
        name: what follows ``scaleprior://``.
        kind: ``paper``, ``public`` or ``own``.
        trunk: a family of trunks: ``resnet`` (Detectron2's ResNet), ``bit``, ``clip``, ``convnext``, ...
        depth, width: layers; width 2 doubles the channels.
        corpus, images, labels: what it learned from; None = unknown, or no label set (image and text pairs).
        images_note: what ``images`` counts, where that is not plain.
        supervision: what told it right from wrong; two backbones can be compared by images only where it is the same.
        fine_tuned_on: a second corpus it was trained on afterwards; None if there is none.
        comparable: why it is or is not comparable with its neighbours on the ladder.
        licence, source: of the weights; where the facts come from.
        timm, torchvision: the weights' names there.
        url: a direct address, where no library names one.
        sha256: of the file; None = not published, the first download's is kept.
        command: shell command that makes such a backbone, for weights that are not public.
        card: of a canonical file.
        pixel_mean, pixel_std: 0-255 scale, RGB unless the card says otherwise.
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
    width: int = 1
    labels: int | None = None
    images_note: str = ""
    fine_tuned_on: str | None = None
    timm: str | None = None
    torchvision: str | None = None
    url: str | None = None
    sha256: str | None = None
    command: str | None = None
    card: Card | None = None

    @property
    def arch(self) -> str:
        """Name of the architecture: R-50, BiT-R50x1, CLIP-R50; of an own backbone, its card's."""
        if self.card is not None:
            return self.card.arch.name
        return get_family(self.trunk).label(self.depth, self.width)

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

    def detection_lines(self) -> list[str]:
        """``KEY VALUE`` words that a detector needs with these weights; empty for a trunk by address that only its file
        tells."""
        if self.card is not None:
            return config_lines(self.card)
        arch = get_family(self.trunk).spec_of_entry(self.depth, self.timm)
        if arch is None:
            return []
        # All of them take RGB.
        return config_lines(Card(self.name, arch, self.pixel_mean, self.pixel_std, "RGB"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: every fact, and what follows from them."""
        facts = {name: value for name, value in vars(self).items() if name != "card"}
        facts["pixel_mean"], facts["pixel_std"] = list(self.pixel_mean), list(self.pixel_std)
        return {
            **facts,
            "arch": self.arch,
            "weights": self.weights,
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
    for key in ("pixel_mean", "pixel_std"):
        checked[key] = tuple(map(float, checked[key]))
    return Entry(name=name, kind="public", **checked)


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
