"""The gates of a task."""

WORDS: dict[str, tuple[str, str]] = {
    "tab gates": ("门控", "Gates"),
    # Gates
    "gates": ("门控", "Gate"),
    "gates_intro": (
        "这个任务怎样分配专家的权重。门控只看任务，不看文字：同一任务的任何输入，权重都一样。",
        "How this task weighs its experts. The gate reads the task, not the words: every input of "
        "a task gets the same weights.",
    ),
    "gates_later": ("模型加载完后显示。", "Shown as soon as the model is loaded."),
    "gates_never": (
        "模型没有加载成功，读不到门控。",
        "The model could not be loaded, so there is no gate to show.",
    ),
    "share_common": ("公共专家", "common"),
    "share_specific": ("专属专家", "specific"),
    "common_n": ("公共 {n}", "Common {n}"),
    "specific_n": ("专属 {n}", "Specific {n}"),
    "even": (
        "均匀分配时，每个专家 {share}。",
        "An even split would give each expert {share}.",
    ),
    "gate_table": ("每一层各专家的权重", "Weight of each expert in each layer"),
    "module": ("哪些线性层", "Which linear layers"),
    "all_modules": ("平均", "Mean"),
    "layer": ("第 {n} 层", "Layer {n}"),
    "layer_axis": (
        "Transformer 层<br>颜色越浓，权重越大（{least} 至 {most}）",
        "Transformer layer<br>stronger: more weight ({least} to {most})",
    ),
    "weight": ("权重", "Weight"),
}
