"""The registry of methods: how each one is trained, prompted, named, drawn and described.

    register(Method("My-LoRA", "lora", "#b3445a", "star", "我的方法。", "My method.", config=build))

All of them share data, steps and tuning; see `recipe`. Rank is counted as in `AdapterConfig`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from cgclora.config import AdapterConfig, number, whole
from evals.tasks.parsing import Language

Adapters = Literal["none", "one a task", "one for all", "composed", "added"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the adapters of a comparison."""

    lora_rank: int = 8  # of LoRA (Single), (Full), (Full+TP), and so of LoRAHub
    common: int = 4  # common experts of CGC-LoRA
    specific: int = 1  # specific experts a task
    expert_rank: int = 2  # of each of them
    # Of CGC-LoRA; its ablations have the same alpha for each active rank, other methods twice their
    # rank, as published.
    alpha: float = 16.0
    moe_experts: int = 8  # experts of MOE-LoRA
    moe_rank: int = 0  # their total rank; 0 takes the one closest to that of CGC-LoRA

    def __post_init__(self) -> None:
        """Check every field."""
        for name, value in vars(self).items():
            if name == "alpha":
                number("sizes.alpha", value, 0)
            else:
                whole(f"sizes.{name}", value, 0 if name == "moe_rank" else 1)


Build = Callable[[Sequence[str], Sizes], AdapterConfig]
"""Task names and sizes to the adapter."""

FAMILIES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cgc-lora": ("CGC-LoRA", "CGC-LoRA"),
        "ablation": ("消融", "Ablations"),
        "moe-lora": ("MOE-LoRA", "MOE-LoRA"),
        "lora": ("LoRA", "LoRA"),
        "peer": ("同类方法", "Peers"),
        "merging": ("合并", "Merging"),
        "backbone": ("基座", "Backbone"),
        "other": ("其他", "Other"),
    }
)
"""Groups of methods that a leaderboard filters by: title in Chinese and English."""

CGC_SIZES = ("common", "specific", "expert_rank")
"""Sizes of CGC-LoRA and its ablations."""

_COLOUR = re.compile("#[0-9a-f]{6}")


@dataclass(frozen=True)
class Method:
    """All facts of a method that comparisons, leaderboards, figures and forms need.

    Raises:
        ValueError: The name is empty, the family unknown, the colour not `#rrggbb`, or an adapter
            is trained without a `config` to build it.
    """

    name: str  # on the leaderboard
    family: str  # one of `FAMILIES`
    colour: str  # `#rrggbb` in every figure
    symbol: str  # Plotly's marker in every figure; unique among methods of similar colour
    description_zh: str  # one line
    description_en: str
    # `none`; `one a task`, trained on that task only; `one for all` tasks of the cluster;
    # `composed` of those of LoRA (Single) without training; or `added`: for each task, an adapter
    # of the other tasks to which the task was added.
    adapters: Adapters = "one for all"
    config: Build | None = None  # None where nothing is trained
    prompt: str = "plain"  # one of `evals.runs.evaluate.PROMPTS`, in training and answering alike
    sizes: tuple[str, ...] = CGC_SIZES  # the fields of `Sizes` that users set for it
    is_main: bool = False  # whether it is drawn in crowded figures
    keeps_apart: bool = False  # whether one adapter for all has no parameters that tasks share
    by_default: bool = True  # whether a comparison that names no methods has it

    def __post_init__(self) -> None:
        """Check every field."""
        if not self.name.strip():
            raise ValueError("a method needs a name.")
        if self.family not in FAMILIES:
            raise ValueError(
                f"{self.name}: family {self.family!r} is not one of {', '.join(FAMILIES)}."
            )
        if not _COLOUR.fullmatch(self.colour):
            raise ValueError(f"{self.name}: colour {self.colour!r} is not of the form #1c80ff.")
        if (self.config is None) != (self.adapters in {"none", "composed"}):
            raise ValueError(
                f"{self.name}: a method with adapters {self.adapters!r} "
                f"{'needs a' if self.config is None else 'trains none and takes no'} config."
            )

    @property
    def has_many(self) -> bool:
        """Whether each task has an adapter of its own."""
        return self.adapters in {"one a task", "added"}

    @property
    def shares(self) -> bool:
        """Whether a task uses parameters that other tasks have trained too."""
        return self.adapters not in {"none", "one a task"} and not self.keeps_apart

    @property
    def is_trainable_alone(self) -> bool:
        """Whether a single training run on plain prompts produces it."""
        return self.adapters == "one for all" and self.prompt == "plain"


