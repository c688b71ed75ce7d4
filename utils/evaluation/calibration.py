"""Whether confidence means what it says: of readings with a confidence of 0.8, are 80 % right?

Guo et al., On Calibration of Modern Neural Networks, ICML 2017: reliability by bins and the expected calibration error
(section 2), and one number, fitted on validation, that makes confidences fit (section 4.2 scales logits by it; here it
is an exponent of the probability of a whole reading, which is what an application asks about).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 10
EXPONENTS = np.geomspace(0.1, 10, 401)
LEAST = 1e-12  # of a probability


def calibration(confidences: Sequence[float], is_right: Sequence[bool], exponent: float = 1.0) -> dict[str, Any]:
    """How confidences and shares of right readings fit, in percent.

    confidences: probability of each whole reading, as the network has it.   exponent: that is applied to them before
    they are compared.
    Returns `mean_confidence` and `right` of all; `error`: the expected calibration error; `exponent`, as given;
    `fitted_exponent`: of all, the one under which these readings are likeliest to be right and wrong as they are;
    `bins`: those of ten equal ranges that hold items, with `items`, `confidence` and `right`.
    """
    raw, right = np.clip(np.asarray(confidences, float), LEAST, 1 - LEAST), np.asarray(is_right, float)
    found = raw**exponent
    of_bin = np.minimum((found * BINS).astype(int), BINS - 1)
    bins = []
    for index in np.unique(of_bin):
        own = of_bin == index
        bins.append({"from": index / BINS, "to": (index + 1) / BINS, "items": int(own.sum()),
                     "confidence": _percent(found[own]), "right": _percent(right[own])})  # fmt: skip
    return {
        "mean_confidence": _percent(found),
        "right": _percent(right),
        "error": sum(one["items"] * abs(one["confidence"] - one["right"]) for one in bins) / len(right),
        "exponent": exponent,
        "fitted_exponent": fit_exponent(raw, right),
        "bins": bins,
    }


def fit_exponent(confidences: np.ndarray, is_right: np.ndarray) -> float:
    """The exponent that makes confidences, (n,), likeliest, given which of the readings are right, (n,)."""
    scaled = np.clip(confidences ** EXPONENTS[:, None], LEAST, 1 - LEAST)
    likelihood = (is_right * np.log(scaled) + (1 - is_right) * np.log1p(-scaled)).sum(1)
    return round(float(EXPONENTS[likelihood.argmax()]), 2)


def _percent(values: np.ndarray) -> float:
    return round(100 * float(values.mean()), 2)
