"""`python -m cgclora serve`: all clusters on one backbone, behind OpenAI's API."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from pathlib import Path

from cgclora.cli.common import backbone_options, four_bit_option, int8_option, load

HELP = """Serve all tasks of all adapters from one backbone, with OpenAI's API: chat/completions,
completions and models. A model is a task; `<cluster>/<task>` where several adapters have it, `auto`
where the adapters' routers find the task, and the backbone's own name for the bare backbone.
Requests of any tasks share batches.

  python -m cgclora serve --adapter assets/adapters/medical --adapter assets/adapters/general
  curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
      -d '{"model": "KUAKE-QIC", "prompt": "...", "max_tokens": 32, "temperature": 0}'
  curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" \\
      -d '{"model": "KUAKE-QIC", "messages": [{"role": "user", "content": "..."}]}'
  python -m evals predict --server http://127.0.0.1:8000/v1 --model '*={task}' ...

The separator that an adapter was trained with may be at the end of a prompt or missing. With
--adapters-folder, adapters below it can be loaded and unloaded at run time as with vLLM:
POST /v1/load_lora_adapter {"lora_name": ..., "lora_path": ...} and
POST /v1/unload_lora_adapter {"lora_name": ...}."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--adapter",
        type=_named_folder,
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="adapter folder or hub id, and its cluster's name if not the folder's (repeat)",
    )
    backbone_options(parser)
    four_bit_option(parser)
    int8_option(parser)
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one")
    parser.add_argument("--batch-size", type=int, default=16, help="maximum requests in a batch")
    parser.add_argument("--queue", type=int, default=256, help="maximum waiting requests")
    parser.add_argument(
        "--prompt-tokens", type=int, default=4096, help="maximum tokens of a prompt"
    )
    parser.add_argument(
        "--answer-tokens", type=int, default=2048, help="maximum tokens of an answer"
    )
    parser.add_argument(
        "--folded-memory",
        type=int,
        default=0,
        metavar="MB",
        help="for folded weights of the most requested tasks, which makes them faster",
    )
    parser.add_argument(
        "--api-key-variable", metavar="NAME", help="environment variable that holds the API key"
    )
    parser.add_argument(
        "--adapters-folder", type=Path, help="adapters below it may be loaded at run time"
    )
    parser.add_argument(
        "--allow-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="allow web pages of this origin, such as https://example.org; * is any (repeat)",
    )


def _named_folder(text: str) -> tuple[str, Path]:
    """Cluster name and folder; see `cluster_name` for the default name."""
    from cgclora.storage.hub import cluster_name

    name, equals, folder = text.partition("=")
    if equals and not name:
        raise argparse.ArgumentTypeError(f"{text!r} has no name before '=': give the cluster one.")
    if equals:
        return name, Path(folder)
    return cluster_name(text), Path(text)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: take 0 to 65535.")
    return int(text)


def _origin(text: str) -> str:
    """`*`, or an origin as browsers send it: scheme, host and optional port only."""
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+", text.lower()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no origin: give scheme, host and port alone, such as "
            "http://localhost:3000, or * for any."
        )
    return text.lower()


def execute(options: argparse.Namespace) -> None:
    """Run the command until it is interrupted."""
    import uvicorn

    from cgclora.inference.engine import Engine
    from cgclora.inference.multi_adapter import Clusters
    from cgclora.inference.request_queue import Limits
    from cgclora.serving.models import model_names
    from cgclora.serving.server import application

    limits = Limits(
        batch_size=options.batch_size,
        queue=options.queue,
        prompt_tokens=options.prompt_tokens,
        answer_tokens=options.answer_tokens,
    )
    key = _key(options)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.create_server((options.host, options.port), family=family) as listening:
        backbone = load(options)
        clusters = Clusters(backbone, folded_budget=options.folded_memory * 1_000_000)
        for name, folder in options.adapter:
            clusters.add(name, folder)
        with Engine(backbone, clusters, limits) as engine:
            app = application(
                engine,
                key=key,
                adapters_folder=options.adapters_folder,
                allow_origins=options.allow_origin,
            )
            config = uvicorn.Config(
                app, log_level="warning", timeout_graceful_shutdown=5, server_header=False
            )
            host = f"[{options.host}]" if ":" in options.host else options.host
            print(
                f"{len(model_names(clusters))} models of {len(clusters.adapters)} clusters at "
                f"http://{host}:{listening.getsockname()[1]}/v1",
                file=sys.stderr,
                flush=True,
            )
            uvicorn.Server(config).run(sockets=[listening])


def _key(options: argparse.Namespace) -> str | None:
    """The API key, from the environment, since other users can see the command line."""
    from cgclora.config import ConfigError

    if options.api_key_variable is None:
        if options.host not in {"127.0.0.1", "localhost", "::1"}:
            print(
                "cgclora: no API key is required from other machines; --api-key-variable sets one.",
                file=sys.stderr,
            )
        return None
    if not (key := os.environ.get(options.api_key_variable)):
        raise ConfigError(f"the environment variable {options.api_key_variable} holds no key.")
    return key
