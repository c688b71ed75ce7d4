"""Confidence beside what was right: bins and error by hand, and the exponent that makes overconfidence fit."""

import numpy as np
import pytest

from tests.test_reader import reader, written
from utils.evaluation.calibration import calibration
from utils.evaluation.scores import Prediction, probability


def test_bins_and_error_by_hand():
    found = calibration([0.9, 0.95, 0.2, 0.25], [True, False, False, False])
    assert [(one["from"], one["items"], one["confidence"], one["right"]) for one in found["bins"]] == [
        (0.2, 2, 22.5, 0.0), (0.9, 2, 92.5, 50.0)
    ]  # fmt: skip
    assert found["error"] == pytest.approx((22.5 + 42.5) / 2)
    assert (found["mean_confidence"], found["right"]) == (57.5, 25.0)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.5])
def test_the_fitted_exponent_makes_confidences_fit(exponent):
    random = np.random.default_rng(0)
    confidences = random.uniform(0.01, 1, 20_000)
    is_right = random.uniform(size=20_000) < confidences**exponent
    found = calibration(confidences, is_right)
    assert found["fitted_exponent"] == pytest.approx(exponent, rel=0.05)
    fitted = calibration(confidences, is_right, found["fitted_exponent"])
    assert fitted["error"] < 1.5 and (exponent == 1 or fitted["error"] < found["error"] / 5)


def test_certainty_and_impossibility_are_no_infinity():
    found = calibration([0.0, 1.0], [True, False])
    assert np.isfinite(found["fitted_exponent"]) and found["error"] == pytest.approx(100)


def test_the_probability_of_a_reading_counts_its_end():
    assert probability(Prediction(["a", "b"], score=np.log(0.5))) == pytest.approx(0.125)
    assert probability(Prediction(["a", "b"], score=np.log(0.5), is_truncated=True)) == pytest.approx(0.25)


def test_a_reader_raises_confidence_to_the_power_that_its_weights_name():
    plain, fitted = (reader("gru", **data).read(written()) for data in ({}, {"confidence_exponent": 2.0}))
    assert fitted.confidence == pytest.approx(plain.confidence**2) and fitted.confidences == plain.confidences
