"""A family of trunks as somebody else would write it, outside the package: a stem and four stages of one layer each.

Installed with the entry point ``[scaleprior.trunks] plain = plain_family:Plain``, it is all that ``MODEL.TIMM.MODEL
plain_tiny`` needs in pretraining and in both engines, and ``scaleprior backbone convert`` for its files.
"""

from __future__ import annotations

import itertools

from scaleprior.backbones.trunks import Dropped, Layout, Model, TrunkFamily


def _rename(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return Dropped("counter")
    return name.removeprefix("net.") if name.startswith("net.") else None


class Plain(TrunkFamily):
    """Convolution, BN and ReLU, five times."""

    name = "plain"
    models = {"plain_tiny": Model(blocks=(1, 1, 1, 1), stem=8, channels=(8, 16, 32, 64), depth=6)}  # noqa: RUF012
    layouts = (Layout("plain (its own names)", (r"net\.stem\.0\.weight", r"net\.stages\.3\.0\.0\.weight"), _rename),)

    def build(self, spec):
        from torch import nn

        def layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        widths = self.models[spec.model].channels
        body = nn.Module()
        body.stem = layer(3, widths[0], 4)
        body.stages = nn.Sequential(
            nn.Sequential(layer(widths[0], widths[0], 1)),
            *(nn.Sequential(layer(a, b, 2)) for a, b in itertools.pairwise(widths)),
        )
        return body
