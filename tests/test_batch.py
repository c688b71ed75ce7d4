"""Batches: what is padded, what is counted, what comes apart again."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataset.batch import Item, collate, stack


def item(index: int, height: int, width: int, length: int, is_pair: bool = False) -> Item:
    ink = np.full((height, width), index + 1, np.uint8)
    standard = np.full((width, height), index + 1, np.uint8) if is_pair else None
    return Item(index, f"picture {index}", np.arange(3, 3 + length, dtype=np.int32), ink, standard)


sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=6)


@given(sizes)
def test_every_pixel_is_in_its_place_and_the_rest_is_padding(sizes):
    batch = collate([item(i, *size) for i, size in enumerate(sizes)])
    for i, (height, width, length) in enumerate(sizes):
        assert (batch.ink[i, 0, :height, :width] == i + 1).all()
        assert batch.ink[i].sum(dtype=torch.int64) == (i + 1) * height * width
        assert (~batch.ink_padding[i]).sum() == height * width
        assert batch.truths()[i] == list(range(3, 3 + length))
    assert batch.pixels == sum(height * width for height, width, _ in sizes)
    assert batch.padded_pixels == batch.ink.numel()
    assert batch.standard is None


@given(sizes.filter(lambda sizes: len(sizes) > 1), st.booleans())
def test_a_split_batch_holds_the_same_pictures(sizes, is_pair):
    items = [item(i, *size, is_pair) for i, size in enumerate(sizes)]
    middle = len(items) // 2
    for half, expected in zip(collate(items).split(), (items[:middle], items[middle:]), strict=True):
        wanted = collate(expected)
        assert half.names == wanted.names
        assert half.indices == wanted.indices
        assert (half.pixels, half.padded_pixels) == (wanted.pixels, wanted.padded_pixels)
        for name in ("labels", "lengths", "ink", "ink_padding", "standard", "standard_padding"):
            one, other = getattr(half, name), getattr(wanted, name)
            assert (one is None and other is None) or torch.equal(one, other), name


def test_images_are_numbers_between_paper_0_and_ink_1():
    images, padding = stack([np.array([[255, 0]], np.uint8), np.array([[255], [0]], np.uint8)])
    assert images.shape == (2, 1, 2, 2)
    batch = collate([Item(0, "a", np.array([3]), np.array([[255, 0]], np.uint8), None)])
    assert batch.images("handwritten").tolist() == [[[[1.0, 0.0]]]]
    assert padding.tolist() == [[[False, False], [True, True]], [[False, True], [False, True]]]
