"""ScalePrior: what more pretraining data is worth to a detector, and how to get that worth into Detectron2."""

__version__ = "0.1.0"
__all__ = ["__version__"]
