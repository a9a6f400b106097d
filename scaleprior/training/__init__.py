"""How a run lives: device, processes, signals, checkpoints and seeds, for pretraining and detection alike."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Interrupted": "signals",
        "ProcessGroup": "processes",
        "StopRequest": "signals",
        "catch_sigterm": "signals",
        "join_processes": "processes",
        "launch": "launch",
        "load_checkpoint": "checkpoint",
        "remove_checkpoint": "checkpoint",
        "resolve_device": "device",
        "save_checkpoint": "checkpoint",
        "seed_everything": "seeds",
    },
)
