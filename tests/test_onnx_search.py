"""Decoding in NumPy finds what models/search.py finds: the same tokens, truncated or not, in the same order."""

import numpy as np
import pytest
import torch

from models.decoders.interface import DecoderState
from models.recognizer import Recognizer
from models.search import rescore as rescore_by_torch
from models.search import token_limits
from tests.test_reader import both_decoders, recognizer, some_images
from utils.hypotheses import Hypothesis, ranked
from utils.reading.onnx_search import Encoded, State, beam_search, explain, greedy, rescore


def torch_step(model: Recognizer, decoder=None):
    """A step of the network's decoder, or of another one, on arrays (B, K, …)."""
    decoder = decoder or model.decoder

    def step(state, tokens):
        image, past = ({name: torch.from_numpy(x.copy()) for name, x in part.items()} for part in state)
        past = {name: x.flatten(0, 1) for name, x in past.items()}
        found = decoder.step(DecoderState(image, past), torch.from_numpy(tokens.copy()).flatten())
        logits, after, attention = found
        parts = {name: x.unflatten(0, tokens.shape).numpy() for name, x in after.past.items()}
        shaped = (x.unflatten(0, tokens.shape).numpy() for x in (logits, attention))
        return next(shaped), State(state.image, parts), next(shaped)

    return step


def encode(model: Recognizer, decoder=None):
    """Three images of different sizes, for torch and as arrays."""
    encoded = model.encode(*some_images(), "handwritten")
    state = (decoder or model.decoder).start(*encoded)
    is_image = ~encoded.padding.numpy()
    sizes = np.stack([is_image.any(2).sum(1), is_image.any(1).sum(1)], 1)
    image = {name: x.numpy() for name, x in state.image.items()}
    return encoded, Encoded(State(image, {name: x[:, None].numpy() for name, x in state.past.items()}), sizes, {})


def assert_alike(found, wanted):
    """The hypotheses of an image, with its alternatives."""
    assert (found.tokens, found.is_truncated) == (wanted.tokens, wanted.is_truncated)
    assert found.score == pytest.approx(wanted.score, rel=1e-4)
    assert [other.tokens for other in found.alternatives] == [other.tokens for other in wanted.alternatives]


def leaning_to_the_end(model: Recognizer, by: float) -> Recognizer:
    """So that some hypotheses end and others are truncated, and token 4, a brace in some tests, is often opened."""
    model.decoder.output.bias.data[1:3] += by
    model.decoder.output.bias.data[4] += by
    return model


@both_decoders
@pytest.mark.parametrize("by", [0.0, 3.0])
@pytest.mark.parametrize("braces", [None, (4, 5)])
@torch.no_grad()
def test_greedy_decoding_is_that_of_torch(kind, by, braces):
    model = leaning_to_the_end(recognizer(kind), by)
    model.braces = braces
    encoded, arrays = encode(model)
    assert arrays.limits.tolist() == token_limits(encoded.padding).tolist()
    found = [hypothesis for hypothesis, _ in greedy(torch_step(model), arrays, braces=braces)]
    for one, wanted in zip(found, model.read_encoded(encoded), strict=True):
        assert_alike(one, wanted)


@both_decoders
@pytest.mark.parametrize("beam, directions, by, braces", [
    (1, 2, 0.0, None), (1, 2, 3.0, (4, 5)), (5, 1, 0.0, (4, 5)), (5, 1, 3.0, None),
    (3, 2, 0.0, (4, 5)), (3, 2, 3.0, None), (40, 2, 3.0, (4, 5)),
])  # fmt: skip
@torch.no_grad()
def test_beam_search_is_that_of_torch(kind, beam, directions, by, braces):
    model = leaning_to_the_end(recognizer(kind), by)
    model.braces = braces
    directions = min(directions, model.decoder.directions)
    encoded, arrays = encode(model)
    found = beam_search(torch_step(model), arrays, beam, directions, braces=braces)
    for one, wanted in zip(found, model.read_encoded(encoded, beam, directions), strict=True):
        assert_alike(one, wanted)


@both_decoders
@torch.no_grad()
def test_what_greedy_decoding_saw_is_the_explanation_that_torch_gives(kind):
    model = leaning_to_the_end(recognizer(kind), 2.0)
    encoded, arrays = encode(model)
    found = greedy(torch_step(model), arrays)
    tokens = [hypothesis.tokens for hypothesis, _ in found]
    again = explain(torch_step(model), arrays, tokens)
    for (_, seen), stepped, wanted in zip(found, again, model.explain_encoded(encoded, tokens), strict=True):
        for one in (seen, stepped):
            assert one.confidences == pytest.approx(wanted.confidences.numpy(), rel=1e-3)
            assert one.attention.shape == wanted.attention.shape
            assert np.abs(one.attention - wanted.attention.numpy()).max(initial=0) < 1e-4


@both_decoders
@torch.no_grad()
def test_given_tokens_are_explained_whatever_their_lengths(kind):
    model = recognizer(kind)
    encoded, arrays = encode(model)
    tokens = [[], [3, 4, 5, 6], [7]]
    found = explain(torch_step(model), arrays, tokens)
    for one, wanted in zip(found, model.explain_encoded(encoded, tokens), strict=True):
        assert one.confidences == pytest.approx(wanted.confidences.numpy(), rel=1e-3)
        assert one.attention.shape == wanted.attention.shape


@torch.no_grad()
def test_a_second_decoder_scores_as_in_torch():
    model = recognizer("gru-location", backwards=True)
    beams = [[[3, 4, 5], [9]], [[8, 3], [3, 8, 8, 4], [6]], [[7, 7, 7, 9, 3, 5]]]
    found = [ranked(Hypothesis(tokens, -1.0, False) for tokens in beam) for beam in beams]
    encoded, arrays = encode(model, model.backwards)
    both = rescore(found, torch_step(model, model.backwards), arrays.state)
    assert [len(one.alternatives) for one in both] == [1, 2, 0]
    for one, wanted in zip(both, rescore_by_torch(found, model.backwards, *encoded), strict=True):
        assert_alike(one, wanted)
        assert one.score != -1.0
