"""Reading at several scales, or with several networks, together: one label, from the mean of what all of them think."""

import argparse

import numpy as np
import pytest
import torch

from dataset.vocabulary import Vocabulary
from models.ensemble import shrink
from models.recognizer import Ensemble
from recognize import Reader, language
from tests.test_reader import (
    DATA,
    READINGS,
    VOCABULARY,
    as_labels,
    both_decoders,
    ensemble,
    reader,
    recognizer,
    saved,
    some_images,
    written,
)
from utils.errors import CheckpointError, ConfigError
from utils.hypotheses import MINUS_INFINITY
from utils.reading import onnx_network
from utils.reading.options import scales_of
from utils.reading.reader import Search
from utils.reading.scaling import check_scales, joined, parted, shrinking

RATIOS = (0.75, 0.5)


@both_decoders
@torch.no_grad()
def test_the_next_token_has_the_mean_of_all_scales_log_probabilities(kind):
    network = recognizer(kind)
    images, padding = some_images()
    sizes = [(images, padding), *(shrink(images, padding, ratio) for ratio in RATIOS)]
    alone = [network(*one, *as_labels(READINGS)).logits.log_softmax(-1) for one in sizes]
    mean = torch.stack(alone).mean(0)[:: network.decoder.directions].softmax(-1)
    found = network.at_scales(RATIOS).explain(images, padding, READINGS)
    for image, reading in enumerate(READINGS):
        wanted = [float(mean[image, position, token]) for position, token in enumerate(reading)]
        assert found[image].confidences.tolist() == pytest.approx(wanted, rel=1e-3)


@both_decoders
@torch.no_grad()
def test_what_is_read_has_the_score_that_its_tokens_have(kind):
    """Search and explain() agree, greedily and in a beam, also where the other direction scores again."""
    network = recognizer(kind).at_scales(RATIOS)
    images, padding = some_images()
    [greedy, *_], [best, *_] = network.read(images, padding), network.read(images, padding, beam=4)
    for one in (greedy, *([best] if network.decoder.directions == 1 else [])):
        confidences = network.explain(images, padding, [one.tokens, [3], [3]])[0].confidences
        assert one.score * (len(one.tokens) + (not one.is_truncated)) <= float(confidences.log().sum()) + 1e-3
    assert best.score > MINUS_INFINITY and len(best.alternatives) == 3
    assert network.read(images, padding, beam=1, directions=1)[0].tokens == greedy.tokens


@torch.no_grad()
def test_an_image_alone_is_read_as_inside_a_batch():
    network = recognizer("gru").at_scales(RATIOS)
    images, padding = some_images()
    for index, wanted in enumerate(network.read(images, padding, beam=3)):
        height, width = (~padding[index]).any(1).sum(), (~padding[index]).any(0).sum()
        [found] = network.read(images[index : index + 1, :, :height, :width],
                               padding[index : index + 1, :height, :width], beam=3)  # fmt: skip
        assert found.tokens == wanted.tokens and found.score == pytest.approx(wanted.score, abs=1e-4)


@torch.no_grad()
def test_networks_that_read_together_think_the_mean_of_what_each_thinks():
    together = ensemble()
    images, padding = some_images()
    sizes = [(images, padding), shrink(images, padding, 0.75)]
    alone = [one(*size, *as_labels(READINGS)).logits.log_softmax(-1) for one in together.networks for size in sizes]
    assert not torch.allclose(alone[0], alone[2], atol=0.1)
    mean = torch.stack(alone).mean(0).softmax(-1)
    found = together.at_scales([0.75]).explain(images, padding, READINGS)
    for image, reading in enumerate(READINGS):
        wanted = [float(mean[image, position, token]) for position, token in enumerate(reading)]
        assert found[image].confidences.tolist() == pytest.approx(wanted, rel=1e-3)


def test_networks_that_read_together_are_one_checkpoint(tmp_path):
    together = ensemble()
    path = saved(tmp_path / "a.safetensors", together)
    found = Reader.load(path, scales=[1.2, 1]).read(written(), beam=3)
    again = Reader(together, Vocabulary(VOCABULARY), DATA, language(), scales=[1.2, 1]).read(written(), beam=3)
    assert (found.tokens, found.score, found.boxes) == (again.tokens, again.score, again.boxes)
    assert found.tokens != Reader(together.networks[0], Vocabulary(VOCABULARY), DATA, language()).read(written()).tokens


def test_networks_of_different_directions_cannot_read_together(tmp_path):
    with pytest.raises(ValueError, match="as many directions"):
        Ensemble([recognizer("gru"), recognizer("transformer")])
    architecture = ensemble().architecture() | {"networks": []}
    path = saved(tmp_path / "a.safetensors", ensemble(), architecture=architecture)
    with pytest.raises(CheckpointError, match="a.safetensors: describes a network that this version does not know"):
        Reader.load(path)


def test_shrinking_keeps_ink_where_it_is_and_paper_white():
    image = torch.zeros(1, 1, 40, 90)
    image[..., 10:20, 30:60] = 1
    smaller, padding = shrink(image, torch.zeros(1, 40, 90, dtype=torch.bool), 0.8)
    assert smaller.shape == (1, 1, 32, 72) and not padding.any()
    assert torch.allclose(smaller[0, 0, 9:15, 26:46], torch.ones(6, 20), atol=0.02)  # within the ink
    assert smaller[..., :6, :].abs().max() == smaller[..., 50:].abs().max() == 0
    assert float(smaller.sum()) == pytest.approx(0.64 * float(image.sum()), rel=0.02)


@pytest.mark.parametrize("ratio", [0.25, 0.7, 0.99])
def test_both_ways_of_shrinking_are_one(ratio):
    images, padding = some_images()
    found = onnx_network.shrink(images.numpy(), padding.numpy(), ratio)
    for one, wanted in zip(found, shrink(images, padding, ratio), strict=True):
        assert np.allclose(one, wanted.numpy(), atol=1e-6)
    longer = shrinking(96, ratio)  # what is beside it changes nothing
    assert np.array_equal(shrinking(50, ratio), longer[: len(shrinking(50, ratio)), :50])


def test_states_of_all_scales_make_one_and_are_told_apart_again():
    states = [onnx_network.State({"a": np.zeros(1)}, {"b.c": np.ones(2)}), onnx_network.State({"a": np.ones(3)}, {})]
    assert str(parted(joined(states))) == str(states)


def test_a_reader_reads_at_the_scales_that_its_weights_name():
    one = reader("gru", scales=[0.8, 1.2])
    assert one.describe(Search())["scales"] == [1.2, 0.8]
    usual = reader("gru")
    shapes = [made.prepare(written()).views[0].image.shape for made in (one, usual)]
    assert shapes[0][1] == pytest.approx(1.2 * shapes[1][1], abs=1)
    for made in (one, usual):  # boxes are in pixels of the given image
        assert all(right <= 150 and bottom <= 60 for _, _, right, bottom in made.read(written()).boxes)


@pytest.mark.parametrize("text", ["", "1,1", "0.1", "9", "nan", "x", "1;2"])
def test_scales_that_cannot_be_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected different scales|could not convert"):
        scales_of(text)


def test_scales_come_largest_first():
    assert check_scales([1, 1.25, 0.8]) == (1.25, 1.0, 0.8)
    with pytest.raises(ConfigError, match="expected different scales from 0.25 to 4"):
        check_scales([])
