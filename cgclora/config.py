"""One config for every method: LoRA, MOE-LoRA, CGC-LoRA, peers and ablations are its values.

A config defines which task may use which expert (`common`, `specific`), how a task weights its
experts (`gate`), and all sizes. The layer reads nothing else.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

FORMAT = 3
"""Version of the saved form; larger ones are refused."""

BEFORE_START = 1
"""The last version without `start`: its adapters were trained with `bos`."""

BEFORE_TEMPLATE = 2
"""The last version without chat templates and `shared_A`: what has neither is saved as this one."""

Gate = Literal["task", "skills", "uniform", "none"]
GateScope = Literal["layer", "model"]
ScaleRule = Literal["expert", "active", "total", "sqrt"]
Start = Literal["tokenizer", "bos"]
Options = tuple[tuple[str, str | int | float | bool], ...]
"""What a chat template is told by name, such as `enable_thinking`; sorted."""


class ConfigError(ValueError):
    """An invalid config value; the message names the field, value and remedy."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(name: str, value: object, least: int) -> None:
    """Check that a value is a whole number of at least `least`.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number >= {least}, got {value!r}.")


def number(name: str, value: object, least: float) -> None:
    """Check that a value is a finite number of at least `least`.

    Raises:
        ConfigError: It is not.
    """
    if not _is_number(value) or cast(float, value) < least:
        raise ConfigError(f"{name} must be a number >= {least}, got {value!r}.")


def _names(field: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(f"{field} must be a list of at least one name, got {values!r}.")
    if any(not isinstance(name, str) or not name.strip() for name in values):
        raise ConfigError(f"{field} must be non-empty names, got {list(values)!r}.")
    return tuple(values)


def _options(values: object) -> Options:
    """Template options, from a mapping or pairs, in the order of their names."""
    try:
        options = dict(cast(Any, values))
    except (TypeError, ValueError):
        raise ConfigError(f"template_options must be names and values, got {values!r}.") from None
    for name, value in options.items():
        if not isinstance(name, str) or not isinstance(value, str | int | float):
            raise ConfigError(
                f"template_options must be names with text, numbers or true and false, "
                f"got {name!r}: {value!r}."
            )
    return tuple(sorted(options.items()))


@dataclass(frozen=True)
class PromptFormat:
    """What is added to a prompt before it is encoded.

    Attributes:
        separator: Text between the prompt and its answer.
        start: `tokenizer`, the special tokens that the backbone's tokenizer adds by itself, as with
            PEFT, TRL and vLLM; `bos`, only its `bos_token`, if it has one.
        template: A chat template in Jinja, as transformers has them; None is a plain prompt. With
            one, separator and start have no effect: the template writes all of it.
        template_options: What the template is told by name.
        system: System text of a prompt that has none of its own.
    """

    separator: str = "\n"
    start: Start = "tokenizer"
    template: str | None = None
    template_options: Options = ()
    system: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The format as JSON values."""
        return {**vars(self), "template_options": dict(self.template_options)}


