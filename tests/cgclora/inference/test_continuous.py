"""Continuous batching of any adapters, on the CPU: as each request is answered by itself."""

import itertools
import random
import warnings
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.inference.batch import follow_route
from cgclora.inference.continuous import loop, static_batch
from cgclora.inference.continuous.expert_slots import ExpertSlots, sharing_pays
from cgclora.inference.continuous.loop import answers
from cgclora.inference.continuous.static_batch import StaticBatch, bucket, rows_that_fit
from cgclora.inference.decoding import Reply
from cgclora.inference.engine import answers_of, generate
from cgclora.inference.fast_decoder import FastDecoder
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Answer, DecodingError, Request
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone, load_backbone
from evals.runs.engines import LocalEngine
from tests.cgclora.inference.test_engine import byte_fallback_tokenizer
from tests.helpers.reference import METHODS, TASKS, scatter
from tests.helpers.tiny import make_backbone, make_tokenizer

Asked = Sequence[tuple[Request, Adapter | None]]
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


def mixed(adapters: Sequence[Adapter | None], count: int) -> Asked:
    """Requests of all adapters and tasks, of unlike length, some with a stop text."""
    pairs = itertools.cycle(itertools.product(TASKS, adapters))
    return [
        (
            Request(
                task,
                f"{place}{PROMPTS[place % 3]}",
                max_new_tokens=2 + 7 * (place % 4),
                stop=("a", "e", "\n\n") if place % 3 == 0 else (),
            ),
            adapter,
        )
        for place, (task, adapter) in zip(range(count), pairs, strict=False)
    ]


def facts(answer: Answer) -> tuple[str, str, int, int]:
    return answer.text, answer.finish, answer.prompt_tokens, answer.tokens


def alone(backbone: Backbone, asked: Asked) -> list[tuple[str, str, int, int]]:
    """What each request gets by itself, in its adapter's own batch of one."""
    return [
        facts(generate(backbone, [request if adapter else replace(request, task=None)], adapter)[0])
        for request, adapter in asked
    ]


def together(backbone: Backbone, asked: Asked, batch_size: int) -> list[tuple[str, str, int, int]]:
    requests, adapters = zip(*asked, strict=True)
    found = dict(answers_of(backbone, requests, adapters, batch_size=batch_size))
    return [facts(found[place]) for place in range(len(asked))]


@pytest.fixture
def static(monkeypatch: pytest.MonkeyPatch) -> list[StaticBatch]:
    """Answers come from static batches, as on CUDA; those that were made."""
    monkeypatch.setitem(loop.ROWS, "cpu", 64)
    made: list[StaticBatch] = []
    original = StaticBatch.__init__

    def keep(self: StaticBatch, *words: object, **options: object) -> None:
        made.append(self)
        original(self, *words, **options)

    monkeypatch.setattr(StaticBatch, "__init__", keep)
    return made


# As each alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gemma3", "qwen2", "gpt_neox"])
def test_mixed_adapters_answer_as_each_alone(architecture):
    """Though all of them know the same tasks, and in whatever order they are asked."""
    backbone = make_backbone(architecture)
    _check_mixed(backbone)


@pytest.mark.parametrize("architecture", ["gemma3", "qwen2", "qwen3", "llama"])
def test_mixed_adapters_answer_as_each_alone_in_a_static_batch(architecture, static):
    backbone = make_backbone(architecture)
    _check_mixed(backbone)
    assert [batch.max_rows for batch in static] == [5, 40]


def _check_mixed(backbone: Backbone) -> None:
    asked = mixed(several(backbone), 40)
    expected = alone(backbone, asked)
    assert len({text for text, *_ in expected}) > 10
    assert {finish for _, finish, *_ in expected} >= {"length", "stop"}
    order = list(range(len(asked)))
    random.Random(0).shuffle(order)
    for batch_size, places in ((5, order), (64, range(len(asked)))):
        found = together(backbone, [asked[place] for place in places], batch_size)
        assert found == [expected[place] for place in places]


