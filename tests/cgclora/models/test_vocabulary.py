"""Token ids without an embedding: they fill no batch, and no record or choice may hold them."""

from pathlib import Path

import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.analysis.probe import label_probabilities
from cgclora.config import AdapterConfig, PromptFormat
from cgclora.data.records import DataError, Record, encode
from cgclora.data.sampling import Collator
from cgclora.inference.engine import generate, stream
from cgclora.inference.request import DecodingError, Request
from cgclora.models.backbone import Backbone
from cgclora.models.vocabulary import pad_id, readable
from tests.helpers.reference import METHODS, scatter
from tests.helpers.tiny import VOCABULARY, make_backbone
from tests.helpers.training_runs import DEV, TRAIN, dev_losses_of, run

PROMPTS = ("好", "Is this sentence about health or about the weather?")


def with_late_pad(architecture: str = "qwen2") -> Backbone:
    """A backbone whose tokenizer pads with a token that came after its embeddings were made."""
    backbone = make_backbone(architecture)
    backbone.tokenizer.add_special_tokens({"pad_token": "<late pad>"})
    assert backbone.tokenizer.pad_token_id == VOCABULARY == readable(backbone.model)
    return backbone


def with_picture() -> Backbone:
    """A backbone whose tokenizer knows a word that has no embedding."""
    backbone = make_backbone()
    backbone.tokenizer.add_special_tokens({"additional_special_tokens": ["<picture>"]})
    return backbone


def test_a_pad_token_is_used_where_it_has_an_embedding() -> None:
    backbone = make_backbone()
    backbone.tokenizer.pad_token = "a"
    own = backbone.tokenizer.pad_token_id
    assert own != 0
    assert backbone.pad_id == pad_id(backbone.model, backbone.tokenizer) == own


@pytest.mark.parametrize("architecture", ["qwen2", "glm"])  # of our own pass and of the other
def test_a_pad_token_without_an_embedding_changes_no_answer(architecture: str) -> None:
    backbone = with_late_pad(architecture)
    adapter = scatter(Adapter.attach(backbone, METHODS["CGC-LoRA"]))
    requests = [Request("mood", prompt, max_new_tokens=6) for prompt in PROMPTS]
    together = generate(backbone, requests, adapter)
    alone = [generate(backbone, [request], adapter)[0] for request in requests]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def test_a_pad_token_without_an_embedding_changes_no_training(tmp_path: Path) -> None:
    run(tmp_path / "usual")
    run(tmp_path / "late", with_late_pad())
    assert dev_losses_of(tmp_path / "late") == dev_losses_of(tmp_path / "usual")


def test_a_batch_is_filled_with_what_the_backbone_reads() -> None:
    backbone = with_late_pad()
    items, _ = encode(
        [Record("1", "a", prompt, "y") for prompt in PROMPTS],
        backbone.tokenizer,
        ["a"],
        prompt_format=PromptFormat(),
        max_length=99,
    )
    ids = Collator(backbone.pad_id)(items)["input_ids"]
    assert torch.equal(ids[0, len(items[0].ids) :].unique(), torch.tensor([0]))
    assert int(ids.max()) < VOCABULARY


@pytest.mark.parametrize("field", ["prompt", "target"])
def test_a_record_that_the_backbone_cannot_read_is_refused_before_the_first_step(
    tmp_path: Path, field: str
) -> None:
    texts = {"prompt": "abc", "target": "好"} | {field: "x<picture>y"}
    spoilt = Record("the 9th", "mood", **texts)
    for changes in ({"train_records": [*TRAIN, spoilt]}, {"dev_records": [*DEV, spoilt]}):
        with pytest.raises(DataError, match=r"'the 9th' of task 'mood'.*cannot read.*leave it out"):
            run(tmp_path / "run", with_picture(), **changes)
        assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_choice_that_the_backbone_cannot_say_is_refused() -> None:
    backbone = with_picture()
    with pytest.raises(DecodingError, match="cannot say '<picture>': leave it out of the choices"):
        list(stream(backbone, [Request(None, "x", choices=("y", "<picture>"))]))
    with pytest.raises(DecodingError, match="cannot say '<picture>'"):
        label_probabilities(backbone, Request(None, "x"), ["y", "<picture>"])


def test_affinities_read_records_and_fill_batches_alike(tmp_path: Path) -> None:
    from cgclora.analysis.affinity import measure
    from cgclora.analysis.affinity_settings import AffinitySettings

    backbone = with_late_pad()
    adapter = Adapter.attach(backbone, AdapterConfig(("mood", "weather", "last letter")))
    settings = AffinitySettings(measurements=1, records=2, loss_records=2)
    found = measure(
        adapter, backbone.tokenizer, TRAIN, settings, tmp_path / "run", progress=lambda _: None
    )
    assert found["measurements"]
