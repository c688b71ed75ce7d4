"""Random draws that depend on nothing but their arguments: the same in any process, order and number of workers."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: the increment of SplitMix64


def mix64(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every bit of the input changes half the bits of the output.

    values: uint64 of any shape; returns as many.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def uniform(seed: int, epoch: int, indices: np.ndarray, count: int, first: int = 0) -> np.ndarray:
    """Draws in [0, 1): float64 (N, count), a row for each index; each a function of (seed, epoch, index, number) alone.

    first: the number of the first draw. SplitMix64 as a counter-based generator.
    """
    key = np.array([seed % 2**64], np.uint64)
    for part in (np.array([epoch]), np.asarray(indices)):
        key = mix64(key + GOLDEN) + part.astype(np.uint64) * GOLDEN
    numbers = np.arange(first + 1, first + count + 1, dtype=np.uint64) * GOLDEN
    return (mix64(mix64(key + GOLDEN)[:, None] + numbers) >> np.uint64(11)) * 2.0**-53
