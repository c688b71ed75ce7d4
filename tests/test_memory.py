"""A step that runs out of memory ends in the same gradients as one that does not."""

import gc
import os
import weakref
from dataclasses import dataclass

import pytest
import torch

from tests.script_process import QUICK
from utils.errors import MemoryLimitError
from utils.training.distributed import DistributedContext, sum_gradients
from utils.training.memory import Budget, fit_memory, is_out_of_memory, run_in_pieces


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Collecting garbage looks through all that pytest has loaded, after each failed attempt; here it need not."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@dataclass
class FakeBatch:
    inputs: torch.Tensor  # (B, 4)
    tokens: torch.Tensor  # (B,) real tokens of each image
    names: list

    def __len__(self):
        return len(self.inputs)

    @property
    def padded_pixels(self):
        return 100 * len(self)

    def split(self):
        middle = len(self) // 2
        return self.part(0, middle), self.part(middle, len(self))

    def part(self, start, end):
        return FakeBatch(self.inputs[start:end], self.tokens[start:end], self.names[start:end])


def make_batch(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return FakeBatch(inputs, torch.randint(1, 9, (count,), generator=generator), [f"image{i}" for i in range(count)])


class Training:
    """A tiny model whose step fails above so many images: in forward, or in backward when gradients were touched."""

    def __init__(self, limit=10**9, fails_in="forward", dropout=0.0):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1))
        self.limit, self.fails_in, self.steps = limit, fails_in, []

    def step(self, piece, total=None):
        self.steps.append(len(piece))
        if len(piece) > self.limit and self.fails_in == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        loss = (self.model(piece.inputs).squeeze(1).square() * piece.tokens).sum() / (total or self.total)
        loss.backward()
        if len(piece) > self.limit:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate …")
        return loss.item()

    def run(self, batch):
        self.total = int(batch.tokens.sum())
        return run_in_pieces(batch, self.step, self.model.zero_grad)

    @torch.no_grad()
    def learn(self):
        for parameter in self.model.parameters():
            parameter -= 0.1 * parameter.grad

    def gradients(self):
        return torch.cat([parameter.grad.reshape(-1) for parameter in self.model.parameters()])


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
@pytest.mark.parametrize("limit", [1, 3, 7, 12])
def test_a_batch_that_is_too_large_gives_the_same_gradients_in_pieces(limit, fails_in):
    whole, pieces = Training(), Training(limit, fails_in)
    losses, was_split = whole.run(make_batch(13))
    assert not was_split and len(losses) == 1
    parts, was_split = pieces.run(make_batch(13))
    assert was_split and sum(parts) == pytest.approx(losses[0])
    torch.testing.assert_close(pieces.gradients(), whole.gradients())
    assert sum(pieces.steps[-len(parts) :]) == 13  # every image, once


def test_a_run_in_which_every_batch_fails_at_first_ends_with_the_same_weights():
    results = []
    for limit in (10**9, 2):
        training = Training(limit, "backward")
        for seed in range(12):
            training.run(make_batch(5 + seed, seed))
            training.learn()
        results.append(torch.cat([parameter.detach().reshape(-1) for parameter in training.model.parameters()]))
    torch.testing.assert_close(*results)


def test_a_failed_attempt_does_not_move_the_random_numbers():
    """Dropout in the pieces draws as if they had been run at once."""
    batch = make_batch(8)
    recovered, at_once = Training(4, "backward", dropout=0.5), Training(dropout=0.5)
    torch.manual_seed(7)
    recovered.run(batch)
    next_recovered = torch.rand(3)
    torch.manual_seed(7)
    for piece in batch.split():
        at_once.step(piece, int(batch.tokens.sum()))
    torch.testing.assert_close(recovered.gradients(), at_once.gradients())
    torch.testing.assert_close(next_recovered, torch.rand(3))


def test_a_single_image_that_does_not_fit_is_named_with_what_would_help():
    training = Training(0)
    with pytest.raises(MemoryLimitError, match="image0: this image alone .100 pixels.*max_height.*image_scale"):
        training.run(make_batch(3))


def test_a_batch_whose_loss_must_see_it_whole_is_not_split():
    training = Training(2)
    with pytest.raises(MemoryLimitError, match="a batch of 3 images .300 pixels.*contrast would have another"):
        run_in_pieces(make_batch(3), lambda piece: training.step(piece, 1), lambda: None, indivisible=("contrast",))
    assert training.steps == [3, 3]  # once more, when memory was freed
    run_in_pieces(make_batch(2), lambda piece: training.step(piece, 1), lambda: None, indivisible=("contrast",))


def test_a_single_image_gets_a_second_chance_once_memory_was_freed():
    training, failures = Training(), iter([True, False])

    def step(piece):
        if next(failures):
            raise MemoryError
        return training.step(piece, 1)

    assert run_in_pieces(make_batch(1), step, training.model.zero_grad)[1] is False


