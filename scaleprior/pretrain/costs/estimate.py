"""The cost of a run and of a ladder of them: what is counted, what a probe measured, what is estimated from both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from scaleprior.pretrain.costs.arithmetic import NetworkCost
from scaleprior.pretrain.costs.probe import Probe
from scaleprior.pretrain.costs.work import Work
from scaleprior.training.resources import Needs, bytes_in_words

__all__ = ["RunCost"]


@dataclass(frozen=True)
class RunCost:
    """What pretraining takes.

    Attributes:
        trunk: its name. labels: of the head. side: of the images, in pixels. batch_size: images a step.
        budget: (amount, unit), as the config has it.
        network: parameters and operations, counted.
        work: the run's length. needs: bytes that it certainly takes.
        ladder: length of the run on each of further fractions; empty where none were asked for.
        probe: what the first steps took; None where none were taken.
        scale: operations of a mean image of the run over those of the probe's images, which have ``side`` pixels; less
            than 1 where a run begins with smaller ones.
    """

    trunk: str
    labels: int
    side: int
    batch_size: int
    budget: tuple[float, str]
    network: NetworkCost
    work: Work
    needs: Needs
    ladder: tuple[Work, ...] = ()
    probe: Probe | None = None
    scale: float = 1.0

    @property
    def images_per_s(self) -> float | None:
        """Of the probe; None without one."""
        return None if self.probe is None else self.batch_size / self.probe.seconds_per_step

    def seconds(self, work: Work) -> float | None:
        """An estimate of a run's training: its steps, each as long as the mean of the probe's, or in proportion to the
        operations where images are smaller for a while; None without a probe.

        Evaluation and checkpoints are not in it.
        """
        return None if self.probe is None else work.steps * self.probe.seconds_per_step * self.scale

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; seconds are estimates, and None without a probe."""
        rungs = [self._run(work) for work in self.ladder]
        return {
            "trunk": self.trunk,
            "labels": self.labels,
            "side": self.side,
            "batch_size": self.batch_size,
            "budget": {"amount": self.budget[0], "unit": self.budget[1]},
            "network": self.network.to_dict(),
            "scale": self.scale,
            "run": self._run(self.work),
            "memory_at_least": self.needs.memory,
            "disk": {"left": self.needs.left, "peak": self.needs.peak},
            "probe": None if self.probe is None else {**self.probe.to_dict(), "images_per_s": self.images_per_s},
            "ladder": rungs,
            "ladder_sum": _sum(rungs) if rungs else None,
        }

    def _run(self, work: Work) -> dict[str, float | None]:
        operations = self.network.training * work.images_seen
        return {**asdict(work), "epochs": work.epochs, "operations": operations, "seconds": self.seconds(work)}

    def sentences(self) -> list[str]:
        """For people, one line a fact; an estimate is called one."""
        return [*self._counted(), *self._measured(), *self._estimated()]

    def _counted(self) -> Iterator[str]:
        net, work = self.network, self.work
        parts = net.trunk_parameters, net.head_parameters
        yield (
            f"{self.trunk}: {parts[0] + parts[1]:,} parameters, trunk {parts[0]:,}, head of {self.labels:,} labels "
            f"{parts[1]:,}"
        )
        yield (
            f"operations an image of {self._pixels}: {_si(net.forward)}FLOP forward, "
            f"{_si(net.training)}FLOP forward and backward ({net.multiple:.3g} x), two for each multiply-add"
        )
        yield (
            f"{work.steps:,} steps of {self.batch_size:,} images = {work.images_seen:,} images, {work.epochs:,.4g} "
            f"epochs of {work.images:,}; {_si(net.training * work.images_seen)}FLOP"
        )
        left, peak = bytes_in_words(self.needs.left), bytes_in_words(self.needs.peak)
        yield f"disk: {left} at the end, up to {peak} on the way (from the number of parameters)"
        yield f"memory: at least {bytes_in_words(self.needs.memory)}, counting {self.needs.of}"

    @property
    def _pixels(self) -> str:
        grown = f", with smaller ones before; {self.scale:.3g} of a run of that size" if self.scale < 1 else ""
        return f"{self.side} x {self.side} pixels{grown}"

    def _measured(self) -> Iterator[str]:
        probe, rate = self.probe, self.images_per_s
        if probe is None or rate is None:
            yield "time: not known, no steps were probed"
            return
        warm = f" after {probe.warmup} that were not timed" if probe.warmup else ""
        of = f"{probe.device}, {probe.processes} processes" if probe.processes > 1 else probe.device
        spread = f"{min(probe.seconds):.3g} to {max(probe.seconds):.3g}"
        error = "" if probe.error is None else f" +- {probe.error:.2g} (standard error)"
        yield (
            f"measured on {of}: {len(probe.seconds)} steps{warm}, {probe.seconds_per_step:.3g} s a step{error}, "
            f"{spread}; {rate:,.4g} images/s, {_si(rate * self.network.training / self.scale)}FLOP/s"
        )
        yield f"the steps waited for their images {probe.waited:.0%} of the time"
        kind = "reserved on the GPU" if probe.device.startswith("cuda") else "growth of the process"
        yield f"measured memory: {bytes_in_words(probe.memory)} ({kind})"

    def _estimated(self) -> Iterator[str]:
        seconds = self.seconds(self.work)
        rests = "" if self.probe is None else f"estimate, from {len(self.probe.seconds)} steps on this device"
        if rests and self.scale < 1:
            rests += " with the largest images, and in proportion to operations"
        if seconds is not None:
            yield f"time of training: {_time(seconds)} ({rests}; without evaluation and checkpoints)"
        if not self.ladder:
            return
        amount, unit = self.budget
        yield f"the ladder, each fraction for {amount:g} {unit}:"
        for work in self.ladder:
            yield f"- {work.images:,} images: {_line(work, self.seconds(work))}"
        steps, seen = sum(work.steps for work in self.ladder), sum(work.images_seen for work in self.ladder)
        whole = Work(0, steps, seen)
        total = None if self.probe is None else sum(self.seconds(work) or 0.0 for work in self.ladder)
        yield f"- in sum: {_line(whole, total)}" + (f" ({rests})" if rests else "")


def _sum(rungs: list[dict[str, float | None]]) -> dict[str, float | None]:
    names = ("steps", "images_seen", "operations", "seconds")
    known = {name: [rung[name] for rung in rungs] for name in names}
    return {name: None if None in values else sum(v for v in values if v is not None) for name, values in known.items()}


def _line(work: Work, seconds: float | None) -> str:
    said = f"{work.steps:,} steps, {work.images_seen:,} images seen"
    return said if seconds is None else f"{said}, {_time(seconds)}"


def _si(count: float) -> str:
    """Four significant digits and a prefix of thousands."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if count < 999.95:
            return f"{count:.4g} {prefix}"
        count /= 1000
    return f"{count:,.4g} E"


def _time(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.3g} {name}"
    return f"{seconds:,.3g} s"
