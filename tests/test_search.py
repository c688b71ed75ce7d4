"""Greedy and beam search: they find what is likeliest, and nothing but the image decides what it is read as."""

import dataclasses
import itertools
from collections.abc import Iterable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decoders.interface import DecoderOutput, DecoderState, teacher_forcing
from models.recognizer import Recognizer
from models.search import beam_search, greedy, token_limits
from utils.hypotheses import Hypothesis, prefer
from utils.special_tokens import END, PAD, START

DECODERS = {
    "gru": {"hidden": 16, "embedding": 16, "attention": 16, "coverage_kernel": 3, "dropout": 0.1},
    "transformer": {"width": 16, "heads": 2, "layers": 2, "feed_forward": 32, "dropout": 0.1},
}
both_decoders = pytest.mark.parametrize("kind", ["gru", "transformer"])


class Chain:
    """A made-up decoder: the next token depends on the last one and on the image's own table of logits.

    features: (B, 2 x V, V, 1), a table for each direction.   Direction 2 begins with END.
    """

    directions = 2

    def start(self, features, padding, counts=None):
        tables = features[..., 0].unflatten(1, (2, -1))
        return DecoderState({"tables": tables}, {"direction": torch.full((len(features),), -1)})

    def step(self, state, tokens):
        tables = state.image["tables"]
        direction = torch.where(state.past["direction"] < 0, (tokens == END).long(), state.past["direction"])
        images = torch.arange(len(tables)).repeat_interleave(len(tokens) // len(tables))
        return tables[images, direction, tokens], DecoderState(state.image, {"direction": direction}), None

    def __call__(self, features, padding, tokens, counts=None):
        state = self.start(features, padding)
        state = state.select(torch.arange(len(features)).repeat_interleave(len(tokens) // len(features)))
        logits = []
        for position in tokens.unbind(1):
            step, state, _ = self.step(state, position)
            logits.append(step)
        return DecoderOutput(torch.stack(logits, 1), None, None)


def chains(seeds: list[int], vocabulary: int = 5, end: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables of logits for Chain, one for each seed, and padding of one cell.   end: added to the logits of ending."""
    tables = torch.stack(
        [torch.randn(2, vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    tables[:, 0, :, END] += end
    tables[:, 1, :, START] += end
    return tables.flatten(1, 2)[..., None], torch.zeros(len(seeds), 1, 1, dtype=torch.bool)


def log_probability(table: torch.Tensor, text: tuple[int, ...], first: int, last: int) -> float:
    path = [first, *text, last]
    scores = table.log_softmax(-1)
    return sum(scores[one, next].item() for one, next in itertools.pairwise(path))


def is_balanced(text: Iterable[int], left: int, right: int) -> bool:
    depths = list(itertools.accumulate((token == left) - (token == right) for token in text))
    return min(depths) >= 0 and depths[-1] == 0


@pytest.mark.parametrize("braces", [None, (3, 4), (4, 3)])
def test_a_wide_beam_finds_the_likeliest_of_all_texts(braces):
    features, padding = chains([1, 2, 3, 4], end=1.0)
    texts = [text for length in range(1, 7) for text in itertools.product((3, 4), repeat=length)]
    texts = [text for text in texts if braces is None or is_balanced(text, *braces)]
    found = beam_search(Chain(), features, padding, beam=64, directions=1, length_penalty=0.0, braces=braces)
    for table, hypothesis in zip(features[..., 0], found, strict=True):
        scores = {text: log_probability(table[:5], text, START, END) for text in texts}
        best = max(scores, key=scores.get)
        assert tuple(hypothesis.tokens) == best and hypothesis.score == pytest.approx(scores[best], abs=1e-4)


@pytest.mark.parametrize("beam", [2, 3, 10])
def test_early_ends_do_not_stop_a_likelier_text_that_is_still_being_written(beam):
    tables = torch.full((1, 2, 9, 9), -10.0)
    for token, following in itertools.pairwise([START, 3, 4, 5, 6, 7, 8, END]):
        tables[0, 0, token, END] = 2.0  # every step may end the text, with a chance of one in eight
        tables[0, 0, token, following] = 4.0
    padding = torch.zeros(1, 1, 1, dtype=torch.bool)
    (found,) = beam_search(Chain(), tables.flatten(1, 2)[..., None], padding, beam=beam, directions=1)
    assert found.tokens == [3, 4, 5, 6, 7, 8]


def test_the_other_direction_scores_what_one_direction_proposes():
    features, padding = chains([1, 2, 3, 4], end=1.0)
    for table, hypothesis in zip(features[..., 0], beam_search(Chain(), features, padding, beam=4), strict=True):
        for each in (hypothesis, *hypothesis.alternatives):
            if each.is_truncated:
                continue
            text = tuple(each.tokens)
            forward = log_probability(table[:5], text, START, END)
            backward = log_probability(table[5:], text[::-1], END, START)
            assert each.score == pytest.approx((forward + backward) / 2 / (len(text) + 1), abs=1e-4)


def test_alternatives_differ_and_are_sorted():
    features, padding = chains(list(range(6)), end=1.0)
    for hypothesis in beam_search(Chain(), features, padding, beam=5):
        texts = [tuple(each.tokens) for each in (hypothesis, *hypothesis.alternatives)]
        scores = [each.score for each in (hypothesis, *hypothesis.alternatives)]
        assert len(set(texts)) == len(texts) == 5
        assert scores == sorted(scores, reverse=True)


@given(
    seeds=st.lists(st.integers(0, 10_000), min_size=1, max_size=6),
    end=st.floats(-3, 3),
    braces=st.sampled_from([None, (3, 4)]),
)
@settings(max_examples=25, deadline=None)
def test_a_beam_of_one_equals_greedy(seeds, end, braces):
    features, padding = chains(seeds, vocabulary=6, end=end)
    greedily = greedy(Chain(), features, padding, braces=braces)
    by_beam = beam_search(Chain(), features, padding, beam=1, directions=1, braces=braces)
    for one, other in zip(greedily, by_beam, strict=True):
        assert (one.tokens, one.is_truncated) == (other.tokens, other.is_truncated)
        assert one.score == pytest.approx(other.score, abs=1e-4)


@pytest.mark.parametrize("directions", [1, 2])
def test_braces_are_balanced_in_all_that_ended(directions):
    features, padding = chains(list(range(20)), vocabulary=7, end=1.0)
    unlike = 0
    for search in (greedy, partial(beam_search, beam=5, directions=directions)):
        found = search(Chain(), features, padding, braces=(3, 4))
        hypotheses = [each for best in found for each in (best, *best.alternatives) if not each.is_truncated]
        assert len(hypotheses) >= 10 and all(is_balanced(each.tokens, 3, 4) for each in hypotheses)
        unlike += [each.tokens for each in found] != [each.tokens for each in search(Chain(), features, padding)]
    assert unlike == 2  # without, they are not


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0])
def test_scores_are_divided_by_their_length_to_the_power_of_the_penalty(length_penalty):
    features, padding = chains([1, 2, 3, 4, 5, 6], end=1.0)
    found = greedy(Chain(), features, padding, length_penalty=length_penalty)
    found += beam_search(Chain(), features, padding, beam=2, directions=1, length_penalty=length_penalty)
    assert sum(not hypothesis.is_truncated for hypothesis in found) > 6
    for table, hypothesis in zip([*features[..., 0]] * 2, found, strict=True):
        if hypothesis.is_truncated:
            continue
        total = log_probability(table[:5], tuple(hypothesis.tokens), START, END)
        assert hypothesis.score == pytest.approx(total / (len(hypothesis.tokens) + 1) ** length_penalty, abs=1e-4)


def test_what_never_ends_is_truncated_at_the_limit_and_says_so():
    features, padding = chains([1, 2], end=-1000.0)
    limit = token_limits(padding)[0].item()
    for hypotheses in (greedy(Chain(), features, padding), beam_search(Chain(), features, padding, beam=3)):
        for hypothesis in hypotheses:
            assert hypothesis.is_truncated and len(hypothesis.tokens) == limit


@pytest.mark.parametrize("beam", [1, 3])
def test_a_small_image_is_truncated_at_its_own_limit_beside_a_large_one(beam):
    features, _ = chains([1, 1], end=-1000.0)
    features = torch.nn.functional.pad(features, (0, 4))
    padding = torch.zeros(2, 5, 5, dtype=torch.bool)
    padding[1, 1:] = True
    found = greedy(Chain(), features, padding) if beam == 1 else beam_search(Chain(), features, padding, beam=beam)
    assert [len(each.tokens) for each in found] == token_limits(padding).tolist() == [75, 56]


def test_a_text_that_ended_ranks_before_one_that_was_cut():
    table = torch.full((6, 6), float("-inf"))
    table[[PAD, END]] = 0.0
    table[START, 4], table[START, 3] = 0.0, -2.0
    table[3, END] = 0.0  # "3" ends, at a mean of about -1 per token
    table[4, 4], table[4, 5], table[5, 5], table[5, 4] = 0.0, -2.2, 0.0, -2.2  # "4 4 4 …" never does, at about -0.1
    features, padding = table.repeat(2, 1)[None, ..., None], torch.zeros(1, 1, 1, dtype=torch.bool)
    hypothesis = beam_search(Chain(), features, padding, beam=2, directions=1)[0]
    assert hypothesis.tokens == [3] and not hypothesis.is_truncated
    assert hypothesis.alternatives[0].is_truncated and hypothesis.alternatives[0].score > hypothesis.score


@pytest.mark.parametrize("beam", [1, 3])
def test_how_often_the_search_checks_which_images_are_done_changes_nothing(beam, monkeypatch):
    features, padding = chains(list(range(12)), end=-1.0)
    readings = []
    for every in (1, 8, 1000):
        monkeypatch.setattr("models.search.CHECK_EVERY", {"cpu": every})
        found = greedy(Chain(), features, padding) if beam == 1 else beam_search(Chain(), features, padding, beam=beam)
        readings.append([(each.tokens, round(each.score, 3)) for best in found for each in (best, *best.alternatives)])
    assert readings[0] == readings[1] == readings[2]


def test_neither_padding_nor_a_second_start_nor_nothing_is_ever_written():
    features, padding = chains([1, 2, 3], end=5.0)
    features[:, :, [PAD]] = 9.0
    features[:, :5, START], features[:, 5:, END] = 9.0, 9.0
    for hypotheses in (greedy(Chain(), features, padding), beam_search(Chain(), features, padding, beam=3)):
        assert all(token > 2 for hypothesis in hypotheses for token in hypothesis.tokens)
        assert all(hypothesis.tokens for hypothesis in hypotheses)


def test_the_limit_depends_on_the_image_alone():
    padding = torch.ones(2, 9, 30, dtype=torch.bool)
    padding[0, :3, :5] = False
    padding[1, :9, :30] = False
    assert token_limits(padding)[0] == token_limits(torch.zeros(1, 3, 5, dtype=torch.bool))[0]
    assert token_limits(padding)[1] > token_limits(padding)[0]


def test_a_small_image_that_is_densely_written_on_may_have_more_tokens_and_a_large_one_has_no_more_than_before():
    sizes = {(2, 3): 52, (7, 6): 126, (7, 7): 147, (8, 8): 160, (6, 15): 160, (10, 40): 232}
    for (height, width), limit in sizes.items():
        assert token_limits(torch.zeros(1, height, width, dtype=torch.bool)).tolist() == [limit]


# ---- what is preferred -----------------------------------------------------------------------------------------------


def beam_of(*scores: float, truncated: tuple[int, ...] = ()) -> Hypothesis:
    """Hypotheses [0], [1] … with these scores."""
    best, *rest = (Hypothesis([index], score, index in truncated) for index, score in enumerate(scores))
    return dataclasses.replace(best, alternatives=tuple(rest))


@pytest.mark.parametrize(
    ("good", "expected"),
    [
        ({0, 1, 2}, [0, 1, 2, 3]),  # the best one is preferred already
        ({2, 3}, [2, 0, 1, 3]),  # close enough, and the better of two
        ({3}, [0, 1, 2, 3]),  # too far
        (set(), [0, 1, 2, 3]),
    ],
)
def test_the_best_preferred_hypothesis_comes_first_where_its_score_is_close(good, expected):
    best = beam_of(-0.1, -0.12, -0.19, -0.4)
    found = prefer(best, lambda tokens: tokens[0] in good, margin=0.1)
    assert [each.tokens[0] for each in (found, *found.alternatives)] == expected
    assert not any(each.alternatives for each in found.alternatives)


def test_a_truncated_hypothesis_is_not_preferred_to_one_that_ended():
    assert prefer(beam_of(-0.1, -0.05, truncated=(1,)), lambda tokens: tokens == [1]).tokens == [0]
    assert prefer(beam_of(-0.1, -0.15, truncated=(0, 1)), lambda tokens: tokens == [1]).tokens == [1]


@both_decoders
def test_each_hypothesis_of_a_beam_is_asked_for_and_none_of_greedy_decoding(kind):
    network, asked = recognizer(kind), []
    images, padding = torch.rand(8, 1, 24, 40), torch.zeros(8, 24, 40, dtype=torch.bool)
    plain = network.read(images, padding, beam=3)
    found = [prefer(each, lambda tokens: asked.append(tokens) or False, margin=0.5) for each in plain]
    assert found == plain and asked[0] == plain[0].tokens and len(asked) > 2
    second = [each.alternatives[0].tokens for each in plain]
    found = [prefer(each, lambda tokens: tokens in second, margin=0.5) for each in plain]
    close = [each.alternatives[0].score >= each.score - 0.5 for each in plain]
    assert [each.tokens in second for each in found] == close and any(close)
    for each in network.read(images, padding):
        prefer(each, lambda tokens: pytest.fail("greedy decoding has no other hypotheses"))


def recognizer(kind: str) -> Recognizer:
    """A network that ends texts of different lengths, as a trained one does."""
    torch.manual_seed(3)
    network = Recognizer(9, {"layers": (1, 1), "growth": 6}, kind, DECODERS[kind], 8 if kind == "gru" else 0)
    network.train()
    network(
        torch.rand(4, 1, 24, 40),
        torch.zeros(4, 24, 40, dtype=torch.bool),
        torch.randint(3, 9, (4, 5)),
        torch.full((4,), 5),
    )
    with torch.no_grad():
        network.decoder.output.weight *= 3
        network.decoder.output.bias[[START, END]] += 0.5
    return network.eval()


@both_decoders
@pytest.mark.parametrize("beam", [1, 3])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 60)), min_size=2, max_size=5),
    seed=st.integers(0, 100),
)
@settings(max_examples=5, deadline=None)
def test_padding_neighbors_in_the_batch_and_order_never_change_a_prediction(kind, beam, sizes, seed):
    network = recognizer(kind)
    generator = torch.Generator().manual_seed(seed)
    images = [(torch.rand(size, generator=generator) > 0.6).float() for size in sizes]

    def read(chosen: list[torch.Tensor]):
        height, width = (max(image.shape[side] for image in chosen) for side in (0, 1))
        images = torch.zeros(len(chosen), 1, height, width)
        padding = torch.ones(len(chosen), height, width, dtype=torch.bool)
        for i, image in enumerate(chosen):
            images[i, 0, : image.shape[0], : image.shape[1]] = image
            padding[i, : image.shape[0], : image.shape[1]] = False
        return network.read(images, padding, beam=beam)

    together, backwards = read(images), read(images[::-1])[::-1]
    for image, one, other in zip(images, together, backwards, strict=True):
        alone = read([image])[0]
        for each in (one, other):
            assert (each.tokens, each.is_truncated) == (alone.tokens, alone.is_truncated)
            assert each.score == pytest.approx(alone.score, abs=1e-4)


@both_decoders
@torch.no_grad()
def test_a_score_is_what_teacher_forcing_gives_for_the_same_sequence(kind):
    network = recognizer(kind)
    images, padding = torch.rand(2, 1, 24, 40), torch.zeros(2, 24, 40, dtype=torch.bool)
    for hypotheses in (network.read(images, padding), network.read(images, padding, beam=3, directions=1)):
        for i, hypothesis in enumerate(hypotheses):
            if hypothesis.is_truncated:
                continue
            labels, lengths = torch.tensor([hypothesis.tokens]), torch.tensor([len(hypothesis.tokens)])
            output = network(images[i : i + 1], padding[i : i + 1], labels, lengths)
            logits, framed = output.logits[:1].log_softmax(-1), teacher_forcing(labels, lengths, 1)
            score = logits.gather(2, framed.targets[..., None]).mean().item()
            assert hypothesis.score == pytest.approx(score, abs=1e-4)


def test_how_much_is_scored_backwards_at_once_changes_nothing(monkeypatch):
    """Down to a single text of a single image: a large formula must not need all of its beams in memory."""
    torch.manual_seed(2)
    encoder = {"growth": 4, "layers": [1], "compression": 0.5, "dropout": 0.0}
    model = Recognizer(9, encoder, "transformer", DECODERS["transformer"]).eval()
    images, padding = torch.rand(3, 1, 16, 24), torch.zeros(3, 16, 24, dtype=torch.bool)
    whole = model.read(images, padding, beam=3)
    for at_once in (1, 300, 900):
        monkeypatch.setattr("models.search.MAX_RESCORED", at_once)
        for one, other in zip(whole, model.read(images, padding, beam=3), strict=True):
            assert one.tokens == other.tokens
            assert [each.score for each in one.alternatives] == pytest.approx(
                [each.score for each in other.alternatives], abs=1e-4
            )
