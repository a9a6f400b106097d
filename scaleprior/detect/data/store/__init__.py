"""Decoded images: kept in memory, and on the machine's disk for all its processes."""
