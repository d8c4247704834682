"""`/v1/chat/completions`, also through OpenAI's own client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.data.chat import Message
from cgclora.inference.engine import generate
from cgclora.inference.request import Request
from cgclora.inference.request_queue import Limits
from tests.helpers.reference import scatter
from tests.helpers.serving import PROMPTS, Served, serve
from tests.helpers.templates import QWEN3
from tests.helpers.tiny import make_backbone

TEMPLATE = (
    "{% for one in messages %}[{{ one.role }}]{{ one.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "今天天气很好"},
    {"role": "assistant", "content": "是的"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "The "}, {"type": "text", "text": "cat"}],
    },
]
QUESTION = [{"role": "user", "content": PROMPTS[1]}]


@pytest.fixture(scope="module")
def templated(folders: Path) -> Iterator[Served]:
    """A server whose backbone has a chat template, with one more adapter that was trained on it."""
    backbone = make_backbone()
    backbone.tokenizer.chat_template = TEMPLATE
    adapter = scatter(Adapter.attach(backbone, AdapterConfig(("e",), template=TEMPLATE)))
    adapter.save(folders / "talk")
    adapter.detach()
    with serve(folders, Limits(answer_tokens=40), backbone=backbone) as found:
        found.engine.clusters.add("talk", folders / "talk")
        yield found


def chat(served: Served, **body: Any) -> dict[str, Any]:
    response = served.post("chat/completions", **{"temperature": 0, "max_tokens": 9, **body})
    assert response.status_code == 200, response.text
    return response.json()


def client_of(served: Served) -> OpenAI:
    return OpenAI(base_url=served.url, api_key="none", max_retries=0)


@pytest.mark.parametrize("model", ["e", "tiny-qwen2"])
def test_a_conversation_is_answered_by_the_template(templated, model):
    clusters = templated.engine.clusters
    text = "[system]Be brief.\n[user]今天天气很好\n[assistant]是的\n[user]The cat\n[assistant]"
    ids = tuple(clusters.backbone.tokenizer(text, add_special_tokens=False)["input_ids"])
    task = "e" if model == "e" else None
    (expected,) = generate(
        clusters.backbone, [Request(task, prompt_ids=ids, max_new_tokens=9)], clusters
    )
    found = chat(templated, model=model, messages=TURNS)
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert (found["object"], found["model"]) == ("chat.completion", model)
    assert found["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": 9,
        "total_tokens": len(ids) + 9,
    }


def test_an_adapter_without_template_answers_one_question_as_a_completion(served):
    expected = served.expected("a", PROMPTS[1], 9)
    found = chat(served, model="a", messages=QUESTION)
    assert found["choices"][0]["message"]["content"] == expected.text
    assert found["usage"]["prompt_tokens"] == expected.prompt_tokens
    with_system = chat(served, model="a", messages=[TURNS[0], *QUESTION])
    both = served.expected("a", f"Be brief.\n{PROMPTS[1]}", 9)
    assert with_system["choices"][0]["message"]["content"] == both.text
    refused = served.post("chat/completions", model="a", messages=TURNS)
    assert refused.status_code == 400
    assert "send the last question alone" in refused.json()["error"]["message"]


def test_a_question_in_words_reaches_an_adapter_with_template_as_a_message(templated):
    asked = {"model": "e", "temperature": 0, "max_tokens": 9}
    found = templated.post(prompt=PROMPTS[1], **asked).json()
    expected = chat(templated, model="e", messages=QUESTION)
    assert found["choices"][0]["text"] == expected["choices"][0]["message"]["content"]
    assert found["usage"] == expected["usage"]


def test_auto_reads_the_last_question(served):
    asked = "请写一首关于秋天的诗：落叶"
    found = chat(served, model="auto", messages=[{"role": "user", "content": asked}])
    assert found["model"] == "small/b"
    assert found["choices"][0]["message"]["content"] == served.expected("b", asked, 9).text


def test_without_a_limit_an_answer_takes_what_there_is_room_for(templated):
    room = templated.engine.limits.answer_tokens
    body = {"model": "tiny-qwen2", "temperature": 0, "messages": QUESTION}
    found = templated.post("chat/completions", **body).json()
    (choice,) = found["choices"]
    tokens = found["usage"]["completion_tokens"]
    assert tokens == room if choice["finish_reason"] == "length" else tokens < room
    long = [{"role": "user", "content": "天" * 230}]
    full = templated.post("chat/completions", **{**body, "messages": long}).json()
    assert full["usage"]["total_tokens"] <= 256  # all that the backbone reads
    assert full["usage"]["completion_tokens"] <= 256 - full["usage"]["prompt_tokens"] < room


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(templated):
    client = client_of(templated)
    options: dict[str, Any] = {"model": "e", "messages": TURNS, "n": 2, "seed": 3}
    options |= {"temperature": 0.9, "logprobs": True, "top_logprobs": 2}
    options |= {"max_completion_tokens": 12}
    whole = client.chat.completions.create(**options)
    with client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **options
    ) as stream:
        *events, last = stream
    assert (last.choices, last.usage) == ([], whole.usage)
    assert whole.usage.completion_tokens > 12  # of both; the prompt counts once
    for choice in whole.choices:
        parts = [e.choices[0] for e in events if e.choices[0].index == choice.index]
        assert (parts[0].delta.role, parts[0].delta.content) == ("assistant", "")
        assert "".join(one.delta.content or "" for one in parts) == choice.message.content
        scored = [token for one in parts if one.logprobs for token in one.logprobs.content]
        assert scored == choice.logprobs.content
        assert [one.finish_reason for one in parts] == [None] * (len(parts) - 1) + [
            choice.finish_reason
        ]
    assert {event.object for event in events} == {"chat.completion.chunk"}
    assert len({event.id for event in events}) == 1


def test_logprobs_have_bytes_that_make_the_answer(templated):
    clusters, tokenizer = templated.engine.clusters, templated.engine.backbone.tokenizer
    found = chat(templated, model="e", messages=TURNS, logprobs=True, top_logprobs=3, max_tokens=20)
    (choice,) = found["choices"]
    messages = tuple(
        Message(one["role"], text)
        for one, text in zip(TURNS, ["Be brief.", "今天天气很好", "是的", "The cat"], strict=True)
    )
    request = Request("e", messages=messages, max_new_tokens=20, logprobs=3)
    (answer,) = generate(clusters.backbone, [request], clusters)
    content = choice["logprobs"]["content"]
    assert len(content) == found["usage"]["completion_tokens"] == answer.tokens
    for entry, one in zip(content, answer.logprobs, strict=True):
        assert entry["logprob"] == pytest.approx(one.logprob, abs=1e-5)
        assert bytes(entry["bytes"]).decode(errors="replace") == tokenizer.decode([one.token])
        assert [top["logprob"] for top in entry["top_logprobs"]] == pytest.approx(
            [logprob for _, logprob in one.top], abs=1e-5
        )
    said = b"".join(bytes(entry["bytes"]) for entry in content).decode(errors="replace")
    ended = answer.finish == "end"
    assert said.removesuffix("<eos>" if ended else "").rstrip("\ufffd") == answer.text
    bare = chat(templated, model="e", messages=TURNS, logprobs=True)["choices"][0]["logprobs"]
    assert all(entry["top_logprobs"] == [] for entry in bare["content"])


def test_prompt_logprobs_of_a_chat(templated):
    found = chat(templated, model="e", messages=TURNS, prompt_logprobs=1, max_tokens=0)
    scored = found["prompt_logprobs"]
    assert (len(scored), scored[0]) == (found["usage"]["prompt_tokens"], None)
    assert found["choices"][0]["message"]["content"] == ""
    texts = [next(iter(one.values()))["decoded_token"] for one in scored[1:]]
    assert "".join(texts).endswith("[assistant]")


def test_neutral_fields_are_taken_and_a_stop_ends_the_answer(templated):
    whole = chat(templated, model="e", messages=TURNS)["choices"][0]["message"]["content"]
    stop = whole[2]
    body = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "n": None}
    body |= {"presence_penalty": 0, "store": False, "max_tokens": 9, "max_completion_tokens": 9}
    found = chat(templated, model="e", messages=TURNS, stop=[stop, "\n\n\n"], **body)
    assert found["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
    assert found["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "x"}]}, None),
        ({"messages": [TURNS[0]] * 2000}, None),
        ({"messages": [{"role": "user", "content": "天" * 300}]}, None),
        ({"prompt": "x"}, "prompt"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"max_tokens": 0}, None),
        ({"n": 10**9}, "n"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"role": [1]}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": ["role"]}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"role": "x" * 5000}}, "chat_template_kwargs"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openai_s_format(templated, body, param):
    for model in ("a", "e", "tiny-qwen2"):
        response = templated.post(
            "chat/completions", **{"model": model, "messages": QUESTION, **body}
        )
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)


# Options of the template -------------------------------------------------------------------

STYLED = "{{ '~' * (dots | default(0)) }}" + QWEN3


@pytest.fixture(scope="module")
def thinking(folders: Path) -> Iterator[Served]:
    """A server whose backbone may think, and an adapter that was trained not to, with dots."""
    backbone = make_backbone()
    backbone.tokenizer.chat_template = STYLED
    options = {"enable_thinking": False, "dots": 3}
    config = AdapterConfig(("f",), template=STYLED, template_options=options)
    adapter = scatter(Adapter.attach(backbone, config))
    adapter.save(folders / "thinking")
    adapter.detach()
    with serve(folders, backbone=backbone) as found:
        found.engine.clusters.add("thinking", folders / "thinking")
        yield found


@pytest.mark.parametrize(
    ("model", "given", "rendered"),
    [
        ("f", None, {"enable_thinking": False, "dots": 3}),
        ("f", {}, {"enable_thinking": False, "dots": 3}),
        ("f", {"enable_thinking": None}, {"enable_thinking": False, "dots": 3}),
        ("f", {"enable_thinking": True}, {"enable_thinking": True, "dots": 3}),
        ("f", {"dots": 5}, {"enable_thinking": False, "dots": 5}),
        ("f", {"custom_tools": False, "dots": 0}, {"enable_thinking": False, "dots": 0}),
        ("tiny-qwen2", None, {"enable_thinking": False}),
        ("tiny-qwen2", {"enable_thinking": True, "dots": 1}, {"enable_thinking": True, "dots": 1}),
    ],
)
def test_a_request_s_options_go_over_those_of_the_adapter(thinking, model, given, rendered):
    clusters = thinking.engine.clusters
    ids = clusters.backbone.tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False, **rendered
    )
    task = "f" if model == "f" else None
    asked = Request(task, prompt_ids=tuple(ids), max_new_tokens=9)
    (expected,) = generate(clusters.backbone, [asked], clusters)
    body = {} if given is None else {"chat_template_kwargs": given}
    found = chat(thinking, model=model, messages=QUESTION, **body)
    assert found["usage"]["prompt_tokens"] == len(ids)
    assert found["choices"][0]["message"]["content"] == expected.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"add_generation_prompt": False}, "'add_generation_prompt' is no option"),
        ({"tokenize": True}, "'tokenize' is no option"),
        ({"messages": []}, "'messages' is no option"),
        ({"chat_template": "{{ 1 }}"}, "'chat_template' is no option"),
        ({"eos_token": "x"}, "'eos_token' is no option"),
        ({"enable_thinkin": True}, "does not ask about 'enable_thinkin': leave it out"),
        ({"dots": [1]}, "'dots' must be text, a number, true or false"),
        ({"dots": "many"}, "the chat template refuses"),
    ],
)
def test_what_a_template_cannot_take_is_said(thinking, options, words):
    for model in ("f", "tiny-qwen2"):
        client = client_of(thinking)
        body = {"chat_template_kwargs": options}
        with pytest.raises(BadRequestError, match=words):
            client.chat.completions.create(model=model, messages=QUESTION, extra_body=body)


def test_a_model_without_template_takes_options_that_have_no_effect(served):
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    plain = chat(served, model="a", messages=QUESTION)["choices"]
    assert chat(served, model="a", messages=QUESTION, **off)["choices"] == plain
    on = {"chat_template_kwargs": {"enable_thinking": True}}
    refused = served.post("chat/completions", model="a", messages=QUESTION, **on)
    assert "no chat template that asks about" in refused.json()["error"]["message"]


def test_the_client_of_openai_raises_its_own_errors(served):
    client = client_of(served)
    with pytest.raises(BadRequestError, match="not supported here"):
        client.chat.completions.create(model="a", messages=QUESTION, presence_penalty=1)
    found = client.chat.completions.create(model="large/b", messages=QUESTION, max_tokens=2)
    assert found.choices[0].message.role == "assistant"
