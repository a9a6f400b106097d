"""``PRETRAIN.STEP.MODE compile``: the network as ``torch.compile`` makes it, kept between runs.

Compiled is the forward pass up to what the head reads, and its backward pass. The loss stays as it is written: its
tensors are as long as a batch has labels, so it would be compiled anew again and again, and its kernels are few.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scaleprior.errors import FailureError
from scaleprior.home import home_folder

if TYPE_CHECKING:
    from scaleprior.pretrain.network.pretrainer import Pretrainer

__all__ = ["compile_errors", "compiled"]

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def compiled(net: nn.Module, model: Pretrainer, *, backend: Any = "inductor") -> nn.Module:
    """``net`` compiled when it is first called: for each shape of images once, in a minute or so on a GPU.

    What was compiled is kept in ``compiled`` under ScalePrior's home unless ``TORCHINDUCTOR_CACHE_DIR`` says where, and
    a later run takes it from there.

    Args:
        net: ``model``, or what spreads it over processes; the compiled module has its parameters.
        backend: of torch.compile, a name or a function.
    """
    said = os.environ.get(_CACHE)
    # torch sets it, too, once it is imported in full: to a folder of that name, which a restart of the machine empties.
    if said is None or said.startswith(os.path.join(tempfile.gettempdir(), "torchinductor_")):
        os.environ[_CACHE] = str(home_folder().absolute() / "compiled")
    kept: Any = torch.compiler.disable(type(model.head).loss)
    model.head.loss = MethodType(kept, model.head)  # a copy of the model gets a method of its own head
    options: dict[str, Any] = {"fx_graph_cache": True} if backend == "inductor" else {}
    made: Any = torch.compile(net, dynamic=False, backend=backend, options=options or None)
    return made


@contextlib.contextmanager
def compile_errors(mode: str) -> Iterator[None]:
    """Around a step of a network that is compiled when it is first called.

    Raises:
        FailureError: torch could not compile it, for want of a C++ compiler or of Triton, say.
    """
    try:
        yield
    except Exception as e:
        if not type(e).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        said = " ".join(str(e).removeprefix("backend='inductor' raised:").split())[:200]
        raise FailureError(
            f"torch.compile cannot make the network's kernels here: {said}",
            hint=f"PRETRAIN.STEP.MODE {mode.removeprefix('compile').removeprefix('_') or 'eager'} does without",
        ) from e
