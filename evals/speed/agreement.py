"""Agreement of faster ways to decode with the backbone in fp32 on the next token.

At every token of a reference answer, given all tokens before it (teacher forcing), the argmax of
the next token is compared: in fp32 by `transformers`, the reference; in bf16 by `transformers`; and
by `fast_decoder` in bf16 and with 8-bit weights, in passes of `FEW_ROWS` tokens as in decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgclora.adapter import Adapter
from cgclora.analysis.intervals import wilson_interval
from cgclora.config import AdapterConfig
from cgclora.data.records import Encoded, Record, encode, sample_per_task
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import EMBEDDED, Backbone, load_backbone
from cgclora.models.quantized import FEW_ROWS
from cgclora.models.vocabulary import readable
from cgclora.storage import provenance

WAYS = ("transformers, bf16", "lean, bf16", "lean, int8")


def measure(
    adapters: Sequence[str | Path],
    records: Sequence[Record],
    *,
    source: str = EMBEDDED,
    per_task: int = 4,
    max_length: int = 640,
    seed: int = 0,
) -> dict[str, Any]:
    """The share of tokens on which each way agrees with fp32, over the tasks of some adapters.

    Args:
        adapters: Folders.
        records: Prompts and right answers; tasks without an adapter are skipped.
        source: The backbone.
        per_task: The number of records of each task.
        max_length: The most tokens of a record.
        seed: Of the draw.

    Returns:
        `tokens`, and of each of `WAYS` `agreement` with its 95 % interval `low` to `high` (Wilson);
        `like bf16` is that of `lean, int8` with `lean, bf16`; and the provenance.

    Raises:
        AdapterError, BackboneError, DataError: As loading and encoding say.
    """
    provenance.commit()  # cached: the commit at the start
    exact = load_backbone(source, device="cpu", dtype="float32")
    backbone = load_backbone(source, device="cpu", dtype="bfloat16")
    small = replace(backbone, int8=True)
    right, tokens = dict.fromkeys((*WAYS, "like bf16"), 0), 0
    for folder in adapters:
        in_fp32, adapter = (Adapter.load(folder, one).for_inference() for one in (exact, backbone))
        config = adapter.config
        encoded = _encoded(records, backbone, config, max_length)
        for item in sample_per_task(encoded, [per_task] * len(config.tasks), seed):
            task = config.tasks[item.task]
            expected = _by_transformers(exact, in_fp32, item, task)
            argmax = {
                "transformers, bf16": _by_transformers(backbone, adapter, item, task),
                "lean, bf16": _by_lean(backbone, adapter, item, task),
                "lean, int8": _by_lean(small, adapter, item, task),
            }
            tokens += len(expected)
            for way, ids in argmax.items():
                right[way] += int((ids == expected).sum())
            right["like bf16"] += int((argmax["lean, int8"] == argmax["lean, bf16"]).sum())
        in_fp32.detach()
        adapter.detach()
    return {
        "tokens": tokens,
        **{way: _share(count, tokens) for way, count in right.items()},
        "per_task": per_task,
        "max_length": max_length,
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        **provenance.stamp(small.model),
    }


def _encoded(
    records: Sequence[Record], backbone: Backbone, config: AdapterConfig, max_length: int
) -> Sequence[Encoded]:
    chosen = [record for record in records if record.task in config.tasks]
    return encode(
        chosen,
        backbone.tokenizer,
        config.tasks,
        prompt_format=config.prompt_format,
        max_length=max_length,
        needed=sorted({record.task for record in chosen}),
        readable_ids=readable(backbone.model),
        ends=backbone.ends,
    )[0]


def _share(count: int, tokens: int) -> Mapping[str, float]:
    low, high = wilson_interval(count, tokens)
    return {"agreement": round(count / tokens, 6), "low": round(low, 6), "high": round(high, 6)}


@torch.inference_mode()
def _by_transformers(backbone: Backbone, adapter: Adapter, item: Encoded, task: str) -> Tensor:
    """The argmax at each token of the answer, [answer tokens]."""
    ids = torch.tensor(item.ids)[None]
    with adapter.route([task]):
        hidden = backbone.model.get_decoder()(input_ids=ids).last_hidden_state
    return _argmax(backbone, hidden[0, item.prompt_length - 1 : -1], 64)


@torch.inference_mode()
def _by_lean(backbone: Backbone, adapter: Adapter, item: Encoded, task: str) -> Tensor:
    decoder = Runtime.of(backbone).decoder
    if decoder is None:
        raise ValueError("this backbone's family has no faster way to decode.")
    prompt, answer = item.ids[: item.prompt_length], item.ids[item.prompt_length : -1]
    cache = decoder.new_cache(1, len(item.ids))
    experts = decoder.experts(adapter.plan([task]))
    hidden = [decoder(torch.tensor(prompt)[None], cache, experts)[0, -1:]]
    for part in torch.tensor(answer, dtype=torch.long).split(FEW_ROWS):
        if len(part):
            hidden.append(decoder(part[None], cache, experts)[0])
    return _argmax(backbone, torch.cat(hidden), FEW_ROWS)


def _argmax(backbone: Backbone, hidden: Tensor, rows: int) -> Tensor:
    head = Runtime.of(backbone).head
    return torch.tensor([token for part in hidden.split(rows) for token in head.argmax(part)])
