"""Rows that join running batches of backbones that `transformers` decodes."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cgclora.adapter import Adapter
from cgclora.inference import batch
from cgclora.inference.batch import Batch
from cgclora.inference.continuous import dynamic_cache
from cgclora.inference.engine import Engine, generate
from cgclora.inference.request import Request
from cgclora.inference.request_queue import Limits
from cgclora.inference.runtime import decoding_here
from cgclora.models.backbone import Backbone, fingerprint
from tests.helpers.reference import METHODS, TASKS, scatter
from tests.helpers.tiny import VOCABULARY
from tests.suites.backbones.checks import Subject
from tests.suites.backbones.configs import tiny_config

KINDS = {
    "qwen3_5_text": "recurrent states and convolutions in three layers of four",
    "gpt_oss": "sliding windows and sinks",
}


def words() -> PreTrainedTokenizerFast:
    """A word a token, so that equal texts are equal tokens."""
    ids = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


def make(model_type: str) -> Subject:
    """A tiny backbone in float32 with an adapter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = tiny_config(model_type)
        config.initializer_range = 0.2
        bare = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    bare.requires_grad_(False)
    model = copy.deepcopy(bare)
    backbone = Backbone(model, words(), f"tiny-{model_type}", fingerprint(model))
    adapter = scatter(Adapter.attach(backbone, METHODS["CGC-LoRA"]))
    return Subject(bare, backbone, adapter, close=1e-2)


def with_task(subject: Subject, task: str | None) -> PreTrainedModel:
    """The bare model with a task's experts in its weights, summed one by one in float64."""
    model = copy.deepcopy(subject.bare)
    if task is not None:
        state = {name: weight.float() for name, weight in subject.weights(task).items()}
        model.load_state_dict(state, strict=False)
    return model


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return make(request.param)


def test_rows_that_join_and_leave_get_the_tokens_of_transformers_alone(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    join = Batch.join

    def counted(self: Batch, other: Batch) -> None:
        join(self, other)
        widths.append(len(self.requests))

    monkeypatch.setattr(Batch, "join", counted)
    # Longer than the window of 16, shorter than a convolution; answers end at different times.
    lengths, ends = (3, 25, 9, 1, 18, 6, 12), (9, 3, 6, 8, 2, 7, 4)
    requests = [
        Request(
            (*TASKS, None)[row % 4],
            " ".join(f"w{3 + (31 * row + 7 * place) % 290}" for place in range(length)),
            max_new_tokens=end,
        )
        for row, (length, end) in enumerate(zip(lengths, ends, strict=True))
    ]
    engine = Engine(subject.backbone, subject.adapter, Limits(batch_size=3))
    answers = engine.generate(requests)
    assert max(widths) == 3
    assert len(widths) > 2
    tokenizer = subject.backbone.tokenizer
    models = {task: with_task(subject, task) for task in (*TASKS, None)}
    for request, answer in zip(requests, answers, strict=True):
        ids = tokenizer(request.prompt, return_tensors="pt")["input_ids"]
        out = models[request.task].generate(
            ids, do_sample=False, max_new_tokens=request.max_new_tokens
        )
        assert answer.text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_columns_that_pad_all_rows_are_dropped(subject: Subject) -> None:
    """A batch that others keep joining does not grow with the rows that left it."""
    requests = [Request(None, "x", max_new_tokens=9) for _ in range(2)]
    with torch.inference_mode():
        long, short = (
            Batch(subject.backbone, None, [request], [[*range(5, end)]])
            for request, end in zip(requests, (30, 8), strict=True)
        )
        long.prefill()
        short.prefill()
        long.join(short)
        long.step([4, 4])
        long.keep([1])
    run = long._pass
    assert isinstance(run, batch._ReferencePass)
    assert run.mask.tolist() == [[1, 1, 1, 1]]
    attention = [layer for layer in run.cache.layers if getattr(layer, "keys", None) is not None]
    assert {layer.keys.shape[-2] for layer in attention} == {4}
    assert run.cache.get_seq_length() == 4


def test_states_that_are_joined_wrongly_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then rows wait for the next batch."""

    def forgets(layer: object) -> list[dict[int, torch.Tensor]]:
        return [getattr(layer, "conv_states", {})]

    monkeypatch.setattr(dynamic_cache, "_fixed", forgets)
    broken = make("qwen3_5_text")
    requests = [Request("mood", "w5 w6", max_new_tokens=2)]
    assert not Batch(broken.backbone, broken.adapter, requests, [[5, 6]]).can_join


def test_a_backbone_without_a_fast_decoder_is_named_once_and_by_inspect(
    subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = Backbone(subject.bare, words(), "tiny", "")
    for _ in range(2):
        generate(backbone, [Request(None, "w5", max_new_tokens=1)])
    kind = subject.bare.config.model_type
    (record,) = (one for one in caplog.records if one.name.startswith("cgclora"))
    assert record.getMessage().startswith(f"the fast decoder has no code for {kind} models (for ")
    assert decoding_here(kind).endswith(f"the fast decoder has no code for {kind}")
    assert "no code" not in decoding_here("gemma3")
