"""Plain LoRAs in PEFT's format as adapters here: one as it is, or several as experts (upcycling).

Upcycled adapters begin where their LoRAs ended. With a uniform gate, which a learned one starts as,
task t's update in each layer is

    dW_t = s_t B_t A_t + 1/n * sum_c s_c B_c A_c

of its own LoRA, if it has one, and the mean of the n common LoRAs. So CGC-LoRA of one LoRA a task
answers each task exactly as its LoRA did, and MOE-LoRA of n LoRAs answers all tasks with their
mean; training then moves weight between the experts (our choice, no paper's).
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError, PromptFormat
from cgclora.convert.importing.peft import PeftLoRA, read_peft
from cgclora.convert.to_lora import module_names
from cgclora.data.task_table import description_facts
from cgclora.models.backbone import Backbone
from cgclora.models.target_modules import linear_paths
from cgclora.storage.adapter_dir import AdapterError


def import_peft(
    source: str | Path | PeftLoRA,
    backbone: Backbone | PreTrainedModel,
    tasks: Sequence[str],
    *,
    separator: str | None = None,
    prompt_format: PromptFormat | None = None,
    name: str = "default",
) -> Adapter:
    """Attach a LoRA that PEFT saved, as an adapter of one expert and no gate: the same function.

    It answers all the tasks alike. PEFT's format has only a name to check the backbone by: one that
    differs gives a warning, since copies of a model have many. A separator of None takes that of an
    export of ours, or its chat template, else a line break; `prompt_format` says all of it.

    Raises:
        AdapterError: The folder cannot be read or does more than a plain LoRA, or does not fit the
            backbone.
        ConfigError: No task is named.
    """
    lora = _read(source)
    _compare_names([lora], backbone)
    config = AdapterConfig.lora(
        tasks,
        lora.rank,
        alpha=lora.alpha,
        scale_rule="sqrt" if lora.stabilised else "active",
        dropout=lora.dropout,
        target_modules=_targets(backbone, [lora]),
        **vars(prompt_format or _prompts([lora], separator)),
    )
    adapter = Adapter.attach(backbone, config, name=name)
    _place(adapter, lora, 0, config.scale)
    return adapter


def upcycle(
    own: Mapping[str, str | Path | PeftLoRA],
    backbone: Backbone | PreTrainedModel,
    *,
    common: Sequence[str | Path | PeftLoRA] = (),
    tasks: Sequence[str] | None = None,
    fresh: int = 0,
    expert_rank: int | None = None,
    separator: str | None = None,
    prompt_format: PromptFormat | None = None,
    name: str = "default",
    seed: int = 0,
) -> Adapter:
    """Attach an adapter whose experts are LoRAs that PEFT saved: a CGC-LoRA or a MOE-LoRA.

    `own` has each task's own LoRA, a folder or what `read_peft` read; it may be empty beside
    `common`, and `tasks` names the tasks then. `fresh` new common experts have B zero. A LoRA of
    rank r becomes r / k experts, rounded up; what is missing of the last has B zero. k is
    `expert_rank`; None takes the largest rank, so that every LoRA is one expert. Backbone,
    separator and prompt format are as for `import_peft`.

    Raises:
        ConfigError: There is no LoRA, or tasks and LoRAs do not go together.
        AdapterError: As `import_peft`.
    """
    mine, shared = {task: _read(one) for task, one in own.items()}, [_read(one) for one in common]
    if not (loras := [*mine.values(), *shared]):
        raise ConfigError("there is no LoRA to make experts of: name at least one.")
    _compare_names(loras, backbone)
    if mine and tasks is not None and set(tasks) != set(mine):
        raise ConfigError(f"tasks {sorted(tasks)} and LoRAs of {sorted(mine)}: name one for each.")
    rank = expert_rank or max(lora.rank for lora in loras)
    taken = [-(-lora.rank // rank) for lora in shared]  # experts of each common LoRA
    specific = max((-(-lora.rank // rank) for lora in mine.values()), default=0)
    shares = len(shared) if not mine else 1  # keeps B as it is where all scales are the same
    unit = next(iter(loras[0].scales.values())) / shares
    config = AdapterConfig(
        tuple(mine or tasks or ()),
        common=sum(taken) + fresh,
        specific=specific,
        expert_rank=rank,
        gate_scope="layer" if mine else "model",  # as MOE-LoRA has it
        alpha=unit * rank * (sum(taken) + fresh + specific),
        scale_rule="expert",
        dropout=loras[0].dropout if len({lora.dropout for lora in loras}) == 1 else 0.0,
        target_modules=_targets(backbone, loras),
        **vars(prompt_format or _prompts(loras, separator)),
    )
    adapter = Adapter.attach(backbone, config, name=name, seed=seed)
    for number, lora in enumerate(mine.values()):
        _place(adapter, lora, (config.common + number * specific) * rank, unit)
    for number, lora in enumerate(shared):
        _place(adapter, lora, sum(taken[:number]) * rank, unit * len(shared))
    return adapter


def imported_facts(loras: Sequence[PeftLoRA], tasks: Sequence[str]) -> dict[str, Any]:
    """What an adapter's manifest shall say of the LoRAs that it was made of.

    With them go their licence, and the descriptions of those of its tasks that keep their names.
    """
    stated = dict.fromkeys(lora.licence for lora in loras if lora.licence)
    described = {task: entry for lora in loras for task, entry in lora.descriptions.items()}
    return {
        **description_facts(described, tasks),
        "imported": [dict(lora.facts) for lora in loras],
        **({"licence": "; ".join(stated)} if stated else {}),
    }


def _read(source: str | Path | PeftLoRA) -> PeftLoRA:
    return source if isinstance(source, PeftLoRA) else read_peft(source)


def _compare_names(loras: Sequence[PeftLoRA], backbone: Backbone | PreTrainedModel) -> None:
    """Warn of LoRAs that name another backbone as the one that they were trained on."""
    here = backbone.name if isinstance(backbone, Backbone) else backbone.name_or_path
    if here and (folder := Path(here).expanduser()).is_dir():
        here = str(folder.resolve())  # never like a hub id
    for lora in loras:
        named = lora.facts["base_model"]
        if named and here and not same_model(str(named), here):
            warnings.warn(
                f"{lora.name} says that it was trained on {named}, the backbone here is {here}: "
                "beside other weights it is another function, so see that they are the same.",
                stacklevel=3,
            )


def same_model(one: str, other: str) -> bool:
    """Whether two names, hub ids or folders, may be of one model.

    Two hub ids must be the same but for case. A folder may be called like the model alone; one of
    the hub's cache says which id it has.
    """
    ones, others = _name_parts(one), _name_parts(other)
    common = min(len(ones), len(others))
    return ones[-common:] == others[-common:]


def _name_parts(name: str) -> tuple[str, ...]:
    """Owner and name of a hub id, the name alone of a folder, in lower case."""
    name = name.replace("\\", "/").rstrip("/").casefold()
    if cached := re.search(r"(?:^|/)models--([^/]+)/snapshots/[^/]+$", name):
        return tuple(cached[1].split("--", 1))
    is_id = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)
    return tuple(name.split("/")) if is_id else (name.rpartition("/")[2],)


@torch.no_grad()
def _place(adapter: Adapter, lora: PeftLoRA, start: int, unit: float) -> None:
    """Put a LoRA into the ranks from `start` on, where B counts `unit` times with a uniform gate.

    Where a matrix has another size than the backbone's layer, the adapter is taken off again.
    """
    for path, (A, B) in lora.layers.items():
        layer = adapter.layers[path]
        A_all, B_all = layer.expert_A[adapter.name], layer.expert_B[adapter.name]
        if (A.shape[1], B.shape[0]) != (A_all.shape[1], B_all.shape[0]):
            adapter.detach()
            raise AdapterError(
                f"{lora.name} adapts {path} from {A.shape[1]} to {B.shape[0]} features, this "
                f"backbone's goes from {A_all.shape[1]} to {B_all.shape[0]}: load the backbone "
                "that it was trained on."
            )
        ranks = slice(start, start + len(A))
        A_all[ranks] = A
        B_all[:, ranks] = B * (lora.scales[path] / unit)


def _targets(
    backbone: Backbone | PreTrainedModel, loras: Sequence[PeftLoRA]
) -> tuple[str, ...] | None:
    """Names of the layers that any of the LoRAs adapts; None where these are all there are."""
    model = backbone.model if isinstance(backbone, Backbone) else backbone
    paths = linear_paths(model)
    adapted = {path for lora in loras for path in lora.layers}
    if strange := sorted(adapted - set(paths)):
        raise AdapterError(
            f"{strange[0]} is adapted by a LoRA, and is not among the linear layers of this "
            "backbone (its output head and the experts of a mixture are not): load the backbone "
            "that it was trained on."
        )
    if adapted == set(paths):
        return None
    return module_names(model, [path for path in paths if path in adapted])


def _prompts(loras: Sequence[PeftLoRA], separator: str | None) -> PromptFormat:
    """The prompt format that all the folders share.

    A separator that is given makes plain prompts; else those of exports of ours have theirs, and
    others a line break.
    """
    stored = {lora.separator for lora in loras if lora.separator is not None}
    if separator is None and len(stored) > 1:
        raise ConfigError(f"the LoRAs were trained with separators {sorted(stored)}: choose one.")
    templates = {(lora.template, lora.system) for lora in loras}
    if separator is None and len(templates) > 1:
        raise ConfigError(
            "the LoRAs were trained with different chat templates or system texts: import them one "
            "by one, or give --separator for plain prompts."
        )
    template, system = (None, None) if separator is not None else templates.pop()
    return PromptFormat(
        next(iter(stored), "\n") if separator is None else separator,
        "bos" if all(lora.start == "bos" for lora in loras) else "tokenizer",
        template,
        system=system,
    )
