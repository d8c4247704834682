"""Answers: what they say, when they end, and that neighbours and threads change nothing."""

import copy
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.chat import encode_prompts
from cgclora.inference import decoding
from cgclora.inference.engine import Engine, generate, stream
from cgclora.inference.fast_decoder import FastDecoder
from cgclora.inference.request import Answer, DecodingError, Piece, Request
from cgclora.inference.request_queue import Call, Limits
from cgclora.models.backbone import Backbone
from cgclora.storage.adapter_dir import AdapterError
from tests.helpers.tiny import ARCHITECTURES, VOCABULARY, make_backbone, starts_with_bos

TASKS = ("mood", "weather", "names")
SHORT = "天气"
MIDDLE = "Is this sentence about the weather?"
LONG = "今天天气很好，我们去公园散步。头痛和发热是感冒的常见症状。"  # beyond gemma3's window of 16


def with_adapter(backbone: Backbone, **settings: object) -> Adapter:
    """An adapter whose experts and gate say something: random B and gate, not zero."""
    config = AdapterConfig(TASKS, common=2, specific=1, alpha=4.0, **settings)
    adapter = Adapter.attach(backbone, config, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "expert_A" not in name:
                parameter.normal_(0, 0.3, generator=generator)
    return adapter


def prompt_ids(backbone: Backbone, prompt: str) -> list[int]:
    return encode_prompts([prompt], backbone.tokenizer, "\n")[0]


@torch.no_grad()
def slow_greedy(backbone: Backbone, request: Request, adapter: Adapter | None) -> list[int]:
    """Greedy decoding of one row without cache, padding or batch: the whole sequence every time."""
    ids = prompt_ids(backbone, request.prompt)
    start = len(ids)
    while len(ids) < start + request.max_new_tokens:
        tokens = torch.tensor([ids])
        if adapter is None or request.task is None:
            logits = backbone.model(input_ids=tokens).logits
        else:
            with adapter.route([request.task]):
                logits = backbone.model(input_ids=tokens).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == backbone.tokenizer.eos_token_id:
            break
    return ids[start:]


def text_of(backbone: Backbone, ids: list[int]) -> str:
    """What ids say; bytes at the end that are no whole character are not shown."""
    return backbone.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")


def facts(answers: Sequence[Answer]) -> list[tuple[str, str, int, int]]:
    """All of an answer but its seconds."""
    return [(a.text, a.finish, a.prompt_tokens, a.tokens) for a in answers]


@pytest.mark.parametrize("several", [False, True])
def test_an_answer_ends_where_the_models_own_generation_ends(several: bool) -> None:
    """Most chat models name end tokens in their generation config that the tokenizer does not."""
    backbone = make_backbone("llama")
    request = Request(None, "今天天气很好", max_new_tokens=30)
    free = slow_greedy(backbone, request, None)
    ends = [free[4], VOCABULARY - 1] if several else free[4]
    assert backbone.tokenizer.eos_token_id not in free[:5]
    backbone.model.generation_config.eos_token_id = ends
    ids = torch.tensor([prompt_ids(backbone, request.prompt)])
    expected = backbone.model.generate(ids, max_new_tokens=30, do_sample=False)
    said = expected[0, ids.shape[1] :].tolist()
    assert len(said) < 30
    found = generate(backbone, [request, replace(request, max_new_tokens=3)])
    assert (found[0].finish, found[0].tokens) == ("end", len(said))
    assert found[0].text == text_of(backbone, said[:-1])
    assert found[1].finish == "length"


# Against independent decoding -------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mixed_batch_answers_as_each_row_would_alone(architecture: str) -> None:
    backbone = make_backbone(architecture)
    adapter = with_adapter(backbone)
    requests = [
        Request("mood", SHORT, max_new_tokens=3),
        Request(None, LONG, max_new_tokens=14),
        Request("names", LONG + LONG, max_new_tokens=24),
        Request("weather", MIDDLE, max_new_tokens=8),
        Request("mood", LONG + MIDDLE, max_new_tokens=20),
    ]
    expected = [slow_greedy(backbone, request, adapter) for request in requests]
    answers = generate(backbone, requests, adapter)
    assert [a.text for a in answers] == [text_of(backbone, ids) for ids in expected]
    assert [a.tokens for a in answers] == [len(ids) for ids in expected]
    assert [a.prompt_tokens for a in answers] == [
        len(prompt_ids(backbone, request.prompt)) for request in requests
    ]
    # The rows would not differ by accident: their tasks see to it.
    assert expected[2] != slow_greedy(backbone, replace(requests[2], task=None), adapter)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_bare_backbone_answers_as_transformers_does(architecture: str) -> None:
    backbone = make_backbone(architecture)
    requests = [Request(None, prompt, max_new_tokens=12) for prompt in (SHORT, LONG, MIDDLE)]
    for request, answer in zip(requests, generate(backbone, requests), strict=True):
        ids = torch.tensor([prompt_ids(backbone, request.prompt)])
        theirs = backbone.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )
        assert answer.text == text_of(backbone, theirs[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3", "gpt_neox"])
def test_a_folded_task_answers_as_an_unfolded_one(architecture: str) -> None:
    backbone = make_backbone(architecture)
    adapter = with_adapter(backbone)
    requests = [Request("weather", prompt, max_new_tokens=10) for prompt in (LONG, SHORT)]
    unfolded = generate(backbone, requests, adapter)
    adapter.fold("weather")
    folded = generate(backbone, requests, adapter)
    adapter.unfold()
    assert facts(folded) == facts(unfolded) == facts(generate(backbone, requests, adapter))


def test_batches_of_any_size_give_the_same_answers_in_the_order_of_the_requests() -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone)
    requests = [
        Request(task, prompt, max_new_tokens=6)
        for task, prompt in itertools.product((*TASKS, None), (SHORT, LONG, MIDDLE))
    ]
    whole = generate(backbone, requests, adapter)
    for size in (1, 5):
        assert facts(generate(backbone, requests, adapter, batch_size=size)) == facts(whole)
    assert generate(backbone, [], adapter) == []


# Gates of a request's own -----------------------------------------------------------------


def folded_by_hand(model: PreTrainedModel, adapter: Adapter, gates: Tensor) -> PreTrainedModel:
    """W0 + s * sum_e g[l, e] B_e A_e for every layer, in float64, as an ordinary model."""
    plain = copy.deepcopy(model)
    rank = adapter.config.expert_rank
    for row, (path, layer) in enumerate(adapter.layers.items()):
        A, B = layer.expert_A["default"].double(), layer.expert_B["default"].double()
        total = layer.base_layer.weight.double()
        for expert in range(adapter.config.num_experts):
            piece = slice(expert * rank, (expert + 1) * rank)
            total = total + adapter.config.scale * gates[row, expert] * (B[:, piece] @ A[piece])
        plain.get_submodule(path).weight = torch.nn.Parameter(total.float(), requires_grad=False)
    return plain


@pytest.mark.parametrize("per_layer", [False, True])
def test_gates_of_a_request_take_the_place_of_the_gate(per_layer: bool) -> None:
    backbone = make_backbone()
    bare = copy.deepcopy(backbone.model)
    adapter = with_adapter(backbone)
    shape = (len(adapter.layers), adapter.config.num_experts)
    gates = torch.rand(
        shape if per_layer else shape[1:], generator=torch.Generator().manual_seed(1)
    )
    request = Request("mood", LONG, max_new_tokens=12, gates=gates)
    plain = Backbone(
        folded_by_hand(bare, adapter, gates.expand(shape)), backbone.tokenizer, "plain", ""
    )
    expected = [
        slow_greedy(plain, request, None),
        slow_greedy(backbone, replace(request, gates=None), adapter),
        slow_greedy(backbone, request, None),
    ]
    assert len({tuple(ids) for ids in expected}) == 3
    batch = [request, replace(request, gates=None), Request(None, LONG, max_new_tokens=12)]
    answers = generate(backbone, batch, adapter)
    assert [a.text for a in answers] == [text_of(backbone, ids) for ids in expected]


@pytest.mark.parametrize(
    "gates", [torch.ones(4), torch.ones(1, 5), torch.ones(5, 14), torch.tensor([torch.nan] * 5)]
)
def test_gates_that_do_not_fit_are_refused(gates: Tensor) -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone)
    assert (len(adapter.layers), adapter.config.num_experts) == (14, 5)
    with pytest.raises(AdapterError, match="gates"):
        generate(backbone, [Request("mood", SHORT, gates=gates)], adapter)


