"""How a step is calculated."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import PRETRAIN, PRETRAINING, Key
from scaleprior.config.keys.legal import one_of

__all__ = ["KEYS"]

_key = partial(Key, engines=(PRETRAINING,), changes=(PRETRAIN,), since=2)

KEYS = (
    _key(
        "PRETRAIN.STEP.MODE", "eager",
        "How a step's kernels come about. eager = one after the other as the code asks for them; compile = by "
        "torch.compile, which takes a minute or so for each size of images, once: what was compiled is kept for later "
        "runs; graph = recorded as a CUDA graph and started as one, for images so small that a GPU waits for its host "
        "(one process, not with lamb); compile_graph = both. Changes speed, and with compile results in the last bits.",
        legal=one_of("eager", "compile", "graph", "compile_graph"),
    ),
    _key(
        "PRETRAIN.STEP.TF32", False,
        "On a GPU, products and convolutions of float32 may round their factors to 10 bits of mantissa (TF32). What "
        "AMP calculates in bfloat16 is not touched.",
    ),
    _key(
        "PRETRAIN.STEP.CUDNN_BENCHMARK", True,
        "On a GPU, cuDNN tries its algorithms on the first batch and takes the fastest. Which one wins may differ "
        "between runs, and results in the last bits.",
    ),
    _key(
        "PRETRAIN.STEP.DETERMINISTIC", False,
        "On a GPU, equal runs give equal bits: torch takes deterministic algorithms only and CUDNN_BENCHMARK is off, "
        "which costs speed. cuBLAS needs CUBLAS_WORKSPACE_CONFIG=:4096:8, which the command sets; a Python process "
        "that has used the GPU already must have started with it.",
    ),
)  # fmt: skip
