"""Which images, labels and crops a step learns from, and how they reach the device."""