def test_a_token_that_the_backbone_has_no_embedding_for_is_refused() -> None:
    backbone = make_backbone()
    backbone.tokenizer.add_special_tokens({"additional_special_tokens": ["<picture>"]})
    with pytest.raises(DecodingError, match="cannot read '<picture>'"):
        list(stream(backbone, [Request(None, "x<picture>y")]))


def test_gates_without_experts_to_weigh_are_refused() -> None:
    backbone = make_backbone()
    with pytest.raises(DecodingError, match="gates"):
        generate(backbone, [Request(None, SHORT, gates=torch.ones(5))])
    adapter = with_adapter(backbone)
    with pytest.raises(DecodingError, match="gates"):
        generate(backbone, [Request(None, SHORT, gates=torch.ones(5))], adapter)


# Streaming --------------------------------------------------------------------------------


def streamed(
    backbone: Backbone, requests: Sequence[Request], adapter: Adapter | None = None
) -> tuple[list[list[str]], list[Answer]]:
    """The texts of each request's pieces, and its one answer, which must come at the end."""
    texts: list[list[str]] = [[] for _ in requests]
    answers: dict[int, Answer] = {}
    for piece in stream(backbone, requests, adapter):
        assert piece.index not in answers, "a piece came after the last one"
        texts[piece.index].append(piece.text)
        if piece.answer is not None:
            answers[piece.index] = piece.answer
    return texts, [answers[index] for index in range(len(requests))]


