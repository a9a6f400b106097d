"""The bare step is of the network, batch and size that its config says, and leaves the process as it was."""

from __future__ import annotations

import pytest
import torch

from scaleprior.config import load_config
from scaleprior.pretrain.costs import bare_step
from scaleprior.pretrain.costs.bare_step import BareStep, time_bare_step
from scaleprior.pretrain.network.pretrainer import Pretrainer
from tests.pretrain.conftest import SMALL


def test_it_is_the_configs_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Watched(Pretrainer):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            seen.append((tuple(images.shape), torch.get_num_threads(), len(self.trunk.state_dict())))
            return super().features(images)

    monkeypatch.setattr(bare_step, "Pretrainer", Watched)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = []
    for depth in ("50", "101"):
        cfg = load_config("Pretrain/quickstart.yaml", [*SMALL, "MODEL.RESNETS.DEPTH", depth]).cfg
        found.append(time_bare_step(cfg, threads=2, warm_up=1, steps=2))
    assert [call[:2] for call in seen] == [((4, 16, 16, 3), 2)] * 6
    assert len({call[2] for call in seen[:3]}) == len({call[2] for call in seen[3:]}) == 1
    assert seen[0][2] < seen[3][2]  # tensors of R-50, of R-101
    assert (torch.get_num_threads(), torch.equal(torch.get_rng_state(), state)) == (threads, True)
    assert {(step.images, step.pixels, step.threads) for step in found} == {(4, 16, 2)}
    assert all(step.seconds > 0 and step.cpu_seconds > 0 for step in found)


def test_its_figures_are_medians_of_the_steps_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(99.0, 98.0), (3.0, 2.0), (1.0, 0.5), (50.0, 1.0)])
    monkeypatch.setattr(bare_step, "_step", lambda cfg: lambda: next(times))
    cfg = load_config("Pretrain/quickstart.yaml", SMALL).cfg
    found = time_bare_step(cfg, threads=1, warm_up=1, steps=3)
    assert found == BareStep(images=4, pixels=16, threads=1, seconds=3.0, cpu_seconds=1.0)
    assert found.to_dict() == {"images": 4, "pixels": 16, "threads": 1, "seconds": 3.0, "cpu_seconds": 1.0}
