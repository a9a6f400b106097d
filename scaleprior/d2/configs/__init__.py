"""Detectron2's configs, YAML and lazy, with our keys on them and around another backbone."""