def _lora(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    return AdapterConfig.lora(tasks, sizes.lora_rank)


def _moe_lora(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    equal = _cgc_lora(tasks, sizes).total_rank
    each = max(1, round(equal / sizes.moe_experts))
    rank = sizes.moe_rank or each * sizes.moe_experts
    return AdapterConfig.moe_lora(tasks, sizes.moe_experts, rank, alpha=2.0 * rank)


def _cgc_lora(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    return AdapterConfig(
        tuple(tasks),
        common=sizes.common,
        specific=sizes.specific,
        expert_rank=sizes.expert_rank,
        alpha=sizes.alpha,
    )


# An ablation keeps the total rank: with a smaller one it would lose for two reasons.


def _as_strong(whole: AdapterConfig, **changes: int) -> AdapterConfig:
    """Other experts with the same scale under a uniform gate: alpha / active rank."""
    changed = dataclasses.replace(whole, **changes)  # type: ignore[arg-type]
    alpha = whole.alpha * changed.active_rank / whole.active_rank
    return dataclasses.replace(changed, alpha=alpha)


def _without_common(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    whole = _cgc_lora(tasks, sizes)
    share = max(1, whole.num_experts // len(tasks))
    rank = max(1, round(whole.total_rank / (share * len(tasks))))
    return _as_strong(whole, common=0, specific=share, expert_rank=rank)


def _without_specific(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    whole = _cgc_lora(tasks, sizes)
    return _as_strong(whole, common=whole.num_experts, specific=0)


def _mtl_lora(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    # As many parameters as CGC-LoRA where a layer's input is as wide as its output.
    total = _cgc_lora(tasks, sizes).total_rank
    rank = max(1, round(2 * total / (1 + sizes.common)))
    return AdapterConfig.mtl_lora(tasks, sizes.common, rank)


def _c_poly(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    # Its weights sum to 2, those of CGC-LoRA to 1: the same total strength.
    skills = (sizes.common, sizes.specific, sizes.expert_rank)
    return AdapterConfig.c_poly(tasks, *skills, alpha=sizes.alpha / 2)


BACKBONE = "Backbone"
SINGLE = "LoRA (Single)"
FULL = "LoRA (Full)"
LORAHUB = "LoRAHub"
MOE_LORA = "MOE-LoRA"
CGC_LORA = "CGC-LoRA"
MTL_LORA = "MTL-LoRA"
C_POLY = "C-Poly"
ADDED = "CGC-LoRA (added)"

_METHODS: dict[str, Method] = {}

METHODS: Mapping[str, Method] = MappingProxyType(_METHODS)
"""By name, in the order in which a comparison runs them: the main ones first."""


def register(method: Method) -> Method:
    """Add a method to recipes, training plans, boards, figures and forms of the app.

    Call it before the command line or the app starts.

    Raises:
        ValueError: There is a method of this name.
    """
    if method.name in METHODS:
        raise ValueError(f"there is a method {method.name!r} already: choose another name.")
    _METHODS[method.name] = method
    return method


def compared() -> tuple[str, ...]:
    """The default methods of a comparison: all but peers and those that add tasks later."""
    return tuple(name for name, method in METHODS.items() if method.by_default)


def description(name: str, language: Language) -> str:
    """The description of a method; empty if it is not registered."""
    if name not in METHODS:
        return ""
    method = METHODS[name]
    return method.description_zh if language == "zh" else method.description_en


def is_main(name: str) -> bool:
    """Whether a method is drawn in crowded figures."""
    return name in METHODS and METHODS[name].is_main


def family(name: str) -> str:
    """The family of a method; `other` if it is not registered."""
    return METHODS[name].family if name in METHODS else "other"


# A hue is a family: grey nothing trained, blue LoRA, green LoRAHub, pink MOE-LoRA, orange CGC-LoRA,
# brown its ablations, purple peers. Members of a family differ in lightness and marker. Families
# differ for every kind of colour vision, and each colour has a contrast of at least 3:1 against
# white and the dark theme's background; a test computes both.

for _method in (
    Method(
        *(BACKBONE, "backbone", "#646e76", "x"),
        *("冻结的基座，不训练。", "The frozen backbone, nothing trained."),
        adapters="none",
    ),
    Method(
        *(SINGLE, "lora", "#4060d0", "circle"),
        *("每个任务各训练一个 LoRA，互不共享。", "One LoRA a task; nothing is shared."),
        adapters="one a task",
        config=_lora,
        sizes=("lora_rank",),
    ),
    Method(
        *(FULL, "lora", "#1c80ff", "square"),
        *("所有任务共用一个 LoRA。", "One LoRA for all tasks."),
        config=_lora,
        sizes=("lora_rank",),
        is_main=True,
    ),
    Method(
        *(MOE_LORA, "moe-lora", "#ca71a9", "square"),
        *(
            "所有专家由各任务共享，任务门控加权。",
            "All experts are shared; a gate weighs them for each task.",
        ),
        config=_moe_lora,
        sizes=(*CGC_SIZES, "moe_experts"),
        is_main=True,
    ),
    Method(
        *(CGC_LORA, "cgc-lora", "#e57505", "circle"),
        *(
            "公共专家加每任务的专属专家，任务门控加权。",
            "Common experts and specific ones of each task, weighed by a gate.",
        ),
        config=_cgc_lora,
        is_main=True,
    ),
    Method(
        *("LoRA (Full+TP)", "lora", "#778edc", "diamond"),
        *(
            "所有任务共用一个 LoRA，提示词前加任务名。",
            "One LoRA for all tasks, the task's name before each prompt.",
        ),
        config=_lora,
        prompt="task name",
        sizes=("lora_rank",),
    ),
    Method(
        *(LORAHUB, "merging", "#17a77a", "cross"),
        *(
            "把各任务的 LoRA 加权组合，不用梯度。",
            "The LoRAs of single tasks, composed by weights found without gradients.",
        ),
        adapters="composed",
    ),
    Method(
        *("LoRA (total rank)", "lora", "#2c5cff", "triangle-up"),
        *("一个 LoRA，秩与 CGC-LoRA 的总秩相同。", "One LoRA with the total rank of CGC-LoRA."),
        config=lambda tasks, sizes: _cgc_lora(tasks, sizes).matched_lora("total"),
    ),
    Method(
        *("LoRA (active rank)", "lora", "#4874cb", "triangle-down"),
        *(
            "一个 LoRA，秩与 CGC-LoRA 单任务所用的秩相同。",
            "One LoRA with the rank that one task of CGC-LoRA uses.",
        ),
        config=lambda tasks, sizes: _cgc_lora(tasks, sizes).matched_lora("active"),
    ),
    Method(
        *(f"{CGC_LORA} w/o gate", "ablation", "#a38545", "diamond"),
        *(
            "CGC-LoRA 去掉可学习的门控：专家等权。",
            "CGC-LoRA without a learned gate: all experts weigh the same.",
        ),
        config=lambda tasks, sizes: dataclasses.replace(_cgc_lora(tasks, sizes), gate="uniform"),
    ),
    Method(
        *(f"{CGC_LORA} w/o common", "ablation", "#886c3a", "triangle-up"),
        *(
            "CGC-LoRA 去掉公共专家，总秩不变。",
            "CGC-LoRA without common experts, at the same total rank.",
        ),
        config=_without_common,
        keeps_apart=True,
    ),
    Method(
        *(f"{CGC_LORA} w/o specific", "ablation", "#77681a", "triangle-down"),
        *(
            "CGC-LoRA 去掉专属专家，总秩不变。",
            "CGC-LoRA without specific experts, at the same total rank.",
        ),
        config=_without_specific,
    ),
    Method(
        *(ADDED, "cgc-lora", "#d27e24", "diamond"),
        *(
            "先在其他任务上训练，再添加这个任务。",
            "Trained on the other tasks first; then the task is added.",
        ),
        adapters="added",
        config=_cgc_lora,
        by_default=False,
    ),
    Method(
        *(MTL_LORA, "peer", "#9d3c93", "circle"),
        *(
            "共享一个降维矩阵 A，各任务用自己的小矩阵变换它，并对若干 B 加权。",
            "One A, which each task turns by a small matrix of its own, and several weighed B.",
        ),
        config=_mtl_lora,
        by_default=False,
    ),
    Method(
        *(C_POLY, "peer", "#b31994", "square"),
        *(
            "公共技能按任务各自的 sigmoid 分配，专属技能权重恒定。",
            "Common skills that each task allocates by sigmoids, beside skills of its own.",
        ),
        config=_c_poly,
        by_default=False,
    ),
):
    register(_method)


def method_of(config: AdapterConfig | None, manifest: Mapping[str, Any]) -> str:
    """The leaderboard's name for an adapter's method; None as config is the bare backbone.

    Ablations of CGC-LoRA are named by their experts, and so are adapters whose manifest states
    `lora` or no method; an unregistered method keeps its name.
    """
    if config is None:
        return BACKBONE
    stated = str(manifest.get("method", ""))
    if stated.lower() == CGC_LORA.lower():
        learned = config.learns_gate
        parts = {"common": config.common, "specific": config.specific, "gate": learned}
        missing = next((name for name, present in parts.items() if not present), "")
        return f"{CGC_LORA} w/o {missing}" if missing else CGC_LORA
    if stated and stated.lower() != "lora":
        return next((name for name in METHODS if name.lower() == stated.lower()), stated)
    if config.shared_A or config.gate == "skills":
        return MTL_LORA if config.shared_A else C_POLY
    if config.num_experts == 1:
        return SINGLE if len(config.tasks) == 1 else FULL
    return CGC_LORA if config.specific else MOE_LORA
