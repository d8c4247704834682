"""The fast forward pass of decoding against the one of `transformers`, on random inputs."""

import dataclasses

import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.inference.batch import Batch
from cgclora.inference.decoding import decode
from cgclora.inference.engine import generate
from cgclora.inference.fast_decoder import FastDecoder
from cgclora.inference.multi_adapter import Resident
from cgclora.inference.prompt_lookup import NgramCache, PromptLookup
from cgclora.inference.request import EncodedRequest, Request, encode_requests
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone
from cgclora.models.families import KNOWN, is_known
from cgclora.models.lm_head import CHOOSING_ROWS, OutputHead
from cgclora.models.quantized import FEW_ROWS, Int4Weight, Int8Weight
from tests.helpers.reference import METHODS, scatter
from tests.helpers.tiny import ARCHITECTURES, VOCABULARY, make_backbone, make_model

FAMILIES = [name for name in ARCHITECTURES if ARCHITECTURES[name].get("model_type", name) in KNOWN]


def reference(backbone: Backbone, ids: torch.Tensor, adapter: Adapter, task: str | None):
    """Hidden states [tokens, H] of one row, by the backbone's own modules."""
    with torch.no_grad(), adapter.route([task]):
        return backbone.model.get_decoder()(input_ids=ids[None]).last_hidden_state[0]


def with_experts(backbone: Backbone, method: str = "CGC-LoRA") -> Adapter:
    return scatter(Adapter.attach(backbone, METHODS[method])).for_inference()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_not_known_is_left_to_transformers(architecture):
    assert is_known(make_model(architecture)) == (architecture in FAMILIES)
    assert (Runtime.of(make_backbone(architecture)).decoder is not None) == (
        architecture in FAMILIES
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", FAMILIES)
def test_hidden_states_are_those_of_transformers(architecture, method):
    """Prompts of unlike length, then several tokens at once and one by one, past the window."""
    backbone = make_backbone(architecture)
    adapter = with_experts(backbone, method)
    tasks = [*adapter.config.tasks[:2], None]
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (3, 60), generator=generator)
    prompts = torch.tensor([40, 33, 7])
    decoder = Runtime.of(backbone).decoder
    assert decoder is not None
    cache = decoder.new_cache(3, 50)  # less than it will be: it grows
    experts = decoder.experts(adapter.plan(tasks))
    found = [decoder(ids[:, :40], cache, experts, prompts)]
    more = torch.stack([ids[row, start : start + 20] for row, start in enumerate(prompts)])
    steps = [decoder(more[:, :3], cache, experts)]
    steps += [decoder(more[:, place : place + 1], cache, experts) for place in range(3, 20)]
    for row, (task, length) in enumerate(zip(tasks, prompts, strict=True)):
        own = torch.cat([found[0][row, :length], *(step[row] for step in steps)])
        expected = reference(backbone, ids[row, : length + 20], adapter, task)
        torch.testing.assert_close(own, expected, atol=1e-3, rtol=1e-3)


def test_one_row_is_computed_like_many():
    """A row alone has its gates in B, keys without a mask and a slice for its window."""
    backbone = make_backbone("gemma3")
    adapter = with_experts(backbone)
    decoder = Runtime.of(backbone).decoder
    assert decoder is not None
    ids = torch.randint(3, VOCABULARY, (1, 45), generator=torch.Generator().manual_seed(2))
    task = adapter.config.tasks[0]
    experts, cache = decoder.experts(adapter.plan([task])), decoder.new_cache(1, 45)
    found = [decoder(part, cache, experts)[0] for part in ids.split([20, 1, 4, *[1] * 20], dim=1)]
    expected = reference(backbone, ids[0], adapter, task)
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-3, rtol=1e-3)


def test_tokens_that_are_taken_back_leave_no_trace():
    backbone = make_backbone("qwen3")
    decoder = Runtime.of(backbone).decoder
    assert decoder is not None
    experts = decoder.experts(None)
    ids = torch.randint(3, VOCABULARY, (1, 30), generator=torch.Generator().manual_seed(3))
    straight, back = decoder.new_cache(1, 40), decoder.new_cache(1, 40)
    for cache in (straight, back):
        decoder(ids[:, :20], cache, experts)
    decoder(ids[:, :7] + 1, back, experts)
    back.drop_last(7)
    torch.testing.assert_close(
        decoder(ids[:, 20:], back, experts), decoder(ids[:, 20:], straight, experts)
    )


