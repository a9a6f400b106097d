"""Renderer of the synthetic world: images per second and core at 64 pixels, against decoding the same images.

    python benchmarks/corpus_world.py

Peer: simplejpeg (libjpeg-turbo) decoding the rendered images from memory, that is what a loader would spend on them
if they were read from shards instead of drawn. Single thread, CPU time of this process.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2
import simplejpeg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit
from scaleprior.corpus import World

IMAGES = 3000
TARGET = 2000.0  # images per second and core at 64 pixels (DESIGN, corpus)


def main() -> None:
    cv2.setNumThreads(1)
    world = World(seed=0)
    world.render("warm-up", 0, 64)
    rows = []
    for size in (32, 48, 64, 128):
        start = time.process_time()
        images = [world.render("bench", number, size)[0] for number in range(IMAGES if size < 128 else IMAGES // 3)]
        render = len(images) / (time.process_time() - start)
        encoded = [simplejpeg.encode_jpeg(image, quality=92, colorsubsampling="444") for image in images]
        start = time.process_time()
        for data in encoded:
            simplejpeg.decode_jpeg(data)
        rows.append((size, render, len(images) / (time.process_time() - start)))
    print(f"{'size':>5} {'rendered/s':>11} {'decoded/s':>10} {'ratio':>6}")
    for size, render, decode in rows:
        print(f"{size:5d} {render:11.0f} {decode:10.0f} {render / decode:6.2f}")
    figures = {f"render_{size}px_per_s_core": round(render, 1) for size, render, _ in rows}
    figures.update({f"render_over_decode_{size}px": round(render / decode, 3) for size, render, decode in rows})
    met = figures["render_64px_per_s_core"] >= TARGET
    targets = {"render_64px_per_s_core": TARGET}
    print(json.dumps({"bench": "corpus_world", "figures": figures, "targets": targets, "met": met, "commit": commit()}))


if __name__ == "__main__":
    main()