@dataclass(frozen=True)
class AdapterConfig:
    """Everything that defines an adapter except its weights.

    With T tasks there are E = `common` + T * `specific` experts, each of rank k = `expert_rank`.
    Task t may use the common experts and its own. The adapted layer computes

        h = W0 x + scale * sum_e g[t, e] * B_e A_e x

    or, with `shared_A`, where all experts read one A that each task turns by a k x k matrix,

        h = W0 x + scale * sum_e g[t, e] * B_e M_t A x

    Attributes:
        tasks: Task names, in the order of their ids.
        common: Number of experts that every task uses (C).
        specific: Number of experts of each single task (S).
        expert_rank: Rank of one expert (k).
        shared_A: Whether all experts share one A, as in MTL-LoRA (arXiv 2410.09437).
        gate: `task`, a learned softmax over the task's experts (arXiv 2402.01684);
            `skills`, learned sigmoids of the common ones divided by their sum (arXiv 2202.13914),
            1 / S for each specific one; `uniform`, 1 / (C + S) each; `none`, weight 1 each.
        gate_scope: One gate per layer, or one for the whole model (as MOELoRA, arXiv 2310.18339).
        embedding_size: Width of the task embedding that the gate `task` reads.
        alpha: Numerator of the scale.
        scale_rule: Denominator of the scale: `expert` k, `active` the active rank, `total` E * k,
            or `sqrt`, the root of the active rank (rsLoRA, arXiv 2312.03732). With `expert` and
            uniform weights the update is that of a LoRA of the active rank with the same alpha.
        dropout: Probability of dropping an input feature of the experts while training.
        target_modules: Names of the linear layers to adapt (`q_proj`, or a full path); None takes
            all adaptable layers, see `cgclora.models.target_modules.linear_paths`.
        separator: Text between a prompt and its answer, in training and decoding alike.
        start: Special tokens of a prompt, see `PromptFormat`; `bos` is for older adapters.
        template: Text of the chat template, or None, see `PromptFormat`. The adapter keeps it,
            since the backbone's own may change.
        template_options: For the template; a mapping will do.
        system: System text of prompts without one, or None.

    Raises:
        ConfigError: A value is out of range, or no task could use any expert.
    """

    tasks: tuple[str, ...]
    common: int = 4
    specific: int = 1
    expert_rank: int = 2
    shared_A: bool = False  # noqa: N815 - the matrix of the formula
    gate: Gate = "task"
    gate_scope: GateScope = "layer"
    embedding_size: int = 32
    alpha: float = 16.0
    scale_rule: ScaleRule = "expert"
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None
    separator: str = "\n"
    start: Start = "tokenizer"
    template: str | None = None
    template_options: Options = ()
    system: str | None = None

    def __post_init__(self) -> None:
        """Check every field, since a config may come from a file or a form."""
        object.__setattr__(self, "tasks", _names("tasks", self.tasks))
        if self.target_modules is not None:
            object.__setattr__(
                self, "target_modules", _names("target_modules", self.target_modules)
            )
        repeated = sorted({task for task in self.tasks if self.tasks.count(task) > 1})
        if repeated:
            raise ConfigError(f"tasks names {repeated} more than once: each task needs one id.")
        minimums = {"common": 0, "specific": 0, "expert_rank": 1, "embedding_size": 1}
        for field, minimum in minimums.items():
            whole(field, getattr(self, field), minimum)
        if self.experts_per_task == 0:
            raise ConfigError("common and specific are both 0: give every task at least 1 expert.")
        for field, choices in (
            ("gate", get_args(Gate)),
            ("gate_scope", get_args(GateScope)),
            ("scale_rule", get_args(ScaleRule)),
            ("start", get_args(Start)),
        ):
            if getattr(self, field) not in choices:
                raise ConfigError(
                    f"{field} must be one of {choices}, got {getattr(self, field)!r}."
                )
        if not _is_number(self.alpha) or self.alpha <= 0:
            raise ConfigError(f"alpha must be a positive number, got {self.alpha!r}.")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout!r}.")
        if not isinstance(self.shared_A, bool):
            raise ConfigError(f"shared_A must be true or false, got {self.shared_A!r}.")
        if not isinstance(self.separator, str):
            raise ConfigError(f"separator must be text, got {self.separator!r}.")
        for field in ("template", "system"):
            if not isinstance(value := getattr(self, field), str | None) or value == "":
                raise ConfigError(f"{field} must be non-empty text or None, got {value!r}.")
        object.__setattr__(self, "template_options", _options(self.template_options))

    @property
    def prompt_format(self) -> PromptFormat:
        """The prompt format of training and decoding."""
        fields = (field.name for field in dataclasses.fields(PromptFormat))
        return PromptFormat(**{name: getattr(self, name) for name in fields})

    @property
    def num_experts(self) -> int:
        """E, the experts of all tasks together."""
        return self.common + len(self.tasks) * self.specific

    @property
    def experts_per_task(self) -> int:
        """C + S, the experts that one task may use."""
        return self.common + self.specific

    @property
    def total_rank(self) -> int:
        """E * k, the rank that is stored: columns of B."""
        return self.num_experts * self.expert_rank

    @property
    def rank_of_A(self) -> int:  # noqa: N802 - the matrix of the formula
        """Rows of A: the total rank, or k where all experts share one."""
        return self.expert_rank if self.shared_A else self.total_rank

    @property
    def active_rank(self) -> int:
        """The rank of the plain LoRA that one task is: (C + S) * k, or k where A is shared."""
        return self.expert_rank * (1 if self.shared_A else self.experts_per_task)

    @property
    def learns_gate(self) -> bool:
        """Whether the experts' weights are trained."""
        return self.gate in {"task", "skills"}

    @property
    def scale(self) -> float:
        """The factor s in front of the experts' sum."""
        denominator = {
            "expert": self.expert_rank,
            "active": self.active_rank,
            "total": self.total_rank,
            "sqrt": math.sqrt(self.active_rank),
        }[self.scale_rule]
        return self.alpha / denominator

    def access(self) -> list[list[bool]]:
        """Which task may use which expert: T rows of E values.

        The order of experts is: common ones, those of task 0, of task 1, and so on.
        """
        owners = [t for t in range(len(self.tasks)) for _ in range(self.specific)]
        common = [True] * self.common
        return [common + [owner == t for owner in owners] for t in range(len(self.tasks))]

    def expert_names(self) -> list[str]:
        """A name for each expert: `common 1`, ..., then `<task> 1`, ..."""
        names = [f"common {i + 1}" for i in range(self.common)]
        return names + [f"{task} {i + 1}" for task in self.tasks for i in range(self.specific)]

    def task_index(self, task: str) -> int:
        """The id of a task.

        Raises:
            ConfigError: The adapter does not know the task.
        """
        try:
            return self.tasks.index(task)
        except ValueError:
            raise ConfigError(
                f"unknown task {task!r}: this adapter knows {', '.join(self.tasks)}."
            ) from None

    def trainable_parameters(self, shapes: Iterable[tuple[int, int]]) -> int:
        """Number of trained values for adapted layers of the given (in, out) features."""
        shapes, tasks = list(shapes), len(self.tasks)
        gates = len(shapes) if self.gate_scope == "layer" else 1
        return (
            sum(self.rank_of_A * inner + self.total_rank * outer for inner, outer in shapes)
            + self.shared_A * len(shapes) * tasks * self.expert_rank**2
            + {
                "task": self.embedding_size * (tasks + gates * self.num_experts),
                "skills": gates * tasks * self.common,
            }.get(self.gate, 0)
        )

    @classmethod
    def lora(cls, tasks: Sequence[str], rank: int = 16, **changes: Any) -> AdapterConfig:
        """Plain LoRA (arXiv 2106.09685): one expert for all tasks, no gate."""
        sizes = {"common": 1, "specific": 0, "expert_rank": rank, "gate": "none"}
        scale = {"alpha": 2.0 * rank, "scale_rule": "active"}
        return cls(tuple(tasks), **{**sizes, **scale, **changes})

    @classmethod
    def moe_lora(
        cls, tasks: Sequence[str], experts: int = 8, rank: int = 16, **changes: Any
    ) -> AdapterConfig:
        """MOE-LoRA (arXiv 2310.18339): shared experts of total rank `rank`, one gate a model.

        Raises:
            ConfigError: `rank` does not divide into `experts` equal parts.
        """
        if experts < 1 or rank % experts:
            raise ConfigError(f"rank {rank} does not divide into {experts} equal experts.")
        sizes = {"common": experts, "specific": 0, "expert_rank": rank // experts}
        gate = {"gate_scope": "model", "embedding_size": 64}  # this and below as published
        scale = {"alpha": 32.0, "scale_rule": "total", "dropout": 0.1}
        return cls(tuple(tasks), **{**sizes, **gate, **scale, **changes})

    @classmethod
    def mtl_lora(
        cls, tasks: Sequence[str], experts: int = 8, rank: int = 16, **changes: Any
    ) -> AdapterConfig:
        """MTL-LoRA (arXiv 2410.09437): one A, a rank x rank matrix a task, `experts` matrices B.

        The weights of the B are softmaxes of logits of the task, as everywhere here the product of
        an embedding and a projection, at first of variance 1; the matrices start as identities (our
        choices).
        """
        sizes = {"common": experts, "specific": 0, "expert_rank": rank, "shared_A": True}
        return cls(tuple(tasks), **{**sizes, "alpha": 2.0 * rank, **changes})

    @classmethod
    def c_poly(
        cls,
        tasks: Sequence[str],
        common: int = 4,
        specific: int = 1,
        expert_rank: int = 2,
        **changes: Any,
    ) -> AdapterConfig:
        """C-Poly (arXiv 2312.03248): skills of all tasks that each allocates, and its own skills.

        The allocation is that of the gate `skills`. Outputs of skills are added up, whereas PEFT's
        Poly averages their A and their B before the product (our choice).
        """
        sizes = {"common": common, "specific": specific, "expert_rank": expert_rank}
        gate = {"gate": "skills", "alpha": 4.0 * expert_rank}
        return cls(tuple(tasks), **{**sizes, **gate, **changes})

    def matched_lora(self, to: Literal["total", "active"]) -> AdapterConfig:
        """The plain LoRA of the same total or the same active rank, on the same layers."""
        rank = self.total_rank if to == "total" else self.active_rank
        return AdapterConfig.lora(
            self.tasks,
            rank,
            dropout=self.dropout,
            target_modules=self.target_modules,
            **vars(self.prompt_format),
        )

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON values, stamped with the oldest version that reads it rightly."""
        values = dataclasses.asdict(self)
        names = ("template", "template_options", "system", "shared_A")
        new = {name: values.pop(name) for name in names}
        if not any(new.values()):
            return {"format": BEFORE_TEMPLATE, **values}
        return {"format": FORMAT, **values, **new, "template_options": dict(self.template_options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """Read the output of `to_dict`. Unknown keys give a warning.

        Raises:
            ConfigError: The format is newer than this version, or a field is missing or wrong.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a config must be an object, got {type(values).__name__}.")
        known = {field.name for field in dataclasses.fields(cls)}
        written = values.get("format")
        if not isinstance(written, int) or written > FORMAT:
            raise ConfigError(
                f"config format {written!r} is not one that this version reads (up to {FORMAT}): "
                "update cgclora."
            )
        unknown = sorted(set(values) - known - {"format"})
        if unknown:
            warnings.warn(
                f"config keys ignored, not known to this version: {unknown}", stacklevel=2
            )
        if written <= BEFORE_START:
            values = {"start": "bos", **values}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:
            raise ConfigError(
                f"config is incomplete or has a value of a wrong type: {error}"
            ) from error
