"""Log-probabilities of answers and prompts, against transformers' own logits in one pass."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cgclora.adapter import Adapter
from cgclora.inference.engine import Engine, generate, stream
from cgclora.inference.request import Answer, DecodingError, Request, TokenLogprob
from cgclora.inference.request_queue import Limits
from cgclora.models.backbone import Backbone
from tests.cgclora.inference.test_engine import TASKS, prompt_ids, with_adapter
from tests.helpers.tiny import VOCABULARY, make_backbone

PROMPTS = ("天气", "今天天气很好，我们去公园散步。头痛和发热是感冒的常见症状。", "The cat 😀 sat")
REQUESTS = [
    Request(TASKS[0], PROMPTS[0], max_new_tokens=9, logprobs=3, prompt_logprobs=2),
    Request(None, PROMPTS[1], max_new_tokens=4, logprobs=0),
    Request(TASKS[1], PROMPTS[2], max_new_tokens=7, temperature=1.5, seed=3, logprobs=1),
    Request(TASKS[2], PROMPTS[1], max_new_tokens=0, prompt_logprobs=0),
    Request(TASKS[2], PROMPTS[1], max_new_tokens=3),
    Request(None, "", prompt_ids=(2, 77, 5), max_new_tokens=5, logprobs=5, prompt_logprobs=5),
]


@pytest.fixture(scope="module", params=["qwen2", "gemma3", "gpt_neox"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return make_backbone(request.param)


@pytest.fixture(scope="module")
def adapter(backbone: Backbone) -> Adapter:
    return with_adapter(backbone)


@torch.no_grad()
def expected(backbone: Backbone, adapter: Adapter, task: str | None, ids: list[int]) -> Tensor:
    """Log-probabilities [tokens, V] of the token after each, in float64."""
    tokens = torch.tensor([ids])
    if task is None:
        return backbone.model(input_ids=tokens).logits[0].double().log_softmax(-1)
    with adapter.route([task]):
        return backbone.model(input_ids=tokens).logits[0].double().log_softmax(-1)


def check(found: list[TokenLogprob], rows: Tensor, ids: list[int], top: int) -> None:
    """The logprobs of these ids, each after the state of a row."""
    assert [one.token for one in found] == ids
    for one, row in zip(found, rows, strict=True):
        assert one.logprob == pytest.approx(row[one.token].item(), abs=1e-4)
        assert one.rank == 1 + int((row > row[one.token] + 1e-9).sum())
        values, words = row.topk(top)
        assert [word for word, _ in one.top] == words.tolist()
        assert [value for _, value in one.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_logprobs_in_a_mixed_batch_are_those_of_the_model(
    backbone: Backbone, adapter: Adapter
) -> None:
    answers = generate(backbone, REQUESTS, adapter)
    for request, answer in zip(REQUESTS, answers, strict=True):
        ids = [*(request.prompt_ids or prompt_ids(backbone, request.prompt))]
        assert answer.prompt_tokens == len(ids)
        if request.prompt_logprobs is None:
            assert answer.prompt_logprobs is None
        else:
            rows = expected(backbone, adapter, request.task, ids)
            check(answer.prompt_logprobs, rows[:-1], ids[1:], request.prompt_logprobs)
        if request.logprobs is None:
            assert answer.logprobs is None
        else:
            said = [one.token for one in answer.logprobs]
            assert len(said) == answer.tokens
            rows = expected(backbone, adapter, request.task, [*ids, *said])
            check(answer.logprobs, rows[len(ids) - 1 : -1], said, request.logprobs)


def without_scores(answer: Answer) -> Answer:
    return replace(answer, seconds=0, logprobs=None, prompt_logprobs=None)


def test_logprobs_change_no_answer(backbone: Backbone, adapter: Adapter) -> None:
    plain = [
        replace(one, logprobs=None, prompt_logprobs=None) for one in REQUESTS if one.max_new_tokens
    ]
    answers = [without_scores(one) for one in generate(backbone, REQUESTS, adapter) if one.tokens]
    assert answers == [without_scores(one) for one in generate(backbone, plain, adapter)]


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_the_pieces_of_a_stream_have_the_logprobs_of_the_answer(
    backbone: Backbone, adapter: Adapter, number: int
) -> None:
    first, *rest = stream(backbone, REQUESTS[number : number + 1], adapter)
    answer = (rest or [first])[-1].answer
    assert sum((one.logprobs for one in [first, *rest]), ()) == (answer.logprobs or ())
    assert first.prompt_logprobs == answer.prompt_logprobs
    assert all(one.prompt_logprobs is None for one in rest)


def test_scored_prompts_leave_a_running_batch_and_others_join_it(
    backbone: Backbone, adapter: Adapter
) -> None:
    requests = [
        replace(REQUESTS[i % 4], max_new_tokens=i % 3, prompt_logprobs=1, temperature=0)
        for i in range(9)
    ]
    engine = Engine(backbone, adapter, Limits(batch_size=3))
    together = engine.generate(requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = generate(backbone, [request], adapter)
        assert (answer.text, answer.tokens) == (alone.text, alone.tokens)
        pairs = zip(answer.prompt_logprobs, alone.prompt_logprobs, strict=True)
        assert all(a.token == b.token and abs(a.logprob - b.logprob) < 1e-4 for a, b in pairs)


def test_a_label_has_its_logprob_over_the_whole_vocabulary(
    backbone: Backbone, adapter: Adapter
) -> None:
    """Tokens that the labels leave no choice about have one, too."""
    request = Request(TASKS[0], PROMPTS[0], choices=("感冒", "The cat"), logprobs=1)
    (answer,) = generate(backbone, [request], adapter)
    assert answer.text in request.choices
    ids, said = prompt_ids(backbone, PROMPTS[0]), [one.token for one in answer.logprobs]
    assert backbone.tokenizer.decode(said, skip_special_tokens=True) == answer.text
    rows = expected(backbone, adapter, TASKS[0], [*ids, *said])
    check(answer.logprobs, rows[len(ids) - 1 : -1], said, 1)


def test_more_tokens_than_there_are_lists_them_all(backbone: Backbone) -> None:
    (answer,) = generate(backbone, [Request(None, "x", max_new_tokens=1, logprobs=10**9)])
    assert len({word for word, _ in answer.logprobs[0].top}) == VOCABULARY


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logprobs": -1}, "logprobs and prompt_logprobs must be at least 0"),
        ({"prompt_logprobs": -1}, "logprobs and prompt_logprobs must be at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": -1, "prompt_logprobs": 0}, "max_new_tokens must be at least 0"),
        ({"prompt": "", "prompt_ids": ()}, "the prompt is empty"),
        ({"prompt_ids": ()}, "there are several of prompt, messages and prompt_ids"),
        ({"prompt": "", "prompt_ids": (5, VOCABULARY)}, f"no token {VOCABULARY}: .* reads 0 to"),
        ({"prompt": "", "prompt_ids": (-1,)}, "no token -1"),
    ],
)
def test_what_cannot_be_scored_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DecodingError, match=message):
        generate(make_backbone(), [Request(None, **{"prompt": "x", **settings})])