def test_pieces_add_up_to_the_answer_and_the_last_one_brings_it() -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone)
    requests = [
        Request(task, prompt, max_new_tokens=length)
        for task, prompt, length in zip(
            ("mood", None, "names", "weather", "mood"),
            (SHORT, LONG, MIDDLE, LONG, MIDDLE),
            (2, 30, 28, 5, 26),
            strict=True,
        )
    ]
    texts, answers = streamed(backbone, requests, adapter)
    assert ["".join(pieces) for pieces in texts] == [answer.text for answer in answers]
    assert facts(answers) == facts(generate(backbone, requests, adapter))
    assert answers[0].seconds < answers[1].seconds


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, put together as in Gemma and Llama 2."""
    words = ["<pad>", "<eos>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = starts_with_bos(tokenizer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


@pytest.fixture(params=["byte level", "byte fallback"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """A backbone whose tokens are bytes or little more."""
    made = make_backbone()
    if request.param == "byte level":
        return made
    return replace(made, tokenizer=byte_fallback_tokenizer())


def saying(text: str, **settings: object) -> Request:
    """A request that can only be answered by `text`."""
    return Request(None, SHORT, choices=(text,), **{"max_new_tokens": 200, **settings})


@pytest.mark.parametrize("text", ["龘靐齉", "a龘b", "👩‍👩‍👧 ok", "naïve"])
def test_a_character_is_never_sent_in_part(backbone: Backbone, text: str) -> None:
    assert len(backbone.tokenizer(text, add_special_tokens=False)["input_ids"]) > len(text)
    (pieces,), (answer,) = streamed(backbone, [saying(text)])
    assert answer.text == "".join(pieces) == text
    assert answer.finish == "end"
    assert all("\ufffd" not in piece for piece in pieces)
    assert len(pieces) >= len(text)  # and no character waits for the next one


def test_an_answer_cut_off_within_a_character_ends_before_it(backbone: Backbone) -> None:
    for length in range(1, len("a龘b".encode()) + 1):
        (pieces,), (answer,) = streamed(backbone, [saying("a龘b", max_new_tokens=length)])
        assert answer.text == "".join(pieces)
        assert answer.text == ("a龘b".encode()[:length]).decode(errors="ignore")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("一行\n二行", ("\n",), "一行"),
        ("abcabdabe", ("abd",), "abc"),
        ("ab龘龘c", ("b龘龘",), "a"),  # a stop that is in part a character in part
        ("aab", ("ab",), "a"),
        ("龘END龘", ("END", "龘E"), ""),
        ("天气好", ("不在里面", "天气好的"), "天气好"),
        ("abab", ("abc",), "abab"),
    ],
)
def test_a_stop_ends_the_answer_and_nothing_of_it_is_sent(
    backbone: Backbone, text: str, stop: tuple[str, ...], expected: str
) -> None:
    (pieces,), (answer,) = streamed(backbone, [saying(text, stop=stop)])
    assert answer.text == "".join(pieces) == expected
    assert answer.finish == ("end" if expected == text else "stop")


def test_the_earliest_of_several_stops_counts_within_one_token() -> None:
    backbone = make_backbone()
    (token,) = backbone.tokenizer(" the", add_special_tokens=False)["input_ids"]
    assert backbone.tokenizer.decode([token]) == " the"
    (answer,) = generate(backbone, [saying("on the", stop=("e", "h"))])
    assert (answer.text, answer.finish) == ("on t", "stop")


def test_an_answer_has_at_most_so_many_tokens() -> None:
    backbone = make_backbone()
    answers = generate(
        backbone, [Request(None, SHORT, max_new_tokens=length) for length in (1, 2, 7)]
    )
    assert [a.tokens for a in answers] == [1, 2, 7]
    assert {a.finish for a in answers} == {"length"}


# Choices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_every_answer_is_one_of_the_choices(seed: int, temperature: float) -> None:
    backbone = make_backbone(seed=seed)
    choices = ("相关", "相关性", "不相关", "是", "是的。")
    requests = [
        Request(None, prompt, choices=choices, temperature=temperature, seed=draw)
        for prompt in (SHORT, MIDDLE, LONG)
        for draw in range(8)
    ]
    answers = generate(backbone, requests)
    assert {answer.text for answer in answers} <= set(choices)
    assert {answer.finish for answer in answers} == {"end"}
    if temperature:
        assert len({answer.text for answer in answers}) > 2


def test_a_choice_that_begins_another_can_be_given() -> None:
    backbone = make_backbone()
    requests = [
        Request(None, SHORT, choices=("相关", "相关性"), temperature=9.0, seed=draw)
        for draw in range(20)
    ]
    assert {answer.text for answer in generate(backbone, requests)} == {"相关", "相关性"}


def test_greedy_choices_follow_the_likeliest_allowed_token() -> None:
    backbone = make_backbone()
    choices = ("aa", "ab", "b", "cab", "cabb")
    ids = prompt_ids(backbone, MIDDLE)
    left = [
        [*backbone.tokenizer(choice, add_special_tokens=False)["input_ids"], 1]
        for choice in choices
    ]
    said: list[int] = []
    while len(left) > 1 or said != left[0]:
        with torch.no_grad():
            logits = backbone.model(input_ids=torch.tensor([ids + said])).logits[0, -1]
        said.append(max({option[len(said)] for option in left}, key=lambda token: logits[token]))
        left = [option for option in left if option[: len(said)] == said]
    (answer,) = generate(backbone, [Request(None, MIDDLE, choices=choices)])
    assert answer.text == backbone.tokenizer.decode(said[:-1])


# Sampling ---------------------------------------------------------------------------------


def test_a_draw_depends_on_its_seed_and_not_on_its_neighbours() -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone)
    request = Request("mood", LONG, max_new_tokens=12, temperature=1.0, seed=5)
    (alone,) = generate(backbone, [request], adapter)
    others = [
        Request("names", SHORT, max_new_tokens=4, temperature=2.0, seed=9),
        Request(None, LONG + MIDDLE, max_new_tokens=20, temperature=0.5, top_p=0.4, seed=1),
    ]
    torch.manual_seed(99)
    beside = generate(backbone, [others[0], request, others[1]], adapter)[1]
    assert facts([beside]) == facts([alone])
    drawn = generate(backbone, [replace(request, seed=seed) for seed in range(6)], adapter)
    assert len({answer.text for answer in drawn}) > 3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (2.0, 0.9)])
def test_tokens_are_drawn_with_their_probabilities(temperature: float, top_p: float) -> None:
    backbone = make_backbone()
    with torch.no_grad():
        logits = backbone.model(input_ids=torch.tensor([prompt_ids(backbone, SHORT)])).logits[0, -1]
    wanted = (logits.double() / temperature).softmax(-1)
    likeliest_first = sorted(range(len(wanted)), key=lambda token: -float(wanted[token]))
    kept, mass = [], 0.0
    for token in likeliest_first:
        if mass >= top_p:
            break
        kept.append(token)
        mass += float(wanted[token])
    wanted = {token: float(wanted[token]) / mass for token in kept}
    count = 600
    requests = [
        Request(None, SHORT, max_new_tokens=1, temperature=temperature, top_p=top_p, seed=seed)
        for seed in range(count)
    ]
    drawn = [answer.text for answer in generate(backbone, requests, batch_size=count)]
    for token in kept[:3]:
        text = text_of(backbone, [token])
        same = sum(share for other, share in wanted.items() if text_of(backbone, [other]) == text)
        deviation = (same * (1 - same) / count) ** 0.5
        assert abs(drawn.count(text) / count - same) < 4 * deviation + 1e-9, text
    assert set(drawn) <= {text_of(backbone, [token]) for token in kept}


@pytest.mark.parametrize("settings", [{"temperature": 1e-6}, {"temperature": 1.0, "top_p": 1e-9}])
def test_no_room_to_draw_is_greedy(settings: dict[str, float]) -> None:
    backbone = make_backbone()
    greedy = Request(None, LONG, max_new_tokens=10)
    drawn = replace(greedy, **settings)
    assert facts(generate(backbone, [drawn])) == facts(generate(backbone, [greedy]))


# Errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("stop", ("",)),
        ("choices", ()),
        ("choices", ("是", "")),
    ],
)
def test_a_bad_field_is_named(field: str, value: object) -> None:
    with pytest.raises(DecodingError, match=field):
        Request(None, SHORT, **{field: value})


@pytest.mark.parametrize(
    ("request_", "attached", "error", "words"),
    [
        (Request(None, " \n"), False, DecodingError, "prompt is empty"),
        (Request(None, LONG * 9), False, DecodingError, "256 tokens"),
        (Request(None, SHORT, max_new_tokens=255), False, DecodingError, "up to 255"),
        (Request("mood", SHORT), False, DecodingError, "'mood' needs an adapter"),
        (Request("music", SHORT), True, ConfigError, "'music'.*mood, weather, names"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(
    request_: Request, attached: bool, error: type[Exception], words: str
) -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone) if attached else None
    with pytest.raises(error, match=words):
        generate(backbone, [Request(None, SHORT), request_], adapter)


@pytest.mark.parametrize(
    "request_",
    [Request("mood", SHORT), Request(None, SHORT), Request("names", SHORT, gates=torch.ones(5))],
)
def test_with_a_task_folded_in_nothing_else_is_answered(request_: Request) -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone)
    adapter.fold("names")
    with pytest.raises(DecodingError, match="is folded in: unfold"):
        generate(backbone, [request_], adapter)


def test_without_an_adapter_a_folded_task_does_not_answer_as_the_bare_backbone() -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone)
    adapter.fold("names")
    with pytest.raises(DecodingError, match="'names' of adapter 'default' is folded in"):
        generate(backbone, [Request(None, SHORT)])
    other = Adapter.attach(backbone, adapter.config, name="other")
    with pytest.raises(DecodingError, match="'names' of adapter 'default' is folded in"):
        generate(backbone, [Request("names", SHORT)], other)


@pytest.mark.parametrize("folded_first", [False, True])
def test_an_answer_does_not_go_on_with_other_weights(folded_first: bool) -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone)
    if folded_first:
        adapter.fold("names")
    pieces = stream(backbone, [Request("names", SHORT, max_new_tokens=40)], adapter)
    next(pieces)
    adapter.unfold() if folded_first else adapter.fold("names")
    with pytest.raises((DecodingError, AdapterError), match="folded in"):
        list(pieces)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(batch_size: int) -> None:
    with pytest.raises(DecodingError, match="batch_size"):
        generate(make_backbone(), [Request(None, SHORT)], batch_size=batch_size)


# Life of a stream -------------------------------------------------------------------------


def test_a_closed_stream_stops_and_leaves_no_route_behind() -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone)
    ids = torch.tensor([prompt_ids(backbone, SHORT)] * 3)
    bare = make_backbone().model(input_ids=ids).logits
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    backbone.model.get_decoder().register_forward_hook(count)
    pieces = stream(backbone, [Request("mood", SHORT, max_new_tokens=99)] * 2, adapter)
    next(pieces)
    # Between two pieces the backbone is as bare as ever, for any number of rows.
    torch.testing.assert_close(backbone.model(input_ids=ids).logits, bare)
    before = passes
    pieces.close()
    assert passes == before
    torch.testing.assert_close(backbone.model(input_ids=ids).logits, bare)


def test_a_failed_pass_leaves_no_route_and_no_lock_behind() -> None:
    backbone = make_backbone()
    adapter = with_adapter(backbone)
    requests = [Request("mood", SHORT, max_new_tokens=4)] * 2
    expected = facts(generate(backbone, requests, adapter))

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastDecoder, "__call__", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            generate(backbone, requests, adapter)
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.extend(generate(backbone, requests, adapter)))
    thread.start()
    thread.join(timeout=30)
    assert facts(answers) == expected


def in_threads(*works: Callable[[], object]) -> list[object]:
    """The results of all works, begun together."""
    results: list[object] = [None] * len(works)
    together = threading.Barrier(len(works))

    def run(place: int, work: Callable[[], object]) -> None:
        together.wait()
        try:
            results[place] = work()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place, work)) for place, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_streams_in_several_threads_answer_as_each_would_alone() -> None:
    backbone = make_backbone()
    first = with_adapter(backbone)
    second = Adapter.attach(backbone, AdapterConfig(("other",)), name="second")
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if "expert_B" in name:
                parameter.fill_(0.1)
    jobs: list[tuple[list[Request], Adapter | None]] = [
        ([Request("mood", LONG, max_new_tokens=40)], first),
        (
            [Request("names", LONG, max_new_tokens=30), Request(None, SHORT, max_new_tokens=9)],
            first,
        ),
        ([Request("other", MIDDLE, max_new_tokens=40)], second),
        ([Request(None, MIDDLE, max_new_tokens=40)] * 3, None),
    ]

    def work(job: tuple[list[Request], Adapter | None]) -> Callable[[], object]:
        return lambda: facts(streamed(backbone, *job)[1])

    together = in_threads(*(work(job) for job in jobs))  # first, while the head is not made yet
    assert together == [work(job)() for job in jobs]


def test_an_adapter_of_another_backbone_is_refused() -> None:
    adapter = with_adapter(make_backbone())
    with pytest.raises(DecodingError, match="another backbone"):
        generate(make_backbone(), [Request("mood", SHORT, max_new_tokens=2)], adapter)


# One engine for all callers ---------------------------------------------------------------


@pytest.mark.parametrize("bare", [True, False])
def test_workers_answer_for_one_adapter_or_none_as_the_calling_thread_does(bare: bool) -> None:
    backbone = make_backbone()
    adapter = None if bare else with_adapter(backbone)
    tasks = (None,) if bare else TASKS
    requests = [
        Request(tasks[i % len(tasks)], f"{SHORT}{i}", max_new_tokens=4 + i) for i in range(6)
    ]
    expected = [answer.text for answer in generate(backbone, requests, adapter, batch_size=1)]
    received: SimpleQueue[Piece | Exception] = SimpleQueue()
    with Engine(backbone, adapter, Limits(batch_size=2, workers=1)) as engine:
        for request in requests:
            engine.submit(Call(received.put), [request])
        engine.drain(120)
    pieces = [received.get(timeout=1) for _ in range(received.qsize())]
    answers = [p.answer.text for p in pieces if isinstance(p, Piece) and p.answer]
    assert sorted(answers) == sorted(expected)
    with pytest.raises(TypeError, match="no clusters"):
        _ = engine.clusters


def test_one_answer_at_a_time_is_drafted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch of one row every answer is alone, whether or not others wait."""
    backbone = make_backbone("qwen2")
    requests = [Request(None, f"{SHORT}{i}", max_new_tokens=12) for i in range(3)]
    expected = facts([generate(backbone, [request])[0] for request in requests])
    alone = []
    original = decoding._decode_alone

    def counted(*arguments: Any) -> Any:
        alone.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(decoding, "_decode_alone", counted)
    assert facts(generate(backbone, requests, batch_size=1)) == expected
    assert len(alone) == 3


def test_a_batch_that_others_keep_joining_forgets_the_answers_that_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under load a batch of a server never ends: what it remembers must not grow."""
    backbone = make_backbone("qwen2")
    sizes = []
    original = Engine._decode

    def watched(self: Engine, running: dict[int, Any], *arguments: Any) -> Any:
        for pair in original(self, running, *arguments):
            sizes.append(len(running))
            yield pair

    monkeypatch.setattr(Engine, "_decode", watched)
    requests = [Request(None, f"{SHORT}{i}", max_new_tokens=3 + i % 5) for i in range(40)]
    assert len(generate(backbone, requests, batch_size=4)) == 40
    assert max(sizes) <= 8  # the rows, and those that ended since others joined
