"""Several sources in one stage: how many of each, which, and that each image comes with its own label."""

import numpy as np
import pytest

from dataset.images.mixture import Again, Mixture, between
from dataset.sampler import AdaptiveBatchSampler, EpochPlan, FixedBatchSampler


class Images:
    """Made-up images: each holds its own number, and is as wide."""

    def __init__(self, numbers, side):
        self.numbers, self.side = np.array(numbers), side
        self.lengths = np.ones(len(numbers), np.int32)

    def __len__(self):
        return len(self.numbers)

    def sizes(self, seed, epoch):
        return np.stack([np.full(len(self), 8), self.numbers], axis=1)

    def prepare(self, indices, seed, epoch):
        self.prepared = list(indices)

    def image(self, index, seed, epoch):
        return np.full((8, self.numbers[index]), self.numbers[index], np.uint8)

    def label(self, index):
        return np.array([self.numbers[index]])

    def name(self, index):
        return f"{self.side} {self.numbers[index]}"


INK, OTHER = Images(range(1, 41), "ink"), Images(range(101, 201), "standard")


@pytest.fixture
def replay():
    """All ink, and beside it as many standard images at first, none at last."""
    return Mixture([INK, OTHER], lambda passed: [40, round(40 * (1 - passed))], epochs=5)


def test_the_share_of_standard_images_decays_and_all_ink_is_always_there(replay):
    shown = [replay.chosen(0, epoch) for epoch in range(5)]
    assert [len(indices) - 40 for indices in shown] == [40, 30, 20, 10, 0]
    assert all(set(range(40)) <= set(indices.tolist()) for indices in shown)


def test_each_epoch_draws_other_standard_images_and_the_same_ones_again(replay):
    assert replay.chosen(0, 0).tolist() == replay.chosen(0, 0).tolist()
    others = Mixture([INK, OTHER], lambda passed: [40, 40], epochs=1)
    assert len({tuple(others.chosen(seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 1))}) == 3


def test_each_source_draws_its_own_numbers():
    """Else a share of several passes over the same ink would leave out the same images in each of them."""
    first, second = np.split(Mixture([INK, INK], lambda passed: [20, 20], epochs=1).chosen(0, 0), 2)
    assert first.tolist() != (second - len(INK)).tolist()


@pytest.mark.parametrize("sampler", ["fixed", "adaptive"])
def test_an_epoch_deals_what_was_chosen_once_and_nothing_else(replay, sampler):
    options = {"seed": 3, "stride": 8, "chosen": replay.chosen}
    if sampler == "fixed":
        batches = FixedBatchSampler(replay.sizes, 8, pool=4, plan=EpochPlan(**options))
    else:
        batches = AdaptiveBatchSampler(replay.sizes, 8000, plan=EpochPlan(**options))
    for epoch in (0, 3):
        batches.set_epoch(epoch)
        dealt = [index for batch in batches for index in batch]
        assert sorted(dealt) == replay.chosen(3, epoch).tolist()
        assert 0 <= batches.summary()["padding"] < 1


def test_images_labels_names_and_sizes_belong_together(replay):
    sizes = replay.sizes(0, 0)
    for index in (0, 39, 40, 139):
        number = int(replay.label(index)[0])
        assert replay.image(index, 0, 0).shape == tuple(sizes[index])
        assert replay.image(index, 0, 0)[0, 0] == number
        assert replay.name(index) == f"{'ink' if index < 40 else 'standard'} {number}"


def test_shares_follow_the_progress_where_it_is_told_and_the_epochs_where_not():
    mixture = Mixture(
        [INK, OTHER], lambda passed: [round(between(0, 40, passed)), round(between(40, 0, passed))], epochs=3
    )

    def share(epoch):
        chosen = mixture.chosen(0, epoch)
        assert len(chosen) == len(set(chosen.tolist())) == 40
        return (chosen < len(INK)).mean()

    assert [share(epoch) for epoch in (0, 1, 2, 9)] == [0, 0.5, 1, 1]
    mixture.set_progress(0.25)
    assert [share(epoch) for epoch in (0, 1, 2)] == [0.25] * 3
    mixture.set_progress(None)
    assert share(1) == 0.5


def test_each_source_prepares_its_own_images():
    sources = Images(range(1, 5), "ink"), Images(range(10), "never shown"), Images(range(9), "standard")
    Mixture(sources, lambda passed: [4, 0, 9], epochs=1).prepare([14, 0, 3, 22], 0, 0)
    assert [getattr(source, "prepared", None) for source in sources] == [[0, 3], None, [0, 8]]


def test_another_showing_is_prepared_as_it_will_be_drawn():
    class Noting(Images):
        def __init__(self):
            super().__init__(range(1, 5), "ink")
            self.asked = []

        def prepare(self, indices, seed, epoch):
            self.asked.append((seed, epoch))

        def image(self, index, seed, epoch):
            self.asked.append((seed, epoch))

    source = Noting()
    again = Again(source, 2)
    again.prepare([1], 7, 3)
    again.image(1, 7, 3)
    assert source.asked[0] == source.asked[1] != (7, 3)
