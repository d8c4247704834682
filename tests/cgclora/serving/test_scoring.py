"""Logprobs, echo, token ids and several answers of `/v1/completions`."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from torch import Tensor

from cgclora.adapter import Adapter
from cgclora.models.backbone import Backbone
from tests.helpers.serving import PROMPTS, Served
from tests.helpers.tiny import make_backbone

TEXT = "今天天气😀很好，The cat"
MODELS = {"a": ("small", "a"), "large/b": ("large", "b"), "tiny-qwen2": (None, None)}


@pytest.fixture(scope="module")
def models(folders: Path) -> dict[str, Any]:
    """For each model a function from token ids to log-probabilities [tokens, V], in one pass."""
    return {name: plain_model(folders, *target) for name, target in MODELS.items()}


def plain_model(folders: Path, cluster: str | None, task: str | None) -> Any:
    backbone = make_backbone()
    adapter = None if cluster is None else Adapter.load(folders / cluster, backbone)

    @torch.no_grad()
    def logprobs(ids: list[int]) -> Tensor:
        tokens = torch.tensor([ids])
        if adapter is None:
            return backbone.model(input_ids=tokens).logits[0].log_softmax(-1)
        with adapter.route([task]):
            return backbone.model(input_ids=tokens).logits[0].log_softmax(-1)

    return logprobs


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return make_backbone()


def ask(served: Served, **body: Any) -> dict[str, Any]:
    response = served.post(**{"temperature": 0, "model": "a", **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_text_is_scored_as_the_plain_model_scores_it(served, models, backbone):
    """By texts and by ids, several of both at once, with and without an adapter."""
    ids = [backbone.tokenizer(text)["input_ids"] for text in (TEXT, PROMPTS[1])]
    for model, plain in models.items():
        by_text = ask(served, model=model, prompt=[TEXT, PROMPTS[1]], echo=True, logprobs=3,
                      max_tokens=0)  # fmt: skip
        by_ids = ask(served, model=model, prompt=ids, echo=True, logprobs=3, max_tokens=0)
        assert by_text["usage"] == by_ids["usage"]
        assert by_text["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[1])
        assert by_text["usage"]["completion_tokens"] == 0
        for place, (own, given) in enumerate(
            zip(by_text["choices"], by_ids["choices"], strict=True)
        ):
            assert own["text"] == (TEXT, PROMPTS[1])[place]
            assert given["text"] == "<bos>" + own["text"]  # all that the client has sent
            assert own["logprobs"]["tokens"] == given["logprobs"]["tokens"]
            expected = plain(ids[place])
            for form in (own["logprobs"], given["logprobs"]):
                assert form["token_logprobs"][0] is form["top_logprobs"][0] is None
                following = [expected[i, token].item() for i, token in enumerate(ids[place][1:])]
                assert form["token_logprobs"][1:] == pytest.approx(following, abs=1e-4)
                for i, likely in enumerate(form["top_logprobs"][1:]):
                    best = expected[i].topk(3).values.tolist()
                    assert sorted(likely.values())[::-1][:3] == pytest.approx(best, abs=1e-4)
                    assert form["token_logprobs"][i + 1] in likely.values()
                    assert len(likely) <= 4


def test_offsets_are_places_in_the_text(served, backbone):
    own = backbone.tokenizer(TEXT)["input_ids"][1:]
    found = ask(served, prompt=TEXT, echo=True, logprobs=0, max_tokens=20)["choices"][0]
    tokens, offsets = found["logprobs"]["tokens"], found["logprobs"]["text_offset"]
    starts = [len(backbone.tokenizer.decode(own[:i]).rstrip("\ufffd")) for i in range(len(own))]
    assert offsets[: len(own) + 1] == [0, *starts]
    assert any(token.startswith("bytes:") for token in tokens[: len(own)])
    assert found["text"].startswith(TEXT)
    assert offsets == sorted(offsets)
    ids = tuple(backbone.tokenizer(TEXT)["input_ids"])
    answer = served.expected("a", "", 20, prompt_ids=ids, logprobs=0)
    said = [one.token for one in answer.logprobs]
    assert found["text"] == TEXT + answer.text
    texts = [backbone.tokenizer.decode(said[:i], skip_special_tokens=True) for i in range(20)]
    assert offsets[len(ids) :] == [
        len(TEXT) + max(len(one.rstrip("\ufffd")) for one in texts[: i + 1])
        for i in range(len(said))
    ]


def test_the_answer_has_the_logprobs_of_the_model(served, models, backbone):
    plain, prompt = models["a"], backbone.tokenizer(PROMPTS[0] + "\n")["input_ids"]
    found = ask(served, prompt=PROMPTS[0], logprobs=2, max_tokens=6)
    alone = ask(served, prompt=PROMPTS[0], max_tokens=6)
    (choice,) = found["choices"]
    assert choice["text"] == alone["choices"][0]["text"]
    assert alone["choices"][0]["logprobs"] is None
    answer = served.expected("a", PROMPTS[0], 6, logprobs=0)
    said = [one.token for one in answer.logprobs]
    rows = plain([*prompt, *said])[len(prompt) - 1 :]
    expected = [rows[i, token].item() for i, token in enumerate(said)]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=1e-4)
    assert len(said) == found["usage"]["completion_tokens"]


def test_vllm_s_prompt_logprobs(served, models, backbone):
    ids = backbone.tokenizer(TEXT)["input_ids"]
    found = ask(served, prompt=TEXT, prompt_logprobs=2, max_tokens=1)["choices"][0]
    first, *rest = found["prompt_logprobs"]
    assert first is None
    assert found["logprobs"] is None
    expected = models["a"](ids)
    for token, row, entry in zip(ids[1:], expected, rest, strict=False):
        order = row.argsort(descending=True).tolist()
        assert {*entry} == {str(token), *map(str, order[:2])}
        for word, one in entry.items():
            assert one["rank"] == order.index(int(word)) + 1
            assert one["logprob"] == pytest.approx(row[int(word)].item(), abs=1e-4)
    texts = [entry[str(token)]["decoded_token"] for token, entry in zip(ids[1:], rest, strict=True)]
    assert texts[-1] in TEXT


def test_a_question_gets_its_separator_and_a_scored_text_does_not(served, backbone):
    def tokens(**body: Any) -> int:
        return ask(served, prompt=PROMPTS[0], max_tokens=1, **body)["usage"]["prompt_tokens"]

    plain = len(backbone.tokenizer(PROMPTS[0])["input_ids"])
    asked = len(backbone.tokenizer(PROMPTS[0] + "\n")["input_ids"])
    assert tokens() == tokens(echo=True) == tokens(logprobs=1) == asked
    assert tokens(echo=True, logprobs=1) == tokens(prompt_logprobs=0) == plain


def test_ids_are_read_as_they_are(served, backbone):
    asked = backbone.tokenizer(PROMPTS[1] + "\n")["input_ids"]
    for prompt in (asked, [asked, asked]):
        found = ask(served, prompt=prompt, max_tokens=16)
        assert {one["text"] for one in found["choices"]} == {served.expected("a", PROMPTS[1]).text}
    mixed = ask(served, prompt=[asked, PROMPTS[1]], max_tokens=16)["choices"]
    assert mixed[0]["text"] == mixed[1]["text"]
    refused = served.post(model="auto", prompt=asked)
    assert refused.status_code == 400
    assert "send it as text" in refused.json()["error"]["message"]


def test_several_answers_have_a_seed_each(served):
    options = {"prompt": list(PROMPTS[:2]), "temperature": 1.5, "max_tokens": 8, "seed": 11}
    found = ask(served, n=3, best_of=3, **options)
    assert [one["index"] for one in found["choices"]] == [*range(6)]
    texts = [one["text"] for one in found["choices"]]
    expected = [
        served.expected("a", prompt, 8, temperature=1.5, seed=11 + 3 * i + j)
        for i, prompt in enumerate(PROMPTS[:2])
        for j in range(3)
    ]
    assert texts == [one.text for one in expected]
    assert len({*texts}) > 3
    usage = found["usage"]
    assert usage["prompt_tokens"] == expected[0].prompt_tokens + expected[3].prompt_tokens
    assert usage["completion_tokens"] == sum(one.tokens for one in expected)


def test_a_stream_with_echo_and_logprobs_adds_up_to_the_whole(served):
    body = {"model": "a", "prompt": [TEXT, "x"], "echo": True, "logprobs": 1, "max_tokens": 12}
    body |= {"n": 2, "seed": 4, "temperature": 0.8}
    expected = ask(served, **body)
    events = [*served.events(**body, stream_options={"include_usage": True})]
    assert events.pop()["usage"] == expected["usage"]
    assert all(event["usage"] is None for event in events)
    for whole in expected["choices"]:
        parts = [event["choices"][0] for event in events]
        parts = [one for one in parts if one["index"] == whole["index"]]
        assert "".join(one["text"] for one in parts) == whole["text"]
        for name in ("tokens", "text_offset"):
            columns = [one["logprobs"][name] for one in parts]
            assert [*chain.from_iterable(columns)] == whole["logprobs"][name]
        assert [one["finish_reason"] for one in parts[:-1]] == [None] * (len(parts) - 1)


def test_the_client_of_openai_reads_the_logprobs(served):
    client = OpenAI(base_url=served.url, api_key="none")
    found = client.completions.create(
        model="d", prompt=TEXT, logprobs=2, echo=True, max_tokens=1, temperature=0
    )
    scored = found.choices[0].logprobs
    assert len(scored.tokens) == len(scored.token_logprobs) == found.usage.total_tokens
    assert scored.token_logprobs[0] is None
    assert max(scored.top_logprobs[-1].values()) == scored.token_logprobs[-1]


def test_a_request_of_every_field_at_its_limit_is_answered(served):
    body = {"model": "a", "prompt": [2, 5], "n": 3, "logprobs": 20, "prompt_logprobs": 20}
    body |= {"echo": True, "max_tokens": 1, "stop": ["x" * 100] * 16, "top_p": 1, "user": "me"}
    body |= {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "top_k": -1}
    response = served.post(**body)
    assert response.status_code == 200, response.text
    assert json.loads(response.text, parse_constant=pytest.fail)["choices"][2]["logprobs"]


def test_any_token_may_be_a_prompt(served, backbone):
    prompts = [[token] for token in range(0, 300, 7)]
    found = ask(served, model="tiny-qwen2", prompt=prompts, echo=True, logprobs=1, max_tokens=1)
    for (token,), one in zip(prompts, found["choices"], strict=True):
        assert one["text"].startswith(backbone.tokenizer.decode([token]))
        assert one["logprobs"]["text_offset"][0] == 0
