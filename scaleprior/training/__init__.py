"""How a run lives: device, processes, signals, checkpoints and seeds, for pretraining and detection alike."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.training.checkpoint import (
        load_checkpoint as load_checkpoint,
        save_checkpoint as save_checkpoint,
    )
    from scaleprior.training.device import resolve_device as resolve_device
    from scaleprior.training.launching import launch as launch
    from scaleprior.training.positions import BatchPlan as BatchPlan
    from scaleprior.training.processes import ProcessGroup as ProcessGroup, join_processes as join_processes
    from scaleprior.training.run_folder import RunFolder as RunFolder
    from scaleprior.training.seeds import seed_everything as seed_everything
    from scaleprior.training.signals import (
        Interrupted as Interrupted,
        StopRequest as StopRequest,
        catch_sigterm as catch_sigterm,
    )

lazy_exports(__name__)