def test_rows_are_kept_and_repeated():
    backbone = make_backbone("llama")
    adapter = with_experts(backbone)
    requests = [Request(task, "今天天气很好") for task in adapter.config.tasks[:3]]
    prompts = [[5, 6, 7], [8, 9], [4, 4, 4, 4]]
    whole = Batch(backbone, adapter, requests, prompts)
    whole.prefill()
    expected = whole.step([20, 21, 22])
    batch = Batch(backbone, adapter, requests, prompts)
    batch.prefill()
    batch.keep([2, 0, 0])
    torch.testing.assert_close(batch.step([22, 20, 20]), expected[[2, 0, 0]])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_batch_that_joins_is_answered_as_by_itself(rows):
    """With other tasks, longer prompts, and a cache of another precision where one row is alone."""
    backbone = make_backbone("gemma3")
    adapter = with_experts(backbone)
    tasks = (*adapter.config.tasks, None)
    old = [Request(tasks[place % 2], "一") for place in range(rows)]
    new = [Request(tasks[2], "一"), Request(tasks[3], "一")]
    prompts = [[5, 6, 7 + place] for place in range(rows)], [[9] * 30, [8, 8]]
    first, second = (
        Batch(backbone, adapter, old, prompts[0]),
        Batch(backbone, adapter, new, prompts[1]),
    )
    for batch in (first, second):
        batch.prefill()
    apart = Batch(backbone, adapter, new, prompts[1])
    apart.prefill()
    first.step([11] * rows)
    first.join(second)
    found = first.step([12] * rows + [13, 14])
    torch.testing.assert_close(found[rows:], apart.step([13, 14]), atol=1e-3, rtol=1e-3)
    alone = Batch(backbone, adapter, old, prompts[0], reference=True)
    alone.prefill()
    alone.step([11] * rows)
    torch.testing.assert_close(found[:rows], alone.step([12] * rows), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("kept", "left"), [([0, 1], 2), ([0, 2], 1), ([2], 1), ([2, 0, 0], 1)])
def test_who_takes_the_place_of_a_row_hears_nothing_of_it(kept, left):
    """Not even if it held what is no number, and the new row is shorter."""
    backbone = make_backbone("gemma3")
    adapter = with_experts(backbone)
    tasks = adapter.config.tasks

    def batch(prompts: list[list[int]]) -> Batch:
        made = Batch(backbone, adapter, [Request(tasks[0], "一")] * len(prompts), prompts)
        made.prefill()
        return made

    first, second = batch([[5, 6, 7], [8] * 30, [9, 10]]), batch([[11, 12]])
    with torch.inference_mode():
        first._pass.cache._buffer[:, :, left] = torch.nan
    first.keep(kept)
    first.join(second)
    found = first.step([13] * (len(kept) + 1))
    alone = [batch([prompt]).step([13])[0] for prompt in ([5, 6, 7], [8] * 30, [9, 10], [11, 12])]
    expected = torch.stack([alone[place] for place in (*kept, 3)])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_answers_that_end_make_room_for_others(monkeypatch):
    backbone = make_backbone("qwen2")
    adapter = with_experts(backbone)
    tasks = (*adapter.config.tasks, None)
    requests = [
        Request(tasks[place % len(tasks)], f"今天{place}", max_new_tokens=4 + 5 * (place % 5))
        for place in range(23)
    ]
    plain = generate(backbone, requests, adapter, batch_size=len(requests))
    widths: list[int] = []
    joined: list[int] = []
    read, join = Batch.read, Batch.join
    monkeypatch.setattr(
        Batch, "read", lambda self, ids: (widths.append(len(ids)), read(self, ids))[1]
    )
    monkeypatch.setattr(
        Batch,
        "join",
        lambda self, other: (joined.append(len(other.requests)), join(self, other))[1],
    )
    found = generate(backbone, requests, adapter, batch_size=8)
    assert [answer.text for answer in found] == [answer.text for answer in plain]
    assert max(widths) == 8
    assert joined  # while others were on their way
    assert sum(joined) > 8


