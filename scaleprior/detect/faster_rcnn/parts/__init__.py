"""The parts of the detector, from the feature maps to the boxes."""
