"""What is asked of a backbone: five answers of ours, each against plain transformers."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from cgclora.adapter import Adapter
from cgclora.convert.merged import export_merged
from cgclora.convert.peft_export import export_peft
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.data.records import Encoded
from cgclora.data.sampling import Collator
from cgclora.inference.batch import Batch, may_pad
from cgclora.inference.request import DecodingError, Request
from cgclora.models.backbone import Backbone, BackboneError
from cgclora.models.checkpoint import auto_class, fingerprint
from cgclora.storage.adapter_dir import AdapterError
from cgclora.storage.atomic_io import in_short
from cgclora.training.loss import TargetLoss
from tests.helpers.reference import METHODS, TASKS, experts, gate_weights
from tests.helpers.tiny import make_tokenizer
from tests.suites.backbones.configs import tiny_config

CGC = METHODS["CGC-LoRA"]
EQUAL = "equal"


class NoComparisonError(Exception):
    """Plain transformers cannot do it either."""


REFUSALS = (AdapterError, BackboneError, DecodingError)
CLOSE = {torch.float64: 1e-3, torch.float32: 1e-2}
"""Of the adapter's own effect; steps in float32 within a float64 model are off by less."""


@dataclass(frozen=True)
class Row:
    """What is found for a model type: `equal`, or why not.

    Attributes:
        model_type: Its name.
        mixed: Rows of unequal length and different tasks are answered as one by one.
        joined: So are rows that join a running batch, which others leave.
        loss: The loss of such rows and its gradients are those of the whole logits.
        merged: So are the logits of a task's merged export.
        peft: And those of its export to PEFT.
    """

    model_type: str
    mixed: str
    joined: str
    loss: str
    merged: str
    peft: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The five findings."""
        return tuple(getattr(self, field.name) for field in fields(self))[1:]


@dataclass(frozen=True)
class Subject:
    """A tiny backbone with an adapter that changes it, and the same one without.

    Attributes:
        bare: Without an adapter.
        backbone: With one.
        adapter: That one, all of its values random.
        close: Largest error, as a part of the adapter's effect.
    """

    bare: PreTrainedModel
    backbone: Backbone
    adapter: Adapter
    close: float

    def weights(self, task: str) -> dict[str, Tensor]:
        """W0 + s * sum_e g_e B_e A_e of each adapted layer, an expert at a time."""
        adapter, config = self.adapter, self.adapter.config
        found = {}
        tables, number = adapter.gate, config.task_index(task)
        for row, (path, layer) in enumerate(adapter.layers.items()):
            gates = gate_weights(config, number, tables.projection[row], tables.embedding)
            A, B = layer.expert_A[adapter.name], layer.expert_B[adapter.name]
            weight = self.bare.get_submodule(path).weight.double()
            for gate, (A_e, B_e) in zip(gates, experts(A, B, config.expert_rank), strict=True):
                weight = weight + config.scale * gate * (B_e @ A_e)
            found[f"{path}.weight"] = weight.to(self.bare.dtype)
        return found

    def logits(self, task: str | None, ids: list[int]) -> Tensor:
        """Logits [tokens, V] of plain transformers with a task in its weights."""
        weights = {} if task is None else self.weights(task)
        batch = {"input_ids": torch.tensor([ids])}
        return functional_call(self.bare, weights, kwargs=batch).logits[0].double()


def examine(model_type: str) -> Row:
    """Ask a model type all that is to be asked."""
    row = _examine(model_type, torch.float64)
    if any(cell.startswith(("fails", "no")) for cell in row.cells):  # some steps are in float32
        return _examine(model_type, torch.float32)
    return row


def _examine(model_type: str, dtype: torch.dtype) -> Row:
    try:
        bare = make_bare(model_type, dtype)
    except Exception as error:
        return Row(model_type, *[f"no tiny model: {in_short(error)}"] * 5)
    try:
        subject = make_subject(model_type, bare)
    except REFUSALS as error:
        return Row(model_type, *[f"refused: {error}"] * 5)
    except Exception as error:
        return Row(model_type, *[f"fails: {in_short(error)}"] * 5)
    checks = (mixed, joined, loss, merged, peft)
    return Row(model_type, *(_answer(check, subject) for check in checks))


def make_bare(model_type: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A tiny random model that reads token ids."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = tiny_config(model_type)
        model = auto_class(config).from_config(config, dtype=dtype)
    model = model.to(dtype).eval().requires_grad_(False)
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]))
    return model


def make_subject(model_type: str, bare: PreTrainedModel) -> Subject:
    """A random adapter on a copy of a model."""
    model = copy.deepcopy(bare)
    backbone = Backbone(model, make_tokenizer(), f"tiny-{model_type}", fingerprint(model))
    adapter = Adapter.attach(backbone, CGC)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.data = parameter.data.to(model.dtype)
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Subject(bare, backbone, adapter, CLOSE[model.dtype])


def _answer(check: Callable[[Subject], float], subject: Subject) -> str:
    try:
        error = check(subject)
    except REFUSALS as refusal:
        return f"refused: {refusal}"
    except NoComparisonError as missing:
        return str(missing)
    except Exception as failure:
        return f"fails: {in_short(failure)}"
    return EQUAL if error <= subject.close else f"differs by {error:.0e} of the adapter's effect"


def _rows() -> Iterator[tuple[str, Encoded]]:
    """A task and a record a row, of unequal lengths."""
    for row, (task, length) in enumerate(zip(TASKS, (9, 5, 7), strict=True)):
        ids = [3 + (11 * row + 7 * place) % 250 for place in range(length)]
        yield task, Encoded(ids, length - 3, row)


def _off(found: Tensor, expected: Tensor, bare: Tensor) -> float:
    """The error as a part of what the adapter changes."""
    effect = float((expected - bare).norm())
    if not effect:
        raise ValueError("the adapter changes nothing")
    return float((found.double() - expected).norm()) / effect


@torch.no_grad()
def mixed(subject: Subject) -> float:
    """After prompts of several tasks and lengths, and after one token more."""
    tasks, items = zip(*_rows(), strict=True)
    requests = [Request(task, "prompt", max_new_tokens=4) for task in tasks]
    prompts = [item.ids[:-1] for item in items]
    worst = 0.0
    rows = [*range(len(items))]
    # Where the backbone takes no padding, `stream` makes batches of prompts of one length.
    for group in [rows] if may_pad(subject.backbone) else [[row] for row in rows]:
        own = [requests[row] for row in group], [prompts[row] for row in group]
        with torch.inference_mode():
            batch = Batch(subject.backbone, subject.adapter, *own)
            found = [batch.prefill(), batch.step([items[row].ids[-1] for row in group])]
        for place, row in enumerate(group):
            task, ids = tasks[row], items[row].ids
            expected, bare = subject.logits(task, ids), subject.logits(None, ids)
            for step, logits in enumerate(found, len(ids) - 2):
                worst = max(worst, _off(logits[place].clone(), expected[step], bare[step]))
    return worst


@torch.inference_mode()
def joined(subject: Subject) -> float:
    """A row joins a wider one, which leaves; then a third one joins."""
    rows = [(task, item.ids, item.prompt_length) for task, item in _rows()]
    read = [length - 1 for _, _, length in rows]  # the place of each row's last token
    worst = 0.0

    def start(row: int) -> tuple[Batch, Tensor]:
        task, ids, length = rows[row]
        request = Request(task, "prompt", max_new_tokens=4)
        batch = Batch(subject.backbone, subject.adapter, [request], [ids[:length]])
        return batch, batch.prefill()

    def check(found: Tensor, *present: int) -> None:
        nonlocal worst
        for place, row in enumerate(present):
            task, ids, _ = rows[row]
            expected, bare = subject.logits(task, ids), subject.logits(None, ids)
            at = read[row]
            worst = max(worst, _off(found[place].clone(), expected[at], bare[at]))

    def step(*present: int) -> None:
        for row in present:
            read[row] += 1
        check(batch.step([rows[row][1][read[row]] for row in present]), *present)

    may_pad(subject.backbone)  # refuses what cannot be decoded at all
    batch, logits = start(0)
    check(logits, 0)
    if not batch.can_join:
        raise NoComparisonError("no: rows wait for the next batch")
    for earlier, row in ((0, 1), (1, 2)):
        other, logits = start(row)
        check(logits, row)
        batch.join(other)
        step(earlier, row)
        batch.keep([1])
        step(row)
    return worst


def loss(subject: Subject) -> float:
    """The summed loss of targets in one batch, and the gradient of every parameter."""
    tasks, items = zip(*_rows(), strict=True)
    adapter = subject.adapter
    parameters = [parameter for _, parameter in adapter.named_parameters()]
    batch = Collator(subject.backbone.pad_id)(items)
    inputs = [batch[name] for name in ("input_ids", "positions", "targets")]
    theirs = torch.zeros((), dtype=torch.float64)
    for task, item in zip(tasks, items, strict=True):
        logits = subject.logits(task, item.ids)[item.prompt_length - 1 : -1]
        targets = torch.tensor(item.ids[item.prompt_length :])
        theirs = theirs + F.cross_entropy(logits, targets, reduction="sum")
    try:
        expected = torch.autograd.grad(theirs, parameters, allow_unused=True)
    except RuntimeError as error:
        raise NoComparisonError("no gradient in transformers itself") from error
    model = TargetLoss(adapter.model)
    with adapter.route(list(tasks)):
        ours = model(*inputs).double().sum()
        found = torch.autograd.grad(ours, parameters, allow_unused=True)
    pairs = [
        (torch.zeros(()) if a is None else a, torch.zeros(()) if b is None else b)
        for a, b in zip(found, expected, strict=True)
    ]
    errors = torch.stack([(a - b).norm() for a, b in pairs])
    whole = torch.stack([b.norm() for _, b in pairs]).norm()
    return max(
        float(errors.norm() / whole), float((ours - theirs).detach().abs() / theirs.detach())
    )


@torch.no_grad()
def merged(subject: Subject) -> float:
    """A task's merged model, as transformers loads it."""
    task, item = next(_rows())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        export_merged(subject.adapter, task, out, subject.backbone.tokenizer)
        cls = auto_class(subject.bare.config)
        model = cls.from_pretrained(out, dtype=subject.bare.dtype).eval()
        return _off_alone(subject, model, task, item)


@torch.no_grad()
def peft(subject: Subject) -> float:
    """A task's LoRA, as PEFT loads it onto the bare backbone."""
    task, item = next(_rows())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        export_peft(TaskLoRAs.of(subject.adapter), out, [task])
        model = PeftModel.from_pretrained(copy.deepcopy(subject.bare), out).eval()
        return _off_alone(subject, model, task, item)


def _off_alone(subject: Subject, model: nn.Module, task: str, item: Encoded) -> float:
    found = model(input_ids=torch.tensor([item.ids])).logits[0]
    return _off(found, subject.logits(task, item.ids), subject.logits(None, item.ids))
