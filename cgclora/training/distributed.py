"""One run by several processes, as `accelerate launch` starts them: who holds what.

With a DDP config every process holds the whole backbone. Where that does not fit, an FSDP config
shards it: each process keeps an even part of every frozen weight, and gathers a block's weights
while the block computes (FSDP, arXiv 2304.11277; `fully_shard` of PyTorch). Adapters are small, so
they stay whole in every process, and their gradients, a single vector each, are summed up over the
processes before a step. So what reads or writes an adapter is the same for both.
"""

import os
from collections.abc import Mapping

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.layer import ExpertLinear, TaskGate
from cgclora.models.checkpoint import fingerprint
from cgclora.models.hardware import choose_device, choose_dtype
from cgclora.storage.run_dir import TrainingError
from cgclora.training.loss import TargetLoss

_USE_FSDP = "ACCELERATE_USE_FSDP"


def world_size() -> int:
    """Number of processes that `accelerate launch` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wants_fsdp() -> bool:
    """Whether they were started with an FSDP config."""
    return os.environ.get(_USE_FSDP, "false").lower() == "true"


def loading_options(device: str, dtype: str) -> tuple[str, str | torch.dtype]:
    """Where and in which dtype this process loads the backbone, given a user's device and dtype.

    `auto` becomes the process's own GPU; with FSDP main memory, in the GPU's dtype, from where
    `shard` moves this process's part to the GPU, block by block.
    """
    if device != "auto" or world_size() == 1:
        return device, dtype
    computing = choose_device("auto")
    if wants_fsdp():
        return "cpu", choose_dtype("auto", computing) if dtype == "auto" else dtype
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return own if computing.type == "cuda" else computing.type, dtype


def check_fsdp() -> None:
    """Look whether the FSDP config that the processes were started with can be followed.

    Raises:
        TrainingError: It cannot.
    """
    if world_size() == 1:
        raise TrainingError("an FSDP config for a single process: start more, or leave it out.")
    for setting, required in (
        ("fsdp_version", "2"),
        ("fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
        ("fsdp_offload_params", "false"),
        ("fsdp_activation_checkpointing", "false"),  # --gradient-checkpointing does the same
    ):
        value = _config(setting)
        if value.lower() not in {required.lower(), ""}:
            raise TrainingError(
                f"the FSDP config says {setting}: {value}, which does not work with a frozen "
                f"backbone and its adapter: write {setting}: {required}."
            )


def _config(setting: str) -> str:
    """What accelerate passes on of an FSDP config; empty for what it leaves to its default."""
    name = setting.removeprefix("fsdp_").upper()
    passed_on = {"TRANSFORMER_LAYER_CLS_TO_WRAP": "TRANSFORMER_CLS_TO_WRAP"}
    return os.environ.get(f"FSDP_{passed_on.get(name, name)}", "")


class Processes:
    """The processes of a run, of which this is number `index` of `count`; process 0 writes.

    Raises:
        TrainingError: See `check_fsdp`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.count, self.index = device, 1, 0  # where this process computes
        self._state: PartialState | None = None
        if wants_fsdp():
            check_fsdp()
            device = choose_device("auto")  # wherever the backbone is, `shard` moves it
        if world_size() > 1:
            self._state = PartialState(cpu=device.type == "cpu")
            self.device = self._state.device
            self.count, self.index = self._state.num_processes, self._state.process_index

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.index == 0

    def sum(self, value: Tensor) -> Tensor:
        """Add up a value over all processes, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(value)
        return value

    def gather(self, values: Mapping[int, str]) -> dict[int, str]:
        """The values of all processes."""
        if self.count == 1:
            return dict(values)
        of_all: list[Mapping[int, str]] = [{}] * self.count
        torch.distributed.all_gather_object(of_all, dict(values))
        return {key: value for one in of_all for key, value in one.items()}

    def wait(self) -> None:
        """Until all processes are here."""
        if self._state is not None:
            self._state.wait_for_everyone()


def shard(loss: TargetLoss, device: torch.device) -> None:
    """Leave this process an even part of every frozen weight on its device, and whole adapters.

    Each of the backbone's blocks becomes a unit of FSDP; embedding, last norm and head make another
    one, whose weights are whole while `loss` computes. The backbone can only be trained afterwards.

    Raises:
        TrainingError: The backbone is sharded already or quantised, or it does not say which
            modules are its blocks.
    """
    # Here, since not every build of PyTorch has them, and it takes time.
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415
    from torch.distributed.fsdp import FSDPModule, fully_shard  # noqa: PLC0415

    if any(isinstance(module, FSDPModule) for module in loss.modules()):
        raise TrainingError("this backbone is sharded already: train again in new processes.")
    if not all(parameter.is_floating_point() for parameter in loss.parameters()):
        raise TrainingError("a quantised backbone cannot be sharded: train it with a DDP config.")
    blocks = _blocks(loss.model)
    # What the sharded weights cannot tell any more, for the adapter's manifest.
    loss.model.config.unquantised_fingerprint = fingerprint(loss.model)
    adapters: list[nn.Module] = []
    for module in loss.modules():
        if isinstance(module, TaskGate):
            adapters.append(module)
        elif isinstance(module, ExpertLinear):
            adapters += [getattr(module, table) for table in module.adapter_parameter_names]
    for module in adapters:
        module.to(device)
    whole = {parameter for module in adapters for parameter in module.parameters()}
    mesh = init_device_mesh(device.type, (world_size(),))
    for block in blocks:
        fully_shard(
            block,
            mesh=mesh,
            reshard_after_forward=_config("fsdp_reshard_after_forward").lower() != "false",
            ignored_params=whole,
        )
    fully_shard(loss, mesh=mesh, ignored_params=whole)


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that the config calls blocks; if it calls none so, those that the model does."""
    named = _config("fsdp_transformer_layer_cls_to_wrap")
    names = set(named.split(",") if named else model._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise TrainingError(
            f"{type(model).__name__} has no block to shard by, looked for {sorted(names)}: name "
            "its blocks' class in the config, under fsdp_transformer_layer_cls_to_wrap."
        )
    return blocks
