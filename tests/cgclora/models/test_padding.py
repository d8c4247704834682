"""Backbones of which some take no padding on the left, and some keep no keys and values."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from cgclora.adapter import Adapter
from cgclora.inference.batch import Batch, may_pad
from cgclora.inference.engine import generate
from cgclora.inference.request import DecodingError, Request
from cgclora.models.backbone import Backbone, BackboneError, fingerprint
from tests.helpers.reference import METHODS, scatter
from tests.helpers.tiny import make_tokenizer
from tests.suites.backbones.checks import make_bare
from tests.suites.backbones.configs import tiny_config

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


@pytest.mark.parametrize("heads", [1, 16])
def test_an_indexer_whose_scores_tie_gets_no_padding(heads: int):
    """In one batch or not, each answer is that of `generate` of transformers to it alone."""
    config = tiny_config("glm_moe_dsa")
    config.index_n_heads = heads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    backbone = Backbone(model, make_tokenizer(), "tiny-glm_moe_dsa", fingerprint(model))
    assert may_pad(backbone) == (heads == 16)
    prompts = [tuple(range(5, 5 + 3 * length, 3)) for length in (30, 12, 17, 12)]
    assert config.index_topk < min(map(len, prompts))
    requests = [Request(None, prompt_ids=ids, max_new_tokens=8, logprobs=0) for ids in prompts]
    for ids, answer in zip(prompts, generate(backbone, requests), strict=True):
        (whole,) = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
        assert [one.token for one in answer.logprobs or ()] == whole[len(ids) :].tolist()


def test_a_batch_that_would_be_padded_is_refused_where_padding_is_read():
    with pytest.raises(DecodingError, match="prompts of one length"):
        Batch(make("bart"), None, [Request(None, "x")] * 2, [[5, 6], [7]])


def test_a_backbone_without_keys_and_values_is_refused_with_another_way():
    with pytest.raises(BackboneError, match=r"MambaForCausalLM cannot go on from a cache.*merged"):
        generate(make("mamba"), [Request(None, "x")])