@pytest.mark.backbone
def test_mixed_adapters_answer_as_each_alone_on_the_embedded_backbone(static):
    backbone = load_backbone(device="cpu", dtype="float32")
    adapters = [
        scatter(Adapter.attach(backbone, AdapterConfig(TASKS, alpha=0.05), name=f"a{seed}"), seed)
        for seed in range(2)
    ]
    mixed = zip((*TASKS, TASKS[0]), (*adapters, None, adapters[1]), strict=True)
    asked = [
        (Request(task, f"{PROMPTS[place % 3]}", max_new_tokens=6, stop=("\n",)), adapter)
        for place, (task, adapter) in enumerate(mixed)
    ]
    assert together(backbone, asked, 4) == alone(backbone, asked)
    assert len(static) == 1


def test_rows_end_with_their_end_token(static, monkeypatch):
    """Whatever a model with the end token as its favourite says afterwards is dropped."""
    backbone = make_backbone("qwen2")
    asked = mixed([None], 12)
    plain = generate(backbone, [replace(request, task=None) for request, _ in asked])
    said = backbone.tokenizer(plain[3].text, add_special_tokens=False)["input_ids"]
    backbone.tokenizer.eos_token_id = said[-1]
    expected = alone(backbone, asked)
    assert "end" in {finish for _, finish, *_ in expected}
    assert together(backbone, asked, 4) == expected


def test_an_engine_answers_all_of_its_tasks_adapters_at_once(static):
    backbone = make_backbone()
    first, second, *_ = several(backbone)
    engine = LocalEngine(backbone, {TASKS[0]: first, TASKS[1]: second})
    requests = [Request(task, PROMPTS[1], max_new_tokens=9) for task in TASKS]
    assert engine.facts(TASKS)["decoding"]["batch_size"] == 64
    found = dict(engine.answers(requests))
    asked = [(one, engine.adapter_of(one)) for one in requests]
    assert [adapter for _, adapter in asked] == [first, second, None]
    assert [facts(found[place]) for place in range(3)] == alone(backbone, asked)
    assert len(static) == 1


def test_gates_of_a_request_have_a_slot_of_their_own(static):
    backbone = make_backbone()
    adapter = several(backbone)[2]
    weights = torch.rand(adapter.config.num_experts, generator=torch.Generator().manual_seed(1))
    asked = [
        (Request(TASKS[0], PROMPTS[2], max_new_tokens=12, gates=gates), adapter)
        for gates in (None, weights, weights.flip(0))
    ]
    expected = alone(backbone, asked)
    assert len(set(expected)) == 3
    assert together(backbone, asked, 3) == expected


# Rows and places --------------------------------------------------------------------------


def test_rows_join_where_others_left_and_few_rows_take_fewer_places(static, monkeypatch):
    monkeypatch.setattr(loop, "_MIN_ROWS", 2)
    admitted: list[list[int]] = []
    widths: list[int] = []
    admit, run = StaticBatch.admit, StaticBatch.run
    monkeypatch.setattr(
        StaticBatch,
        "admit",
        lambda self, places, *rest: (admitted.append([*places]), admit(self, places, *rest))[1],
    )
    monkeypatch.setattr(
        StaticBatch,
        "run",
        lambda self, width, longest: (widths.append(width), run(self, width, longest))[1],
    )
    backbone = make_backbone("gemma3")
    asked = mixed([*several(backbone)[:7], None], 30)
    # One of them is far longer than the others.
    asked = [*asked, (Request(TASKS[0], PROMPTS[0], max_new_tokens=90), asked[0][1])]
    assert together(backbone, asked, 8) == alone(backbone, asked)
    assert len(static) == 1
    assert sorted(admitted[0]) == list(range(8))
    assert sum(map(len, admitted)) == len(asked)
    assert len(admitted) > 3
    assert widths == sorted(widths, reverse=True)
    assert set(widths) == {8, 4, 2}


def test_prompts_are_read_so_many_tokens_at_once(static, monkeypatch):
    backbone = make_backbone("qwen3")
    asked = mixed([None], 20)
    requests = [replace(request, task=None) for request, _ in asked]
    read: list[int] = []
    admit = StaticBatch.admit

    def keep(self: StaticBatch, places: object, prompts: list[list[int]], slots: object) -> None:
        read.append(len(prompts) * max(map(len, prompts)))
        admit(self, places, prompts, slots)

    monkeypatch.setattr(StaticBatch, "admit", keep)
    found = dict(answers(backbone, requests, None, prefill_tokens=100))
    assert [facts(found[place]) for place in range(20)] == alone(backbone, asked)
    assert len(read) > 4
    assert max(read) <= 100


