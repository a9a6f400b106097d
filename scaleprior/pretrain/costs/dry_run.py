"""``scaleprior.pretrain.dry_run(...)``: what a pretraining run, or a ladder of them, will cost; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.config.sources import ConfigSource, open_config
from scaleprior.errors import UserError
from scaleprior.pretrain.call import check_first, corpus_keys
from scaleprior.progress import ProgressFn, watched
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fvcore.common.config import CfgNode

    from scaleprior.backbones.trunks.family import TrunkSpec
    from scaleprior.config import LoadedConfig
    from scaleprior.corpus import Corpus, Fraction
    from scaleprior.pretrain.costs.arithmetic import NetworkCost
    from scaleprior.pretrain.costs.estimate import RunCost
    from scaleprior.pretrain.costs.probe import Probe
    from scaleprior.pretrain.loop.trainer import PretrainTrainer
    from scaleprior.training.checkpoints import Checkpoints
    from scaleprior.training.run_folder import RunFolder

__all__ = ["dry_run"]


def dry_run(
    config: ConfigSource,
    out: str | Path | None = None,
    *,
    corpus: str | Path | Corpus | Fraction | None = None,
    images: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    ladder: Sequence[int] = (),
    probe_steps: int = 20,
    check: bool = True,
    progress: ProgressFn | bool = False,
) -> RunCost:
    """Work out what :func:`scaleprior.pretrain` would cost with the same arguments; ``out`` is not touched.

    ::

        cost = sp.pretrain.dry_run("Pretrain/R_50_jft.yaml", corpus="my_index", ladder=[1_000, 10_000, 100_000])
        print("\\n".join(cost.sentences()))

    A probe takes real steps, on the data and the device of the run, with weights that are thrown away; the program's
    random generators are as before afterwards. Under torchrun every process calls this with the same arguments.

    Args:
        config, out, corpus, images, overrides, check: as of ``scaleprior.pretrain``; what it refuses is refused.
        ladder: images of further fractions, for the cost of a run on each of them.
        probe_steps: steps to time, after a few that are not; 0 = take none, and tell no time.
        progress: True for a bar on the terminal; or a function that is called once a step of the probe.

    Raises:
        UserError: what a run would refuse; a fraction of the ladder that the corpus does not have.
        FailureError: what stops the first steps.
    """
    from scaleprior.pretrain.loop.calculating import calculating
    from scaleprior.training.processes import place_in_group

    if type(probe_steps) is not int or probe_steps < 0:
        raise UserError(f"{parameter('probe_steps')} is {probe_steps!r}", hint="give a whole number, 0 for no probe")
    if not all(type(each) is int and each >= 1 for each in ladder):
        raise UserError(f"{parameter('ladder')} is {list(ladder)!r}", hint="give numbers of images, each at least 1")
    loaded = open_config(open_config(config, overrides), corpus_keys(corpus, images))
    folder = Path(out or loaded.cfg.OUTPUT_DIR)
    count = place_in_group()[1]
    with calculating(loaded.cfg):  # before the check, which asks a GPU for its memory
        if check:
            check_first(loaded, folder, progress)
        with watched(progress, "probing") as report:
            return _cost(loaded, count, sorted(set(ladder)), probe_steps, report)


def _cost(
    loaded: LoadedConfig, processes: int, ladder: Sequence[int], steps: int, progress: ProgressFn | None
) -> RunCost:
    from scaleprior.config.batch import settled
    from scaleprior.corpus import Corpus
    from scaleprior.pretrain.check import pretraining_needs
    from scaleprior.pretrain.costs.estimate import RunCost
    from scaleprior.pretrain.costs.work import ladder_work, pretraining_work
    from scaleprior.pretrain.data.batches import held_out_rows
    from scaleprior.pretrain.plan import check_pretraining

    spec = check_pretraining(loaded.cfg, processes=processes).arch
    cfg = settled(loaded.cfg, processes)
    corpus = Corpus.open(cfg.PRETRAIN.CORPUS)
    held_out_rows(cfg, corpus)
    labels = len(corpus.label_space)
    network, scale = _network(cfg, spec, labels)
    return RunCost(
        trunk=spec.name,
        labels=labels,
        side=cfg.PRETRAIN.INPUT.SIZE,
        batch_size=cfg.PRETRAIN.BATCH_SIZE,
        budget=(cfg.PRETRAIN.BUDGET.AMOUNT, cfg.PRETRAIN.BUDGET.UNIT),
        network=network,
        scale=scale,
        work=pretraining_work(cfg, len(corpus)),
        needs=pretraining_needs(cfg, labels, processes=processes),
        ladder=tuple(ladder_work(cfg, len(corpus), ladder)),
        probe=_probe(cfg, spec, corpus, steps, progress) if steps else None,
    )


def _network(cfg: CfgNode, spec: TrunkSpec, labels: int) -> tuple[NetworkCost, float]:
    """The network's cost with the images of the whole run, and that in units of its cost with those of SIZE."""
    import torch

    from scaleprior.pretrain.costs.arithmetic import network_cost
    from scaleprior.pretrain.data.sizes import size_pairs
    from scaleprior.pretrain.loop.building import build_model

    with torch.device("meta"):
        model = build_model(cfg, spec, labels, bias=0.0)
    if cfg.PRETRAIN.FREEZE == "trunk":
        model.freeze_trunk()
    sides, begun = list[tuple[float, int]](), 0.0
    for share, side in (*size_pairs(cfg), (1.0, cfg.PRETRAIN.INPUT.SIZE)):
        sides.append((share - begun, side))
        begun = share
    cost = network_cost(model, sides)
    return cost, cost.training / network_cost(model, [(1.0, sides[-1][1])]).training if len(sides) > 1 else 1.0


def _probe(cfg: CfgNode, spec: TrunkSpec, corpus: Corpus, steps: int, progress: ProgressFn | None) -> Probe:
    from scaleprior.pretrain.costs.probe import probe_steps
    from scaleprior.pretrain.data.batches import training_set
    from scaleprior.pretrain.loop.building import build_trainer, training_device
    from scaleprior.pretrain.loop.memory import memory_errors_elsewhere
    from scaleprior.pretrain.plan import check_mode, parent_card
    from scaleprior.training.processes import join_processes

    images, parent = training_set(cfg, corpus), parent_card(cfg)
    with memory_errors_elsewhere(), join_processes(training_device(cfg)) as processes:
        check_mode(cfg, processes.device.type, joined=processes.joined)

        def build(folder: RunFolder, checkpoints: Checkpoints) -> PretrainTrainer:
            trainer = build_trainer(cfg, spec, images, processes, folder, checkpoints, parent)
            trainer.dataset.sizes = None  # the largest images, and so the most memory, come last in a run
            return trainer

        return probe_steps(build, steps, device=processes.device, progress=progress)
