"""Backbones of which some take no padding on the left, and some keep no keys and values."""

import pytest

from cgclora.adapter import Adapter
from cgclora.inference.batch import Batch, may_pad
from cgclora.inference.engine import generate
from cgclora.inference.request import DecodingError, Request
from cgclora.models.backbone import Backbone, BackboneError, fingerprint
from tests.helpers.reference import METHODS, scatter
from tests.helpers.tiny import make_tokenizer
from tests.suites.backbones.checks import make_bare

PROMPTS = ("好", "Is this about health?", "天", "what")


def make(model_type: str) -> Backbone:
    model = make_bare(model_type)
    return Backbone(model, make_tokenizer(), f"tiny-{model_type}", fingerprint(model))


@pytest.mark.parametrize(("model_type", "pads"), [("bart", False), ("glm4", True)])
def test_prompts_of_unequal_length_are_answered_together_as_alone(model_type: str, pads: bool):
    backbone = make(model_type)
    assert may_pad(backbone) == pads
    adapter = scatter(Adapter.attach(backbone, METHODS["CGC-LoRA"]))
    requests = [Request("mood", prompt, max_new_tokens=5) for prompt in PROMPTS]
    together = generate(backbone, requests, adapter)
    alone = [generate(backbone, [request], adapter)[0] for request in requests]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert len({answer.text for answer in together}) > 1


def test_a_batch_that_would_be_padded_is_refused_where_padding_is_read():
    with pytest.raises(DecodingError, match="prompts of one length"):
        Batch(make("bart"), None, [Request(None, "x")] * 2, [[5, 6], [7]])


def test_a_backbone_without_keys_and_values_is_refused_with_another_way():
    with pytest.raises(BackboneError, match=r"MambaForCausalLM cannot go on from a cache.*merged"):
        generate(make("mamba"), [Request(None, "x")])
