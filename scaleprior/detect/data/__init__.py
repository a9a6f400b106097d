"""COCO-format detection sets: files, names, images, and batches of them."""