@pytest.mark.parametrize("width", [2, 8])
def test_requests_that_come_later_join_what_runs(width):
    """Whoever was alone goes on as it would have, and so does everyone who comes."""
    backbone = make_backbone("qwen3")
    adapter = with_experts(backbone)
    tasks = (*adapter.config.tasks, None)
    requests = [
        Request(tasks[place % 4], f"今天天气{place}，今天天气", max_new_tokens=30 - 2 * place)
        for place in range(9)
    ]
    expected = [answer.text for answer in generate(backbone, requests, adapter, batch_size=1)]
    resident = Resident.of(adapter)
    encoded = encode_requests(backbone, requests, resident)
    given, rooms = encoded[:1], []

    def take(room: int) -> list[EncodedRequest]:
        rooms.append(room)
        new = encoded[len(given) : len(given) + min(room, 2)] if len(rooms) % 3 == 0 else []
        given.extend(new)
        return new

    found = {}
    for piece in decode(backbone, resident, encoded[:1], width=width, take=take):
        if piece.answer is not None:
            found[piece.index] = piece.answer.text
    assert len(given) > 1
    assert [found[place] for place in range(len(given))] == expected[: len(given)]
    assert max(rooms) < width


def test_an_adapter_that_comes_later_is_seen():
    backbone = make_backbone("qwen2")
    bare = generate(backbone, [Request(None, "一", max_new_tokens=8)])
    adapter = with_experts(backbone)
    task = adapter.config.tasks[0]
    prompts = [[5, 6, 7]]
    own = Batch(backbone, adapter, [Request(task, "一")], prompts).prefill()
    other = Batch(backbone, adapter, [Request(task, "一")], prompts, reference=True).prefill()
    torch.testing.assert_close(own, other, atol=1e-3, rtol=1e-3)
    assert generate(backbone, [Request(None, "一", max_new_tokens=8)])[0].text == bare[0].text


@pytest.mark.parametrize("int8", [False, True])
def test_a_folded_task_answers_as_it_does_unfolded(int8):
    backbone = dataclasses.replace(make_backbone("qwen3"), int8=int8)
    adapter = with_experts(backbone)
    task = adapter.config.tasks[0]
    prompts = [[5, 6, 7, 8, 9, 10]]
    request = Request(task, "一")
    expected = Batch(backbone, adapter, [request], prompts, reference=True).prefill()
    adapter.fold(task)
    torch.testing.assert_close(
        Batch(backbone, adapter, [request], prompts).prefill(), expected, atol=1e-3, rtol=1e-3
    )


# Eight bits -------------------------------------------------------------------------------


def test_eight_bits_are_off_by_half_a_step_at_most():
    weight = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    packed = Int8Weight.of([weight[:20], weight[20:]])
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    restored = packed.values.float() * packed.scales[:, None].float()
    assert ((restored - weight).abs() <= step * 0.51 + weight.abs() * 2**-8).all()
    x = torch.randn(3, 32)
    torch.testing.assert_close(packed(x), x.bfloat16().float() @ restored.t(), atol=0.1, rtol=0.02)


@pytest.mark.parametrize("rows", [16, 300, (1 << 14) + 7])
def test_four_bits_are_off_by_half_a_step_at_most(rows):
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(rows, 128, generator=generator), torch.eye(128)
    packed = Int4Weight.of(weight)
    groups = weight.unflatten(1, (2, 64))
    step = (groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)) / 15
    off = (torch.cat([packed(part) for part in x.split(8)]).t() - weight).abs()
    assert (off.unflatten(1, (2, 64)) <= step * 0.51 + 0.03).all()
    assert packed.error == pytest.approx(float(off.square().mean().sqrt()), rel=0.02)


@pytest.mark.parametrize("kind", ["AVX512", "DEFAULT"])
def test_a_head_in_few_bits_names_the_word_that_the_head_itself_names(kind, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kind)
    model = make_model("gemma3", hidden_size=64)
    exact, packed = OutputHead(model), OutputHead(model, packed=True)
    assert type(packed._packed) is (Int4Weight if kind == "AVX512" else Int8Weight)
    hidden = torch.randn(400, 64, generator=torch.Generator().manual_seed(1))
    expected = exact(hidden).argmax(-1).tolist()
    rough = packed._packed(hidden).argmax(-1).tolist()
    for most in (1, CHOOSING_ROWS, CHOOSING_ROWS + 1):
        assert [i for part in hidden.split(most) for i in packed.argmax(part)] == expected
    if kind == "AVX512":
        assert rough != expected  # so that a second look was needed