def test_a_row_does_not_depend_on_the_one_that_had_its_place():
    """Not even if that row held what is no number, and the new one is shorter."""
    backbone = make_backbone("gemma3")
    batch = _batch(backbone, ExpertSlots(FastDecoder(backbone.model), []), max_rows=2)
    batch.admit([0, 1], [[5, 6, 7] * 9, [8, 9]], [0, 0])
    with torch.inference_mode():
        for table in itertools.chain(*batch._cache):
            table[0] = torch.nan
    batch.admit([0], [[11, 12]], [0])
    found = batch.run(2, 27)()
    fresh = _batch(backbone, ExpertSlots(FastDecoder(backbone.model), []), max_rows=2)
    fresh.admit([0, 1], [[11, 12], [8, 9]], [0, 0])
    assert found == fresh.run(2, 2)()


def _batch(
    backbone: Backbone, bank: ExpertSlots, *, max_rows: int, **options: object
) -> StaticBatch:
    decoder = FastDecoder(backbone.model)
    settings = {"chunk": 4, "backend": None} | options
    return StaticBatch(decoder, Runtime.of(backbone).head, bank, max_rows, 192, **settings)


def test_lengths_of_steps_are_few_and_never_too_short():
    found = {bucket(tokens) for tokens in range(1, 4097)}
    assert all(bucket(tokens) >= tokens for tokens in range(1, 4097))
    assert len(found) == 11
    assert all(size % 64 == 0 for size in found)


def test_there_are_as_many_places_as_memory_is_free_for(static, monkeypatch):
    backbone = make_backbone("qwen2")
    asked = mixed(several(backbone), 12)
    expected = alone(backbone, asked)
    decoder = FastDecoder(backbone.model)
    a_row = 2 * 2 * 2 * 8 * 128 * 4 + 300 * 4  # keys and values of 128 tokens, and logits
    prefill = 8 * 128 * 4 * loop.PREFILL_TOKENS
    for rows in (1, 3):
        free = int((rows * a_row + prefill) / 0.8) + 8
        monkeypatch.setattr(static_batch, "free_memory", lambda _, free=free: free)
        assert rows_that_fit(decoder, Runtime.of(backbone).head, 128, loop.PREFILL_TOKENS) == rows
    monkeypatch.setattr(static_batch, "free_memory", lambda _: 1)
    assert together(backbone, asked, 64) == expected
    assert static[-1].max_rows == 1
    monkeypatch.setattr(static_batch, "free_memory", lambda _: None)
    assert together(backbone, asked, 64) == expected
    assert static[-1].max_rows == 12


