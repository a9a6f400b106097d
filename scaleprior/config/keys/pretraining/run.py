"""Of a pretraining run as a whole: batch, arithmetic, checkpoints, figures."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import PRETRAIN, PRETRAINING, Key
from scaleprior.config.keys.legal import Number, at_least, one_of

__all__ = ["KEYS"]

_key = partial(Key, engines=(PRETRAINING,), changes=(PRETRAIN,))
_neutral = partial(Key, engines=(PRETRAINING,), changes=())

KEYS = (
    _key("PRETRAIN.RECIPE", "custom", "Name of the recipe, written into the card; free text."),
    _key(
        "PRETRAIN.BATCH_SIZE", 64,
        "Images a step, over all processes together. Set over a file with BATCH_PER_PROCESS, it takes its place.",
        legal=at_least(1), replaces=("PRETRAIN.BATCH_PER_PROCESS",),
    ),
    _key(
        "PRETRAIN.BATCH_PER_PROCESS", 0,
        "Images a step on each process: BATCH_SIZE becomes this times the number of processes. 0 = BATCH_SIZE is the "
        "whole batch. It is settled before a run begins, as REFERENCE_BATCH is: files and card say what ran.",
        legal=at_least(0), unit="images", since=2,
    ),
    _key(
        "PRETRAIN.REFERENCE_BATCH", 0,
        "OPTIMIZER.BASE_LR holds for so many images a step. For another BATCH_SIZE it is multiplied by BATCH_SIZE / "
        "REFERENCE_BATCH (sgd; Goyal et al. 2017) or by the square root of that (rmsprop, adamw, lamb; Malladi et al. "
        "2022, You et al. 2020). 0 = it is not scaled.",
        legal=at_least(0), unit="images", since=2,
    ),
    _key(
        "PRETRAIN.ACCUMULATE", 1,
        "Parts of a process' share of the batch that go through the network one after the other; their gradients are "
        "added up. Less memory, the same step; but BN's statistics are a part's.",
        legal=at_least(1), since=2,
    ),
    _key(
        "PRETRAIN.PROCESSES", "fixed",
        "With how many processes a run goes on: fixed = with as many as it began with; any = with any number, as under "
        "torchrun with NNODES 1:4. The images of each step stay the same; what changes is rounding, BN's statistics "
        "where NORM_STATISTICS is process. run.json and the card say who trained which steps.",
        legal=one_of("fixed", "any"), since=2,
    ),
    _neutral(
        "PRETRAIN.PROCESS_TIMEOUT", 30,
        "For which a process waits for another that stands still before it gives up; one that has ended is noticed at "
        "once. What one may do alone, a checkpoint on a slow disk, has to fit.",
        legal=Number(1, 1_000_000), unit="minutes", since=2,
    ),
    _key(
        "PRETRAIN.NORM_STATISTICS", "process",
        "Whose images BN's mean and variance are of: process = each process' share of the batch, and what is saved is "
        "process 0's; all = the whole batch (SyncBN), so that the number of processes changes nothing but rounding. "
        "One process is both.",
        legal=one_of("process", "all"), since=2,
    ),
    _neutral(
        "PRETRAIN.CHECKPOINT_PERIOD", 1000,
        "Between checkpoints, from which an interrupted run goes on; 1 = every step, 0 = only on SIGTERM.",
        legal=at_least(0), unit="steps",
    ),
    _neutral(
        "PRETRAIN.CHECKPOINTS", 2,
        "How many are kept, the last ones: from a damaged one a run falls back to the one before. On a full disk older "
        "ones give way.",
        legal=at_least(1), since=2,
    ),
    _neutral("PRETRAIN.METRICS_PERIOD", 20, "Between lines of metrics.jsonl.", legal=at_least(1), unit="steps"),
    _neutral(
        "PRETRAIN.TENSORBOARD", False,
        "Write the same numbers for TensorBoard, under OUT/tensorboard; needs the tensorboard package. Under "
        "Detectron2's tools its own events are written wherever tensorboard is installed, and this key has no effect.",
    ),
    _neutral(
        "PRETRAIN.WANDB", False,
        "Show the same numbers at Weights & Biases; needs the wandb package. Its own settings (WANDB_MODE, "
        "WANDB_PROJECT, ...) come first; without them the project is named after RECIPE, the run after its folder. "
        "Nothing is sent where no account is set up: the files then stay in OUT/wandb.",
        since=2,
    ),
    _key(
        "PRETRAIN.AMP", "off",
        "off = float32; bf16 = bfloat16 autocast of the trunk and head (the loss stays in float32; GPUs only).",
        legal=one_of("off", "bf16"),
    ),
    _key(
        "PRETRAIN.CHANNELS_LAST", False,
        "Keep activations as NHWC in memory. Changes speed, and results in the last bits.",
    ),
)  # fmt: skip
