"""The order of records and the tensors of a batch."""

import itertools
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgclora.data.records import Encoded
from cgclora.data.sampling import LENGTHS, Collator, TaskSampler
from cgclora.training.loss import TargetLoss
from tests.helpers.tiny import VOCABULARY, make_model


def records(*counts: int, seed: int = 0) -> list[Encoded]:
    """So many records of task 0, 1, ..., of random lengths 4 to 99."""
    generator = random.Random(seed)
    return [
        Encoded([3] * generator.randint(4, 99), 2, task)
        for task, count in enumerate(counts)
        for _ in range(count)
    ]


def epoch_of(sampler: TaskSampler, epoch: int = 0) -> list[int]:
    return sampler.order(epoch)


# Sampler ----------------------------------------------------------------------------------


def test_a_proportional_epoch_has_every_record_once() -> None:
    data = records(701, 33, 5)
    order = epoch_of(TaskSampler(data, 8))
    assert sorted(order) == list(range(len(data)))


@pytest.mark.parametrize(
    ("sampling", "temperature", "expected"),
    [
        ("proportional", 9.0, [640, 320, 40]),
        ("uniform", 9.0, [334, 333, 333]),
        # 640^(1/2) : 320^(1/2) : 40^(1/2) = 4 : 2.828 : 1 of 1000, by largest remainder
        ("temperature", 2.0, [511, 361, 128]),
        ("temperature", 1.0, [640, 320, 40]),
    ],
)
def test_tasks_are_drawn_in_the_wanted_shares(
    sampling: str, temperature: float, expected: list[int]
) -> None:
    data = records(640, 320, 40)
    order = epoch_of(TaskSampler(data, 8, sampling, temperature))
    drawn = Counter(data[index].task for index in order)
    assert [drawn[task] for task in range(3)] == expected


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    batch_size=st.integers(1, 9),
    sampling=st.sampled_from(["proportional", "uniform", "temperature"]),
    temperature=st.floats(1, 50),
)
def test_an_epoch_has_as_many_draws_as_records_spread_evenly_within_a_task(
    counts: list[int], batch_size: int, sampling: str, temperature: float
) -> None:
    data = records(*counts)
    sampler = TaskSampler(data, batch_size, sampling, temperature)
    order = epoch_of(sampler)
    assert len(order) == len(data)
    assert min(sampler.draws) >= 1
    times = Counter(order)
    for task in range(len(counts)):
        own = [times[index] for index, item in enumerate(data) if item.task == task]
        assert max(own) - min(own) <= 1  # no record comes a third time before all came twice


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    data = records(50, 50)
    first, again = TaskSampler(data, 4, seed=1), TaskSampler(data, 4, seed=1)
    random.seed(5)
    torch.manual_seed(5)
    assert epoch_of(first, 3) == epoch_of(again, 3)
    epoch_of(again, 0)
    assert epoch_of(first, 3) == epoch_of(again, 3)
    assert epoch_of(first, 3) != epoch_of(first, 4)
    assert epoch_of(first, 3) != epoch_of(TaskSampler(data, 4, seed=2), 3)


def batches_of(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_batches_mix_tasks_and_have_records_of_like_length() -> None:
    data = records(400, 400, 400)
    batches = batches_of(epoch_of(TaskSampler(data, 8)), 8)
    mixed = sum(len({data[index].task for index in batch}) > 1 for batch in batches)
    assert mixed > 0.95 * len(batches)  # a batch of one task alone has a chance of 3^-7
    spread = [
        max(len(data[i].ids) for i in batch) - min(len(data[i].ids) for i in batch)
        for batch in batches
    ]
    # 256 records sorted by length, 96 lengths: a batch of 8 spans about 3; at random it would 75.
    assert sum(spread) / len(spread) < 6


def test_long_and_short_batches_come_in_random_order() -> None:
    data = records(512)
    batches = batches_of(epoch_of(TaskSampler(data, 8)), 8)
    longest = [max(len(data[index].ids) for index in batch) for batch in batches]
    rises = sum(a < b for a, b in itertools.pairwise(longest))
    assert 0.3 < rises / len(longest) < 0.7


@pytest.mark.parametrize("count", [3, 8, 255, 256, 257, 600])
def test_only_the_last_batch_is_short(count: int) -> None:
    data = records(count)
    # Lengths alike in every batch but the last are what a shift by a short batch would destroy.
    order = epoch_of(TaskSampler(data, 8))
    for block in (order[start : start + 256] for start in range(0, count, 256)):
        full = [batch for batch in batches_of(block, 8) if len(batch) == 8]
        ranges = sorted(
            (min(len(data[i].ids) for i in batch), max(len(data[i].ids) for i in batch))
            for batch in full
        )
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))


