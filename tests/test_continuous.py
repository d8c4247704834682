"""Continuous batching of any adapters, on the CPU: as each request is answered by itself."""

import itertools
import random
import warnings
from dataclasses import replace

import pytest
import torch

from cgclora import bank, continuous, static_batch
from cgclora.adapter import Adapter
from cgclora.backbone import Backbone, load_backbone
from cgclora.bank import Bank, sharing_pays
from cgclora.cluster import Clusters
from cgclora.compiled import Compiled
from cgclora.continuous import answers, answers_of
from cgclora.decoding import generate
from cgclora.lean import Cache, Experts, LeanDecoder
from cgclora.reply import Reply
from cgclora.request import Answer, DecodingError, Request
from cgclora.static_batch import StaticBatch, bucket
from tests.reference import METHODS, TASKS, scatter
from tests.tiny import make_backbone

PROMPTS = ("天气", "Is this sentence about the weather?", "今天天气很好，我们去公园散步。" * 2)


def several(backbone: Backbone) -> list[Adapter | None]:
    """Adapters of all methods, which know the same tasks, and the bare backbone."""
    return [
        *(
            scatter(Adapter.attach(backbone, config, name=f"a{place}"), seed=place)
            for place, config in enumerate(METHODS.values())
        ),
        None,
    ]


def mixed(adapters: list[Adapter | None], count: int) -> list[tuple[Request, Adapter | None]]:
    """Requests of all adapters and tasks, of unlike length, some with a stop text."""
    pairs = itertools.cycle(itertools.product(TASKS, adapters))
    return [
        (
            Request(
                task,
                f"{place}{PROMPTS[place % 3]}",
                max_new_tokens=2 + 7 * (place % 4),
                stop=("a", "NN") if place % 3 == 0 else (),
            ),
            adapter,
        )
        for place, (task, adapter) in zip(range(count), pairs)
    ]


def facts(answer: Answer) -> tuple[str, str, int, int]:
    return answer.text, answer.finish, answer.prompt_tokens, answer.tokens


def alone(backbone: Backbone, asked: list[tuple[Request, Adapter | None]]) -> list[Answer]:
    """Each request by itself, in its adapter's own batch of one."""
    return [
        generate(backbone, [request if adapter else replace(request, task=None)], adapter)[0]
        for request, adapter in asked
    ]


def statically(backbone: Backbone, asked, monkeypatch, **options) -> list[Answer]:
    """As `answers_of` does it on CUDA."""
    monkeypatch.setitem(continuous.ROWS, "cpu", 64)
    original = continuous.answers
    monkeypatch.setattr(
        continuous, "answers", lambda *words, **given: original(*words, **given | options)
    )
    requests, adapters = zip(*asked, strict=True)
    found = dict(answers_of(backbone, requests, adapters))
    return [found[place] for place in range(len(asked))]


# As each alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("architecture", ["gemma3", "qwen2", "qwen3", "llama", "gpt_neox"])
def test_mixed_adapters_answer_as_each_alone(architecture, static, monkeypatch):
    """Though all of them know the same tasks, and the order does not matter."""
    backbone = make_backbone(architecture)
    asked = mixed(several(backbone), 40)
    expected = [facts(answer) for answer in alone(backbone, asked)]
    assert len({text for text, *_ in expected}) > 10
    order = list(range(len(asked)))
    random.Random(0).shuffle(order)
    for batch_size, places in ((5, order), (64, range(len(asked)))):
        chosen = [asked[place] for place in places]
        if static and backbone.is_lean:
            found = statically(backbone, chosen, monkeypatch, batch_size=batch_size)
        else:
            requests, adapters = zip(*chosen, strict=True)
            by_place = dict(answers_of(backbone, requests, adapters, batch_size=batch_size))
            found = [by_place[place] for place in range(len(chosen))]
        assert [facts(answer) for answer in found] == [expected[place] for place in places]
