"""A backbone with a card, or a detector, meets a model: found in it, held against it, filled into it."""
