# SPDX-License-Identifier: MulanPSL-2.0
"""How a cost grows along a curve: a fit by least squares, in words.

What is fitted is y = a + b·lg x (a constant is b = 0), y = a + b·x for message
sizes, where bytes have to be copied, and the exponent of a power, y ~ x^p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]

#: A cost that changes by less than this share with each tenfold is called constant.
CONSTANT = 0.10
#: A power below this is told from a logarithm by neither the eye nor the samples.
SMALL_POWER = 0.25


@dataclass(frozen=True)
class Line:
    """y = a + b·x, and how much of the samples' variance it explains."""

    a: float
    b: float
    r2: float


def line(points: Points, weights: Sequence[float] | None = None) -> Line:
    """Least squares; without weights every point counts the same."""
    used = weights if weights is not None else [1.0] * len(points)
    total = sum(used)
    mean_x = sum(w * x for w, (x, _) in zip(used, points)) / total
    mean_y = sum(w * y for w, (_, y) in zip(used, points)) / total
    xx = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(used, points))
    xy = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(used, points))
    b = xy / xx if xx > 0 else 0.0
    a = mean_y - b * mean_x
    rest = sum(w * (y - a - b * x) ** 2 for w, (x, y) in zip(used, points))
    spread = sum(w * (y - mean_y) ** 2 for w, (_, y) in zip(used, points))
    return Line(a, b, 1 - rest / spread if spread > 0 else 1.0)


def over_counts(points: Points) -> tuple[str, str]:
    """For a curve over a number of things: the class of its growth, and the fit."""
    logarithm = line([(math.log10(x), y) for x, y in points])
    power = line([(math.log10(x), math.log10(y)) for x, y in points]).b
    middle = sum(y for _, y in points) / len(points)
    fit = (f"{logarithm.a:.3g} {logarithm.b:+.3g}·lg x (R² {logarithm.r2:.2f}), "
           f"x^{power:.2f}")
    if logarithm.b <= 0 or logarithm.b / middle <= CONSTANT:
        kind = "constant" if logarithm.b >= -CONSTANT * middle else "falling"
    elif power <= SMALL_POWER:
        kind = "logarithmic"
    else:
        kind = f"power {power:.2f}"
    return kind, fit


def over_bytes(points: Points) -> tuple[str, str]:
    """For a curve over message sizes: what a message costs, and what each KiB more does."""
    # Relative errors count: a large message would else decide alone.
    fitted = line([(x / 1024, y) for x, y in points], [1 / y ** 2 for _, y in points])
    power = line([(math.log10(x), math.log10(y)) for x, y in points[-3:]]).b
    return ("linear" if power <= 1.1 else f"power {power:.2f}",
            f"{fitted.a:.3g} + {fitted.b:.3g} for each KiB, x^{power:.2f} at the end")
