"""How we learn: the multi-label loss, the loader, the trainer, its checkpoints, and evaluation on held-out images."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Interrupted": "runtime",
        "PretrainResult": "run",
        "Schedule": "schedule",
        "average_precision": "evaluation",
        "catch_sigterm": "runtime",
        "evaluate_pretrained": "run",
        "load_checkpoint": "checkpoint",
        "pretrain": "run",
        "remove_checkpoint": "checkpoint",
        "resolve_device": "runtime",
        "save_checkpoint": "checkpoint",
        "seed_everything": "runtime",
        "sparse_logistic_loss": "loss",
    },
)