# The bank ---------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gemma3", "qwen2"])
def test_a_bank_adds_what_each_rows_own_route_adds_in_both_ways(architecture):
    backbone = make_backbone(architecture)
    clusters = Clusters(backbone)
    for place, adapter in enumerate(filter(None, several(backbone))):
        clusters.add(str(place), adapter)
    rows = [Request(task, "x", cluster=name) for name in clusters.adapters for task in TASKS]
    decoder = FastDecoder(backbone.model)
    bank = ExpertSlots(decoder, (clusters.snapshot().plan_rows([row]) for row in rows))
    assert bank.slots == 1 + len(rows)
    slots = torch.tensor([3, 0, *range(1, bank.slots), 3])
    generator = torch.Generator().manual_seed(1)
    for layer, shared, own in zip(
        decoder.layers,
        bank.layers(slots, shared=True),
        bank.layers(slots, shared=False),
        strict=True,
    ):
        for group, one, other in zip(layer.groups, shared, own, strict=True):
            x = torch.randn(len(slots), 5, group.linears[0].in_features, generator=generator)
            y = [group(x, added) for added in (one, other)]
            torch.testing.assert_close(*y, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(y[0][1], group(x[1:2], None)[0])
            # The modules themselves, with the row's route.
            task = rows[2]
            with torch.no_grad(), follow_route(clusters.snapshot().plan_rows([task])):
                expected = torch.cat([module(x[:1]) for module in group.modules], dim=-1)
            torch.testing.assert_close(y[0][:1], expected, atol=1e-4, rtol=1e-4)


def test_rows_are_multiplied_with_all_slots_where_these_are_few():
    for device in ("cuda", "cpu"):
        for compiled in (False, True):
            assert sharing_pays(2, 16, device, compiled=compiled)
            assert not sharing_pays(10_000, 1024, device, compiled=compiled)
    assert sharing_pays(200, 512, "cuda", compiled=False)
    assert not sharing_pays(200, 512, "cuda", compiled=True)  # where nothing is copied
    assert not sharing_pays(100, 64, "cpu", compiled=False)


@pytest.mark.parametrize("shared", [False, True])
def test_answers_are_the_same_however_experts_are_applied(shared, static, monkeypatch):
    monkeypatch.setattr(static_batch, "sharing_pays", lambda *_, **__: shared)
    backbone = make_backbone("gemma3")
    asked = mixed(several(backbone), 30)
    assert together(backbone, asked, 8) == alone(backbone, asked)


# Compiled, and without waiting ------------------------------------------------------------


def _with_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    original = loop.answers
    monkeypatch.setattr(
        loop, "answers", lambda *words, **rest: original(*words, **rest, backend=backend)
    )


@pytest.mark.parametrize("shared", [False, True])
def test_compiled_layers_answer_alike_and_are_compiled_few_times(shared, static, monkeypatch):
    monkeypatch.setattr(static_batch, "sharing_pays", lambda *_, **__: shared)
    torch.compiler.reset()
    counts = torch._dynamo.utils.counters
    counts.clear()
    _with_backend(monkeypatch, "aot_eager")
    backbone = make_backbone("gemma3")
    asked = mixed(several(backbone)[:3], 24)
    with warnings.catch_warnings(action="error", category=RuntimeWarning):
        assert together(backbone, asked, 16) == alone(backbone, asked)
    assert not counts["graph_break"]
    assert 2 <= counts["stats"]["unique_graphs"] <= 6  # for all layers, widths and lengths


def test_a_failed_compilation_gives_one_warning_and_changes_no_answer(static, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler\nis here")

    torch.compiler.reset()
    torch._dynamo.register_backend(compiler_fn=fail, name="failing")
    _with_backend(monkeypatch, "failing")
    backbone = make_backbone("gemma3")
    asked = mixed(several(backbone)[:3], 12)
    expected = alone(backbone, asked)
    with pytest.warns(RuntimeWarning, match=r"torch.compile failed.*no compiler is here") as caught:
        assert together(backbone, asked, 8) == expected
    assert len([one for one in caught if "torch.compile failed" in str(one.message)]) == 1


class _Waits(TorchDispatchMode):
    """Notes operations for which a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select")):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_waits_for_the_device_but_the_reader_of_a_chunk(shared, monkeypatch):
    monkeypatch.setattr(static_batch, "sharing_pays", lambda *_, **__: shared)
    backbone = make_backbone("gemma3")
    adapter = several(backbone)[2].for_inference()
    bank = ExpertSlots(FastDecoder(backbone.model), [adapter.plan_rows([Request(TASKS[0], "x")])])
    batch = _batch(backbone, bank, max_rows=4)
    listed = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: (listed.append(1), tolist(self))[1])
    with _Waits() as waits:
        batch.admit([0, 2, 3], [[5, 6, 7], [8], [9, 10]], [0, 1, 1])
        batch.move([3], [1])
        read = batch.run(3, 3)
    assert not waits.found
    assert not listed
    assert len(read()) == 3
    with _Waits() as waits:
        int(torch.ones(1).sum())
    assert waits.found  # it would have been noticed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("backend", [None, "inductor"])
def test_on_cuda_graphs_answer_as_each_alone_without_waiting(backend, monkeypatch):
    backbone = make_backbone("gemma3")
    backbone.model.to("cuda")
    adapters = several(backbone)
    asked = mixed(adapters, 40)
    expected = alone(backbone, asked)
    monkeypatch.setattr(loop, "COMPILED_REQUESTS", 1 if backend else 1000)
    assert together(backbone, asked, 16) == expected
    adapter = adapters[2].for_inference()
    with torch.inference_mode():
        route = adapter.plan_rows([Request(TASKS[0], "x")])
        bank = ExpertSlots(FastDecoder(backbone.model), [route])
    batch = _batch(backbone, bank, max_rows=4, backend=backend)
    batch.admit([0, 1], [[5, 6, 7], [8]], [0, 1])
    batch.run(4, 3)()
    assert batch._graphs
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch.admit([2], [[5, 6, 7]], [1])
        read = batch.run(4, 7)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(read()) == 4


# Text and errors --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_tokenizer, byte_fallback_tokenizer])
def test_tokens_taken_at_once_say_what_they_say_one_by_one(make):
    """Also where characters stay in part, and in chunks of any size."""
    tokenizer = make()
    backbone = replace(make_backbone(), tokenizer=tokenizer)
    draw = random.Random(1)
    whole = tokenizer("龘靐 the cat, 天气\n好", add_special_tokens=False)["input_ids"]
    for trial in range(200):
        ids = [
            draw.choice(whole) if trial % 2 else draw.randrange(1, len(tokenizer) - 1)
            for _ in range(40)
        ]
        stop = ("\n", "天气")[: trial % 3]
        request = Request(None, "x", max_new_tokens=draw.randrange(1, 40), stop=stop)
        one, other = (Reply(0, request, [5], backbone) for _ in range(2))
        for token in ids:
            if one.finish is None:
                one.add(token)
        for start in range(0, 40, 3):
            other.take(ids[start : start + 3])
        assert (other.sent, other.finish, other.ids) == (one.sent, one.finish, one.ids)


def test_what_a_static_batch_cannot_answer_is_refused():
    backbone = make_backbone()
    request = Request(None, "天气")
    for other in (replace(request, temperature=1.0), replace(request, choices=("a",))):
        with pytest.raises(DecodingError, match="greedy requests"):
            list(answers(backbone, [other], None))
    with pytest.raises(DecodingError, match="batch_size"):
        list(answers(backbone, [request], None, batch_size=0))
    with pytest.raises(DecodingError, match="do not support"):
        list(answers(make_backbone("gpt_neox"), [request], None))
    assert list(answers(backbone, [], None)) == []


def test_what_is_not_greedy_is_answered_without_a_static_batch(static):
    backbone = make_backbone()
    asked = [(Request(None, "天气", choices=("好", "不好")), None)]
    assert together(backbone, asked, 4) == alone(backbone, asked)
    assert not static


def test_an_adapter_that_does_not_know_the_task_is_named(static):
    backbone = make_backbone()
    with pytest.raises(ConfigError, match="'music'"):
        together(backbone, [(Request("music", "天气"), several(backbone)[0])], 4)


def test_a_task_that_is_folded_in_needs_no_slot():
    backbone = make_backbone()
    adapter = several(backbone)[2].for_inference()
    asked = [(Request(TASKS[0], prompt, max_new_tokens=9), adapter) for prompt in PROMPTS]
    expected = alone(backbone, asked)
    adapter.fold(TASKS[0])
    found = dict(answers(backbone, [request for request, _ in asked], adapter))
    assert [facts(found[place]) for place in range(3)] == expected


def test_folded_weights_are_no_slot_of_a_bank():
    backbone = make_backbone()
    clusters = Clusters(backbone, folded_budget=1 << 30)
    clusters.add("one", several(backbone)[2])
    routes = [clusters.snapshot().plan_rows([Request(TASKS[0], "x")]) for _ in range(8)]
    with pytest.raises(ValueError, match="folded weights"):
        ExpertSlots(FastDecoder(backbone.model), routes[-1:])


def test_answers_do_not_go_on_with_a_task_folded_in(static):
    backbone = make_backbone()
    adapter = several(backbone)[0]
    requests = [Request(TASKS[0], "天气", max_new_tokens=most) for most in (1, 60)]
    pieces = answers_of(backbone, requests, [adapter] * 2, batch_size=2)
    next(pieces)
    adapter.fold(TASKS[0])
    with pytest.raises(DecodingError, match="folded in or out"):
        list(pieces)
