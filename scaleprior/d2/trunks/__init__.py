"""Trunks of timm as Detectron2's backbones."""
