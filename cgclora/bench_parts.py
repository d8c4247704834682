"""What parts of the benchmark are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from cgclora.backbone import Backbone
from cgclora.batch import Batch
from cgclora.data import encode_prompts
from cgclora.request import Experts, Request

NEW_TOKENS = 24
PROMPT = "判断下面两句话的意思是否相同：\n“今天天气怎么样”，“今天会下雨吗”\n选项：是的，不是\n答："


@dataclass(frozen=True)
class Bar:
    """What a method of a part has to reach.

    Attributes:
        of: The method measured.
        least: The least allowed value of the reference's time over the method's.
        against: The method that is the reference, or a number of seconds.
    """

    of: str
    least: float
    against: str | float


@dataclass(frozen=True)
class Part:
    """Methods to time against one another, and the bars on their ratios."""

    methods: Mapping[str, Callable[[], None]]
    bars: Sequence[Bar]


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules that shares the frozen weights, so that copies cost no memory."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def decode(backbone: Backbone, tasks: Sequence[str | None], experts: Experts | None = None) -> None:
    """Greedy decoding of exactly `NEW_TOKENS` tokens a row."""
    prompts = encode_prompts([PROMPT] * len(tasks), backbone.tokenizer, "\n")
    batch = Batch(backbone, experts, [Request(task, PROMPT) for task in tasks], prompts)
    logits = batch.prefill()
    for _ in range(NEW_TOKENS - 1):
        logits = batch.step(logits.argmax(-1).tolist())
