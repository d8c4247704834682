"""Texts of the page's frame."""

WORDS: dict[str, tuple[str, str]] = {
    # Head of the page
    "page": (
        "CGC-LoRA · 一个冻结的大模型，许多任务的专家",
        "CGC-LoRA · one frozen model, many experts",
    ),
    "tagline": (
        "一个冻结的大模型，许多任务的专家。",
        "One frozen language model, experts for many tasks.",
    ),
    "idea": (
        "公共专家学习各任务的共性，专属专家学习单个任务的特性；门控只根据任务分配它们的权重。",
        "Common experts learn what tasks share, specific experts what is particular to one task; "
        "a gate weights them by the task alone.",
    ),
    "frozen": ("冻结的基座", "Frozen backbone"),
    "common": ("公共专家", "Common experts"),
    "specific": ("专属专家", "Specific experts"),
    "other_language": ("English", "中文"),
    "copy": ("复制", "Copy"),
    "copied": ("已复制", "Copied"),
    "copy_selected": ("已选中，按 Ctrl+C", "Selected: press Ctrl+C"),
    # Loading
    "loading": ("正在加载模型", "Loading the model"),
    "ready": ("模型就绪", "Model ready"),
    "load_failed": ("模型没有加载成功", "The model could not be loaded"),
    "load_failed_advice": (
        "按下面的英文提示处理，然后重新启动应用。",
        "Follow the message below, then restart the app.",
    ),
    "adapter_failed": ("适配器 {name} 无法使用", "The adapter {name} cannot be used"),
    "others_work": ("其余适配器照常可用。", "The other adapters are available."),
    "no_adapters": (
        "还没有适配器。用下面的命令训练一个，把得到的适配器文件夹放进 {folder}，再重新启动应用。",
        "There is no adapter yet. Train one with the command below, put its folder into {folder} "
        "and restart the app.",
    ),
}