# Collator ---------------------------------------------------------------------------------


def test_the_padded_lengths_are_few_and_never_waste_more_than_a_quarter() -> None:
    assert list(LENGTHS) == sorted(LENGTHS)
    assert LENGTHS[0] == 32
    assert LENGTHS[-1] == 7168
    assert all(b <= 1.25 * a for a, b in itertools.pairwise(LENGTHS))


@pytest.mark.parametrize(
    ("longest", "width"), [(2, 32), (32, 32), (33, 40), (57, 64), (65, 80), (8000, 8000)]
)
def test_a_batch_is_padded_to_the_next_of_these_lengths(longest: int, width: int) -> None:
    batch = Collator(pad_id=7)([Encoded([3, 4], 1, 0), Encoded([5] * longest, 1, 1)])
    assert batch["input_ids"].shape == (2, width)
    assert batch["input_ids"][0].tolist() == [3, 4] + [7] * (width - 2)
    assert batch["tasks"].tolist() == [0, 1]


def test_padding_goes_no_further_than_the_positions_of_the_backbone() -> None:
    for longest in (57, 60):
        batch = Collator(pad_id=7, positions=60)([Encoded([5] * longest, 1, 0)])
        assert batch["input_ids"].shape == (1, 60)


def random_items(seed: int) -> list[Encoded]:
    generator = random.Random(seed)
    items = []
    for task in range(5):
        ids = [generator.randrange(3, VOCABULARY) for _ in range(generator.randint(3, 40))]
        items.append(Encoded(ids, generator.randint(1, len(ids) - 1), task))
    return items


def labels_of(items: list[Encoded], width: int) -> torch.Tensor:
    """What transformers calls labels: the ids at target places, -100 at prompt and padding."""
    labels = torch.full((len(items), width), -100)
    for row, item in enumerate(items):
        labels[row, item.prompt_length : len(item.ids)] = torch.tensor(
            item.ids[item.prompt_length :]
        )
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_every_target_token_is_predicted_from_the_place_before_it(seed: int) -> None:
    items = random_items(seed)
    batch = Collator(pad_id=0)(items)
    labels = labels_of(items, batch["input_ids"].shape[1])
    shifted = torch.full_like(labels, -100)
    shifted[:, :-1] = labels[:, 1:]
    ours = torch.full_like(labels, -100)
    ours.view(-1)[batch["positions"]] = batch["targets"]
    assert torch.equal(ours, shifted)
    rows = batch["positions"] // labels.shape[1]
    assert torch.equal(batch["target_tasks"], batch["tasks"][rows])
    assert torch.equal(batch["weights"], torch.ones(len(rows)))
    sums = torch.zeros(len(items))
    sums.index_add_(0, rows, Collator(pad_id=0, weighting="record")(items)["weights"])
    torch.testing.assert_close(sums, torch.ones(len(items)))


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma3"])
def test_the_loss_of_a_batch_is_that_of_transformers(architecture: str) -> None:
    model = make_model(architecture)
    items = random_items(1)
    batch = Collator(pad_id=0)(items)
    labels = labels_of(items, batch["input_ids"].shape[1])
    with torch.no_grad():
        mask = torch.arange(labels.shape[1]) < torch.tensor([[len(item.ids)] for item in items])
        theirs = model(input_ids=batch["input_ids"], attention_mask=mask, labels=labels).loss
        ours = TargetLoss(model).eval()(
            *(batch[name] for name in ("input_ids", "positions", "targets"))
        )
    assert len(ours) == int((labels != -100).sum())
    torch.testing.assert_close(ours.sum() / len(ours), theirs, rtol=1e-5, atol=1e-6)
