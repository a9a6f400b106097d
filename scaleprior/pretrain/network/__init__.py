"""Trunk and head as pretraining learns them."""
