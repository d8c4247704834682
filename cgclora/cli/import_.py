"""`python -m cgclora import`: LoRAs and Polys that PEFT saved, as adapters."""

import argparse
from pathlib import Path
from typing import Any

from cgclora.cli.common import choose_prompts, has_prompts, prompt_options, show
from cgclora.data.forms import task_name

HELP = """Import LoRAs in PEFT's format as an adapter. One stays what it is, several become experts:

  lora      one LoRA that answers all the tasks named, exactly as in PEFT
  cgc-lora  each LoRA is its task's own expert, beside common ones; at the start each task answers
            exactly as its LoRA did (plus the mean of the --common-peft, where there are any)
  moe-lora  all LoRAs are common experts; at the start every task answers with their mean

  python -m cgclora import --peft my-lora --task NER --out runs/ner
  python -m cgclora import --peft ner --task NER --peft qic --task QIC --common 2 --out runs/both
  python -m cgclora import --method moe-lora --peft a --peft b --task NER --out runs/mixed

A Poly of PEFT counts as a LoRA for each of its tasks, which answer exactly as in PEFT; cgc-lora
adds no common expert to it unless --common says so. Mixtures that weigh LoRAs token by token
(X-LoRA, MixLoRA, Arrow) are refused: the gates here read the task alone.

  python -m cgclora import --peft my-poly --task NER --task QIC --out runs/poly

The n-th --task names the task of the n-th LoRA (moe-lora: the tasks there shall be); without any
the folders' names do. PEFT says by a name alone which backbone a LoRA was trained on: name it with
--backbone; another name gives a warning. The adapter can be used and trained on like any other."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--peft",
        type=Path,
        action="append",
        required=True,
        help="PEFT folder or hub id of a LoRA or a Poly (repeat)",
    )
    prompt_options(parser.add_argument_group("prompts (default: as exported, else plain)"))
    parser.add_argument("--task", type=task_name, action="append", help="task name (repeat)")
    parser.add_argument(
        "--method",
        choices=("lora", "moe-lora", "cgc-lora"),
        help="default: lora for one LoRA, cgc-lora for several",
    )
    parser.add_argument("--out", type=Path, required=True, help="adapter folder to make")
    parser.add_argument(
        "--common-peft", type=Path, action="append", default=[], help="a common expert (cgc-lora)"
    )
    parser.add_argument(
        "--common",
        type=int,
        help="new common experts (default: 1 for cgc-lora of LoRAs without --common-peft, else 0)",
    )
    parser.add_argument("--expert-rank", type=int, help="rank of an expert (default: the LoRAs')")
    parser.add_argument(
        "--separator", help="between prompt and answer (default: as exported, else a line break)"
    )
    parser.add_argument(
        "--licence", help="licence of the LoRAs' training data (default: as exported)"
    )
    parser.add_argument(
        "--backbone", help="local folder or hub id; without it, the embedded Gemma 3 270M"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is new")
    parser.add_argument(
        "--half", action="store_true", help="save the adapter in bf16, half the size"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def execute(options: argparse.Namespace) -> None:
    """Import, save, and report what was made."""
    import torch

    from cgclora.convert.importing.lora import import_peft, imported_facts, upcycle
    from cgclora.convert.importing.peft import read_peft
    from cgclora.convert.importing.poly import read_tasks
    from cgclora.models.backbone import EMBEDDED, load_backbone

    loras = [lora for folder in options.peft for lora in read_tasks(folder)]
    method = options.method or ("lora" if len(loras) == 1 else "cgc-lora")
    tasks = options.task or [lora.name for lora in loras]
    _check(options, method, tasks, len(loras))
    common = [read_peft(folder) for folder in options.common_peft]
    facts = imported_facts([*loras, *common], tasks)
    backbone = load_backbone(options.backbone or EMBEDDED, device="cpu")
    prompts: dict[str, Any] = {"separator": options.separator}
    if has_prompts(options):
        prompts = {"prompt_format": choose_prompts(options, backbone.tokenizer)}
    if method == "lora":
        adapter = import_peft(loras[0], backbone, tasks, **prompts)
    else:
        own = dict(zip(tasks, loras, strict=True)) if method == "cgc-lora" else {}
        alone = method == "cgc-lora" and not common and len(loras) == len(options.peft)
        adapter = upcycle(
            own,
            backbone,
            common=common if own else loras,
            tasks=tasks,
            fresh=int(alone) if options.common is None else options.common,
            expert_rank=options.expert_rank,
            **prompts,
            seed=options.seed,
        )
    manifest = adapter.save(
        options.out,
        dtype=torch.bfloat16 if options.half else None,
        facts={"method": method, **facts}
        | ({"licence": options.licence} if options.licence else {}),
    )
    config = adapter.config
    experts = f"{config.common} common + {config.specific} x {len(config.tasks)} specific"
    text = f"{method}: {experts} experts of rank {config.expert_rank} in {options.out}"
    show(manifest, text, options)


def _check(options: argparse.Namespace, method: str, tasks: list[str], loras: int) -> None:
    """Refuse options that do not go together."""
    from cgclora.config import ConfigError, whole

    if options.separator is not None and has_prompts(options):
        raise ConfigError("--separator is of plain prompts: leave it out, or what says otherwise.")
    if method == "lora" and loras > 1:
        raise ConfigError("--method lora takes one LoRA: cgc-lora and moe-lora take several.")
    if method == "cgc-lora" and len(tasks) != loras:
        raise ConfigError(
            f"{loras} LoRAs in --peft but {len(tasks)} --task: name one for each, a Poly's in the "
            "order of its task ids."
        )
    if method == "cgc-lora" and len(set(tasks)) != len(tasks):
        raise ConfigError(f"{tasks} names a task twice: each has one LoRA of its own.")
    if method != "cgc-lora" and options.common_peft:
        raise ConfigError("--common-peft needs --method cgc-lora.")
    if method == "lora" and (options.common or options.expert_rank):
        raise ConfigError("--common and --expert-rank need --method cgc-lora or moe-lora.")
    if options.common is not None:
        whole("--common", options.common, 0)
    if options.expert_rank is not None:
        whole("--expert-rank", options.expert_rank, 1)
