"""How often the sentences about laws are right: the verdict on the log-linear law, and what settles a comparison.

    python benchmarks/laws_words.py            # four minutes on one core
    python benchmarks/laws_words.py --draws 100

Simulated ladders from 32 to 2,048 images that gain 10 AP, with Gaussian noise: a straight truth, and one whose gain
decays exponentially, 2/3 of it in the first half of the ladder. How often is each contradicted, and how often are bent
truths said to be found out? Then learning curves of 200 sizes, straight, whose noise is correlated from point to point.

Last, pairs of ladders with noise of 0.75 AP whose laws are compared: how many are settled, of how many it is said that
more runs would settle them, and how many are left open, where both share one truth and where one gains more.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit
from scaleprior.laws import compare_laws, fit_law
from scaleprior.laws.observations import observe
from scaleprior.laws.straightness import Straightness, straightness

DESIGNS = (
    (3, 2, 0.75),
    (4, 1, 0.3),
    (4, 1, 0.75),
    (4, 2, 0.75),
    (4, 3, 0.75),
    (4, 3, 1.5),
    (6, 3, 0.75),
    (12, 1, 0.75),
)
"""Sizes, seeds, noise in AP."""
CORRELATIONS = (0.0, 0.5, 0.8, 0.9)
PAIRS = ((3, 2, 0.0), (3, 2, 1.2), (4, 3, 0.0), (4, 3, 1.2))
"""Sizes, seeds, by how much the first gains more per factor of ten; the second gains 4 AP."""
LOW, HIGH, GAIN = 32.0, 2048.0, 10.0


def judged(sizes: int, seeds: int, noise: float, *, bent: bool, rng: np.random.Generator) -> Straightness:
    """The verdict on one simulated ladder."""
    along = np.repeat(np.linspace(0.0, 1.0, sizes), seeds)
    curve = (1.0 - 4.0**-along) / 0.75 if bent else along
    ap = 20.0 + GAIN * curve + noise * rng.normal(size=along.size)
    images = LOW * (HIGH / LOW) ** along
    return straightness(observe(images, ap, unit="percent", groups=list(range(seeds)) * sizes))


def design(sizes: int, seeds: int, noise: float, draws: int) -> dict[str, float]:
    """Shares of straight and bent truths that are contradicted, and quartiles of the power that is said of the bent."""
    rng = np.random.default_rng([sizes, seeds, round(100 * noise)])
    straight = [judged(sizes, seeds, noise, bent=False, rng=rng).contradicted for _ in range(draws)]
    bent = [judged(sizes, seeds, noise, bent=True, rng=rng) for _ in range(draws)]
    low, middle, high = (float(q) for q in np.quantile([b.power for b in bent], (0.25, 0.5, 0.75)))
    return {
        "sizes": sizes, "seeds": seeds, "noise": noise, "straight": float(np.mean(straight)),
        "bent": float(np.mean([b.contradicted for b in bent])), "said": middle, "said_low": low, "said_high": high,
    }  # fmt: skip


def learning_curves(correlation: float, draws: int) -> float:
    """Share of straight learning curves of 200 sizes that are contradicted."""
    rng = np.random.default_rng([200, round(100 * correlation)])
    images = np.geomspace(1e3, 1e6, 200)
    told = 0
    for _ in range(draws):
        noise = rng.normal(size=images.size)
        for i in range(1, noise.size):
            noise[i] = correlation * noise[i - 1] + np.sqrt(1.0 - correlation**2) * noise[i]
        told += straightness(observe(images, 20.0 + np.log10(images) + noise, unit="percent")).contradicted
    return told / draws


def comparisons(sizes: int, seeds: int, more: float, draws: int) -> dict[str, float]:
    """Shares of pairs that are settled, that name runs, and that are left open."""
    rng = np.random.default_rng([sizes, seeds, round(100 * more)])
    images = np.repeat(np.geomspace(LOW, HIGH, sizes), seeds)
    counts = {"settled": 0, "named": 0, "open": 0}
    for _ in range(draws):
        laws = []
        for per_decade in (4.0 + more, 4.0):
            ap = 10.0 + per_decade * np.log10(images / LOW) + 0.75 * rng.normal(size=images.size)
            laws.append(fit_law(images, ap, unit="percent", groups=list(range(seeds)) * sizes))
        found = compare_laws(*laws)
        if found.visible is None:
            counts["settled"] += 1
        else:
            counts["open" if found.more_seeds is found.more_rungs is None else "named"] += 1
    shares = {what: count / draws for what, count in counts.items()}
    return {"sizes": sizes, "seeds": seeds, "more": more, **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="simulated ladders of each kind")
    draws = parser.parse_args().draws
    print(
        "| sizes x seeds | noise | straight, contradicted | bent, contradicted | said to be (quartiles) |\n|"
        + " --- |" * 5
    )
    rows = [design(*of, draws) for of in DESIGNS]
    for row in rows:
        said = "{said:.2f} ({said_low:.2f} to {said_high:.2f})".format(**row)
        print("| {sizes} x {seeds} | {noise:g} AP | {straight:.3f} | {bent:.2f} |".format(**row), said, "|")
    curves = {f"{c:g}": learning_curves(c, draws) for c in CORRELATIONS}
    print("learning curves, contradicted by correlation: " + ", ".join(f"{c}: {v:.3f}" for c, v in curves.items()))
    print("| sizes x seeds | gains more by | settled | runs named | open |\n|" + " --- |" * 5)
    pairs = [comparisons(*of, max(draws // 4, 1)) for of in PAIRS]
    for row in pairs:
        print("| {sizes} x {seeds} | {more:g} AP | {settled:.3f} | {named:.3f} | {open:.3f} |".format(**row))
    print(
        json.dumps(
            {"bench": "laws_words", "straightness": rows, "learning_curves": curves, "pairs": pairs, "commit": commit()}
        )
    )


if __name__ == "__main__":
    main()
