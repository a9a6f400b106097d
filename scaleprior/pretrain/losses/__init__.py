"""Losses over many labels of which few are listed."""