def test_where_hardly_any_word_leads_all_of_them_are_looked_at(monkeypatch):
    head = OutputHead(make_model("gemma3", hidden_size=64), packed=True)
    hidden = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    whole: list[int] = []
    original = OutputHead.__call__
    monkeypatch.setattr(
        OutputHead, "__call__", lambda self, h: (whole.append(len(h)), original(self, h))[1]
    )
    expected = head.argmax(hidden)
    assert not whole
    monkeypatch.setattr("cgclora.models.lm_head._MAX_CANDIDATES", 0)
    assert head.argmax(hidden) == expected
    assert whole == [1] * 4  # each by itself: rows of one product round unlike


def test_a_row_that_is_no_number_leaves_the_others_alone():
    head = OutputHead(make_model("gemma3", hidden_size=64), packed=True)
    hidden = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    expected = head.argmax(hidden)
    hidden[1] = torch.nan
    found = head.argmax(hidden)
    assert [found[row] for row in (0, 2, 3)] == [expected[row] for row in (0, 2, 3)]


def test_eight_bits_are_used_for_few_rows_only():
    backbone = make_backbone("gemma3")
    adapter = with_experts(backbone)
    task = adapter.config.tasks[0]
    both = [FastDecoder(backbone.model, int8=int8) for int8 in (False, True)]
    experts = [decoder.experts(adapter.plan([task])) for decoder in both]
    for count, same in ((FEW_ROWS, False), (FEW_ROWS + 1, True)):
        ids = torch.randint(3, VOCABULARY, (1, count), generator=torch.Generator().manual_seed(4))
        one, other = (
            decoder(ids, decoder.new_cache(1, 9), own)
            for decoder, own in zip(both, experts, strict=True)
        )
        assert torch.equal(one, other) == same
        assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.99


# Drafts -----------------------------------------------------------------------------------


def test_a_draft_is_what_followed_the_last_words_before():
    lookup = PromptLookup([1, 2, 3, 4, 5, 9, 2, 3])
    assert lookup.draft(3) == [4, 5, 9]
    lookup.add(7)
    assert lookup.draft(3) == []
    lookup.add(2)
    lookup.add(3)
    assert lookup.draft(2) == [7, 2]  # the last place counts
    lookup.add(8)
    lookup.add(9)
    assert lookup.draft(1) == [2]  # one word is enough


def test_a_draft_may_come_from_earlier_answers_of_the_same_form():
    ngrams = NgramCache()
    ngrams.add("one", [10, 11, 12, 13])
    ngrams.add("other", [10, 15])
    lookup = PromptLookup([1, 2, 11, 12, 3], ngrams, "one")
    assert lookup.draft(2) == [10, 11]  # how the answers begin
    lookup.add(10)
    assert lookup.draft(9) == [11, 12, 13]
    assert PromptLookup([1, 2], ngrams, "none").draft(2) == []
    lookup.add(11)
    lookup.add(12)
    assert lookup.draft(1) == [13]  # more words agree than in the prompt


def test_ngrams_are_bounded_and_the_latest_count():
    ngrams = NgramCache(max_ngrams=50)
    for start in range(100):
        ngrams.add("one", range(start, start + 10))
    assert len(ngrams._continuations) == 50
    assert list(ngrams.continuation("one", (105, 106))) == [107, 108]
    ngrams.add("one", [105, 106, 200])
    assert list(ngrams.continuation("one", (105, 106))) == [200]
    assert ngrams.continuation("one", (5, 6)) == ()


def in_8_bits(architecture: str) -> Backbone:
    return dataclasses.replace(make_backbone(architecture), int8=True)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("task", [True, False])
