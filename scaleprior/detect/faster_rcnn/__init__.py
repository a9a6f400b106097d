"""The embedded torchvision engine: Faster R-CNN, C4 or FPN, assembled from a Detectron2-style config."""
