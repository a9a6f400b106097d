"""Data sets and images as Detectron2 takes them, and a training loader with a position."""
