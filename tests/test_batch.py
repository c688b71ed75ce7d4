"""Batches: what is padded, what is counted, what comes apart again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataset.loading.batch import LoadedItem, blank_batch, collate, stack


def item(index: int, height: int, width: int, length: int, is_pair: bool = False) -> LoadedItem:
    ink = np.full((height, width), index + 1, np.uint8)
    standard = np.full((width, height), index + 1, np.uint8) if is_pair else None
    boxes = np.full((length, 4), index, np.float32) if is_pair else None
    return LoadedItem(index, f"image {index}", np.arange(3, 3 + length, dtype=np.int32), ink, standard, boxes)


sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=6)


@given(sizes)
def test_every_pixel_is_in_its_place_and_the_rest_is_padding(sizes):
    batch = collate([item(i, *size) for i, size in enumerate(sizes)])
    for i, (height, width, length) in enumerate(sizes):
        assert (batch.ink[i, 0, :height, :width] == i + 1).all()
        assert batch.ink[i].sum(dtype=torch.int64) == (i + 1) * height * width
        assert (~batch.ink_padding[i]).sum() == height * width
        assert batch.references()[i] == list(range(3, 3 + length))
    assert batch.pixels == sum(height * width for height, width, _ in sizes)
    assert batch.padded_pixels == batch.ink.numel()
    assert batch.standard is None


@given(sizes, st.booleans())
def test_a_batch_is_padded_to_the_shape_that_comes_with_its_items(sizes, is_pair):
    items = [item(i, *size, is_pair) for i, size in enumerate(sizes)]
    shapes = ((12, 10), (9, 16)) if is_pair else ((12, 10),)
    batch, own = collate([replace(each, shapes=shapes) for each in items]), collate(items)
    padded = [images for images in (batch.ink, batch.standard) if images is not None]
    assert tuple(tuple(images.shape[2:]) for images in padded) == shapes
    assert batch.pixels == own.pixels and batch.padded_pixels == sum(images.numel() for images in padded)
    for name in ("ink", "standard")[: len(shapes)]:
        height, width = getattr(own, name).shape[2:]
        assert torch.equal(getattr(batch, name)[:, :, :height, :width], getattr(own, name))
        assert (~getattr(batch, f"{name}_padding")).sum() == (~getattr(own, f"{name}_padding")).sum()


@given(sizes.filter(lambda sizes: len(sizes) > 1), st.booleans())
def test_a_split_batch_holds_the_same_images(sizes, is_pair):
    items = [item(i, *size, is_pair) for i, size in enumerate(sizes)]
    middle = len(items) // 2
    for half, expected in zip(collate(items).split(), (items[:middle], items[middle:]), strict=True):
        wanted = collate(expected)
        assert half.names == wanted.names
        assert half.indices == wanted.indices
        assert (half.pixels, half.padded_pixels) == (wanted.pixels, wanted.padded_pixels)
        for name in ("labels", "lengths", "ink", "ink_padding", "standard", "standard_padding", "boxes"):
            one, other = getattr(half, name), getattr(wanted, name)
            assert (one is None and other is None) or same(one, other), name


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), equal_nan=True)


def test_boxes_stand_beside_their_tokens_and_what_has_none_is_not_a_number():
    batch = collate([item(0, 5, 5, 2, is_pair=True), item(1, 5, 5, 3, is_pair=True)])
    assert batch.boxes.shape == (*batch.labels.shape, 4) and batch.boxes.dtype == torch.float32
    assert (batch.boxes[0, :2] == 0).all() and batch.boxes[0, 2].isnan().all() and (batch.boxes[1] == 1).all()
    assert batch.to(torch.device("meta")).boxes.is_meta
    assert collate([item(0, 5, 5, 2)]).boxes is None


@pytest.mark.parametrize("kind", ["standard", "ink", "pairs"])
def test_a_blank_batch_has_all_that_a_loss_may_ask_for(kind):
    batch = blank_batch(2, 8, 16, 5, kind)
    assert (batch.ink is None, batch.standard is None) == (kind == "standard", kind == "ink")
    assert batch.boxes.shape == (2, 5, 4) and batch.boxes[0, 0].tolist() == [0, 0, 16, 8]


def test_images_are_numbers_between_paper_0_and_ink_1():
    images, padding = stack([np.array([[255, 0]], np.uint8), np.array([[255], [0]], np.uint8)])
    assert images.shape == (2, 1, 2, 2)
    batch = collate([LoadedItem(0, "a", np.array([3]), np.array([[255, 0]], np.uint8), None)])
    assert batch.images("handwritten").tolist() == [[[[1.0, 0.0]]]]
    assert padding.tolist() == [[[False, False], [True, True]], [[False, True], [False, True]]]