def test_several_tokens_of_a_pass_are_rounded_as_each_alone(architecture, task):
    """In hidden states, the cache and the choice: bit for bit, also beyond the window."""
    backbone = in_8_bits(architecture)
    adapter = with_experts(backbone)
    decoder = Runtime.of(backbone).decoder
    assert decoder.is_batch_invariant
    experts = decoder.experts(adapter.plan([adapter.config.tasks[0]]) if task else None)
    ids = torch.randint(3, VOCABULARY, (1, 60), generator=torch.Generator().manual_seed(1))
    found = []
    for sizes in ([1] * 40, [FEW_ROWS] * 10, [1, 3, 2, 4] * 4):
        cache = decoder.new_cache(1, 60)
        decoder(ids[:, :20], cache, experts)
        parts = ids[:, 20:].split([*sizes, 40 - sum(sizes)] if sum(sizes) < 40 else sizes, dim=1)
        hidden = [decoder(part, cache, experts)[0] for part in parts]
        chosen = [word for part in hidden for word in Runtime.of(backbone).head.argmax(part)]
        found.append((torch.cat(hidden), cache.key_values.clone(), chosen))
    for hidden, table, chosen in found[1:]:
        assert torch.equal(hidden, found[0][0])
        assert torch.equal(table, found[0][1])
        assert chosen == found[0][2]


def test_nothing_is_drafted_where_rounding_would_show(monkeypatch):
    """Without 8-bit weights, with a task folded in, or where the machine rounds tokens unlike."""
    prompt = "今天天气很好，今天天气很好，今天天气很好，"
    request = Request(None, prompt, max_new_tokens=3)
    most = []

    def seen(batch: Batch) -> int:
        most.append(Batch.max_drafts.fget(batch))
        return most[-1]

    class Watched(Batch):
        max_drafts = property(seen)

    monkeypatch.setattr("cgclora.inference.decoding.Batch", Watched)
    generate(make_backbone("qwen2"), [request])
    backbone = in_8_bits("qwen2")
    generate(backbone, [request])
    adapter = with_experts(backbone)
    task = adapter.config.tasks[0]
    adapter.fold(task)
    generate(backbone, [dataclasses.replace(request, task=task)], adapter)
    monkeypatch.setattr(FastDecoder, "is_batch_invariant", False)
    generate(in_8_bits("qwen2"), [request])
    assert most == [0, FEW_ROWS - 1, 0, 0]


@pytest.mark.parametrize("architecture", ["gemma3", "qwen2"])
def test_answers_are_the_same_with_drafts_as_without(architecture, monkeypatch):
    backbone = in_8_bits(architecture)
    adapter = with_experts(backbone)
    requests = [
        Request(task, "今天天气很好，今天天气很好，我们去公园散步。" * 2, max_new_tokens=40)
        for task in (*adapter.config.tasks, None)
    ]
    read: list[int] = []
    original = Batch.read
    monkeypatch.setattr(
        Batch, "read", lambda self, ids: (read.append(ids.shape[1]), original(self, ids))[1]
    )
    found = generate(backbone, requests, adapter, batch_size=1)
    assert max(read) > 1  # drafts were tried
    wanting = [dataclasses.replace(one, logprobs=0) for one in requests]
    read.clear()
    scored = generate(backbone, wanting, adapter, batch_size=1)
    assert max(read) > 1
    monkeypatch.setattr(PromptLookup, "draft", lambda *_: [])
    plain = generate(backbone, wanting, adapter, batch_size=1)
    assert [one.text for one in found] == [one.text for one in scored] == [p.text for p in plain]
    assert [one.tokens for one in found] == [one.tokens for one in plain]
    for one, other in zip(scored, plain, strict=True):
        for a, b in zip(one.logprobs, other.logprobs, strict=True):
            assert (a.token, a.logprob) == (b.token, pytest.approx(b.logprob, abs=1e-5))


def test_a_draft_that_is_right_saves_passes(monkeypatch):
    backbone = in_8_bits("qwen2")
    request = Request(None, "今天天气很好", max_new_tokens=40)
    passes: list[list[int]] = []
    original = Batch.read
    monkeypatch.setattr(
        Batch, "read", lambda self, ids: (passes.append(ids[0].tolist()), original(self, ids))[1]
    )
    monkeypatch.setattr(PromptLookup, "draft", lambda *_: [])
    plain = generate(backbone, [request])[0]
    said = [token for ids in passes for token in ids]

    seen: list[int] = []

    def foresee(self: PromptLookup, max_tokens: int) -> list[int]:
        seen.append(len(self._ids))
        done = seen[-1] - seen[0] + 1
        return said[done : done + max_tokens]

    passes.clear()
    monkeypatch.setattr(PromptLookup, "draft", foresee)
    assert generate(backbone, [request])[0].text == plain.text
    assert len(passes) <= 1 + 40 // FEW_ROWS
