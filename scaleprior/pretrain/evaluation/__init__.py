"""What a network has learnt: held-out images, probes."""