def test_what_a_failed_step_held_is_freed_before_the_next():
    held = []

    def step(piece):
        assert all(reference() is None for reference in held)  # a traceback would keep them
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        if len(piece) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    run_in_pieces(make_batch(4), step, lambda: None)
    assert len(held) > 4


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def step(piece):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run_in_pieces(make_batch(4), step, lambda: None)
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**16)
    assert is_out_of_memory(caught.value)


def test_a_rank_without_an_image_takes_part_with_nothing():
    started = []
    assert run_in_pieces(None, None, lambda: started.append(1)) == ([], False)
    assert started


# ---- several ranks ---------------------------------------------------------------------------------------------------


NEVER = 10**9
SHARES = [(6, 5), (4, 7), (0, 3), (2, 1)]  # images of each rank, turn by turn
LIMITS = [(NEVER, 2), (NEVER, NEVER), (NEVER, 1), (0, NEVER)]


def train_rank(rank, folder, queue):
    """One of two ranks: trains a few batches, and puts (was_split, gradients) or the error of each into the queue."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    context, training = DistributedContext(rank, 2), Training(fails_in="backward")
    unused = torch.nn.Parameter(torch.ones(2))
    outcomes = []
    for turn, share in enumerate(SHARES):
        training.limit = LIMITS[turn][rank]
        whole = make_batch(sum(share), turn)
        batch = whole.part(0, share[0]) if rank == 0 else whole.part(share[0], len(whole))
        training.total = sum(context.gather([int(batch.tokens.sum())]))
        try:
            _, was_split = run_in_pieces(batch, training.step, training.model.zero_grad, context)
        except MemoryLimitError as error:
            outcomes.append(str(error))
        else:
            sum_gradients([*training.model.parameters(), unused], context)
            assert unused.grad is None
            outcomes.append((was_split, training.gradients().tolist()))
            training.learn()
    queue.put((rank, outcomes))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available() or os.name == "nt", reason="needs gloo")
def test_two_ranks_of_which_one_must_split_agree_with_one_process(tmp_path):
    queue = QUICK.Queue()
    processes = [QUICK.Process(target=train_rank, args=(rank, tmp_path, queue), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=90) for _ in processes)
    for process in processes:
        process.join(20)

    alone = Training()
    for turn, must_split in enumerate((True, False, True)):  # in the third, the first rank has no image at all
        alone.run(make_batch(sum(SHARES[turn]), turn))
        for was_split, gradients in (found[0][turn], found[1][turn]):
            assert was_split == must_split  # both know, so both change their budget
            torch.testing.assert_close(torch.tensor(gradients), alone.gradients())
        alone.learn()
    # In the last, an image does not fit on the first rank: both stop.
    assert "image0" in found[0][3] and "another process" in found[1][3]


# ---- budget and probes -----------------------------------------------------------------------------------------------


def test_the_budget_shrinks_by_a_tenth_and_comes_back_after_a_quiet_while():
    budget = Budget(1000, quiet_batches=3)
    assert not budget.record(False) and budget.max_pixels == 1000
    assert budget.record(True) and budget.max_pixels == 900
    assert budget.record(True) and budget.max_pixels == 810
    assert [budget.record(False) for _ in range(3)] == [False, False, True] and budget.max_pixels == 900
    budget.record(False)
    resumed = Budget(1, quiet_batches=3)
    resumed.load_state_dict(budget.state_dict())
    assert [resumed.record(False) for _ in range(6)] == [False, True] + 4 * [False]
    assert resumed.max_pixels == 1000


def test_batches_fetched_before_the_budget_shrank_do_not_shrink_it_again():
    budget = Budget(1000, fetched_ahead=2)
    assert [budget.record(True) for _ in range(4)] == [True, False, False, True]


@pytest.mark.parametrize("per_token", [0.0, 1.5])
def test_probes_find_how_memory_grows(per_token):
    def probe(count, height, width, tokens):
        pixels = count * height * width
        wobble = 1 + 0.01 * (pixels * 7 % 3 - 1)
        return (2e8 + 1500 * pixels + per_token * pixels * tokens) * wobble

    model = fit_memory(probe, available=80 * 10**9, reserved=10**9)
    assert model.per_pixel == pytest.approx(1500, rel=0.05)
    assert model.token_cost == pytest.approx(per_token / 1500, abs=3e-4)
    needed = 2e8 + 1500 * model.max_pixels
    assert needed == pytest.approx(0.9 * 79e9, rel=0.05)
    assert model.predict(model.max_pixels) == pytest.approx(0.9 * 79e9, rel=0.001)
    assert max(taken for _, _, taken in model.probes) < 40e9  # a probe is no risk


def test_probing_stops_where_memory_ends():
    def probe(count, height, width, tokens):
        if count > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 10**8 + 1500 * count * height * width

    assert max(pixels for pixels, _, _ in fit_memory(probe, available=10**12).probes) == 8 * 128 * 512
    with pytest.raises(MemoryLimitError, match="128 x 512"):
        fit_memory(lambda count, *_: probe(99, 1, 1, 1), available=10**9)
    with pytest.raises(MemoryLimitError, match="no room for one image"):
        fit_memory(probe, available=10**8)
