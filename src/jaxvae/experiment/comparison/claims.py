"""The lecture's claims, their measures, and the table that says whether they were shown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvae.experiment.intervals import Interval

COLUMNS = VAE_, AE, GAUSSIAN, DATA = "VAE", "autoencoder", "autoencoder + Gaussian", "training examples"


class Measure(NamedTuple):
    """A row of the table."""

    claim: str  # the lecture's word
    what: str
    unit: str
    lower: bool  # whether the claim is that the VAE's value is lower
    rival: str  # the column with which the VAE is compared


MEASURES = {
    "codes_apart": Measure(
        "memorization", "code distance between an image and its one-pixel shift", "share of the spread", True, AE
    ),
    "images_apart": Measure(
        "memorization", "decoded-image distance between a code and a nearby point", "share of the spread", True, AE
    ),
    "fastest": Measure("continuity", "peak speed of the decoded image on a path", "times the uniform speed", True, AE),
    "detour": Measure("continuity", "path length of the decoded image", "times the shortest", True, AE),
    "coverage": Measure("completeness", "held-out images with a draw nearby (decoded means)", "share", False, GAUSSIAN),
    "coverage_draws": Measure(
        "completeness", "held-out images with a draw nearby (sampled pixels)", "share", False, GAUSSIAN
    ),
    "density_draws": Measure(
        "completeness",
        "density of held-out images at the draws (sampled pixels)",
        "neighbourhoods per draw, over 5",
        False,
        GAUSSIAN,
    ),
}


Values = Mapping[str, Mapping[str, float]]  # measure, column


def table(per_seed: Sequence[Values]) -> dict[str, dict[str, Interval]]:
    """{measure: {column: interval}} from the values of each seed."""
    return {
        name: {c: Interval.of([values[name][c] for values in per_seed]) for c in COLUMNS if c in per_seed[0][name]}
        for name in MEASURES
    }


def verdict(name: str, row: Mapping[str, Interval]) -> str:
    """Whether the VAE's interval lies wholly on the side that the lecture claims."""
    measure = MEASURES[name]
    vae, rival = row[VAE_], row[measure.rival]
    if not np.isfinite([*vae, *rival]).all():
        return "not measurable"
    if abs(vae.mean - rival.mean) <= vae.half + rival.half:
        return "no: the intervals overlap"
    return "yes" if (vae.mean < rival.mean) == measure.lower else "no: the other way round"


def markdown(rows: Mapping[str, Mapping[str, Interval]]) -> str:
    lines = [
        "| claim | measure | unit | " + " | ".join(COLUMNS) + " | shown? |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    for name, row in rows.items():
        m = MEASURES[name]
        cells = [str(row[c]) if c in row else "" for c in COLUMNS]
        sign = "lower" if m.lower else "higher"
        lines.append(
            f"| {m.claim} | {m.what} | {m.unit} | " + " | ".join(cells) + f" | VAE {sign}: {verdict(name, row)} |"
        )
    return "\n".join(lines)


def as_json(rows: Mapping[str, Mapping[str, Interval]], per_seed: Sequence[Values]) -> dict[str, Any]:
    return {
        name: {
            "claim": MEASURES[name].claim,
            "unit": MEASURES[name].unit,
            "shown": verdict(name, row),
            "columns": {
                column: {
                    "mean": _finite(interval.mean),
                    "interval95": _finite(interval.half),
                    "seeds": [_finite(values[name][column]) for values in per_seed],
                }
                for column, interval in row.items()
            },
        }
        for name, row in rows.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
