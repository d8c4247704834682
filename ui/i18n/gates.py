"""The gates: of a task, under the experts' answers too, and of a whole cluster."""

WORDS: dict[str, tuple[str, str]] = {
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
    "weight_table": ("每一层各专家的权重", "Weight of each expert in each layer"),
    "module": ("哪些线性层", "Which linear layers"),
    "all_modules": ("平均", "Mean"),
    "layer": ("第 {n} 层", "Layer {n}"),
    "weight_axis": (
        "Transformer 层<br>颜色越浓，权重越大（{least} 至 {most}）",
        "Transformer layer<br>stronger: more weight ({least} to {most})",
    ),
    "weight": ("权重", "Weight"),
    # Choosing
    "gates_view": ("看什么", "What to look at"),
    "gates_view task": ("一个任务", "One task"),
    "gates_view cluster": ("整个任务簇", "Whole cluster"),
    "gates_loading": (
        "模型加载完后，这里显示门控。",
        "The gates appear here as soon as the model is loaded.",
    ),
    "gates_none": (
        "没有可用的适配器，也就没有门控。",
        "There is no adapter, so there are no gates.",
    ),
    # Weights
    "gates_weights": ("权重怎样分给专家", "How the weight is split"),
    "gates_by_layer": ("每一层", "Layer by layer"),
    "gates_entropy": ("分得有多均匀", "How even the split is"),
    "gates_entropy_hint": (
        "熵 ÷ log(专家数)：1 是人人一样多，越低越偏重少数专家。细线是各种线性层。",
        "Entropy over log(number of experts): 1 is an even split; the lower, the more a few "
        "experts have. Thin lines are the kinds of linear layers.",
    ),
    "gates_entropy_one": (
        "只有一个专家，没有分配可言。",
        "There is a single expert, so there is nothing to split.",
    ),
    "gates_entropy_axis": ("归一化的熵", "Normalised entropy"),
    "gates_layer_axis": ("Transformer 层", "Transformer layer"),
    "gates_unlearned uniform": (
        "这个适配器的门控不是学出来的：每个专家的权重一样。",
        "This adapter's gate is not learned: every expert has the same weight.",
    ),
    "gates_unlearned none": (
        "这个适配器没有门控：每个专家的权重都是 1。",
        "This adapter has no gate: every expert has weight 1.",
    ),
    "gates_one_scope": (
        "所有层共用一个门控，所以各层一样。",
        "All layers share one gate, so they are all alike.",
    ),
    # What if
    "gates_what_if": ("如果改动专家的权重", "What if an expert had more weight, or none"),
    "gates_what_if_hint": (
        "拖动滑块或敲除一个专家，松手就重新回答。1 是学到的权重。",
        "Move a slider or knock an expert out: the answer follows when you let go. 1 is the "
        "learned weight.",
    ),
    "gates_samples": ("点一个示例", "Click an example"),
    "gates_prompt": ("模型读到的提示词（可以改）", "The prompt the model reads (editable)"),
    "gates_run": ("回答", "Answer"),
    "gates_knock": ("敲除", "Knock out"),
    "gates_restore": ("恢复", "Restore"),
    "gates_reset": ("全部恢复", "Reset all"),
    "gates_keep_sum": ("权重之和不变", "Keep the sum of the weights"),
    "gates_keep_sum_info": (
        "拿走的权重按比例分给其他专家。关掉它，更新的总量也会变。",
        "What one expert loses goes to the others in proportion. Without it, the whole update "
        "shrinks or grows, too.",
    ),
    "gates_slider": ("{name} · 学到 {share}", "{name} · learned {share}"),
    "gates_slider_more": (
        "这里只有前 {shown} 个专家的滑块，其余 {rest} 个保持原样。",
        "Sliders are for the first {shown} experts; the other {rest} stay as they are.",
    ),
    "gates_original": ("学到的权重", "Learned weights"),
    "gates_changed": ("改动后的权重", "Changed weights"),
    "gates_before": (
        "点一个示例，或者动一动滑块。",
        "Click an example, or move a slider.",
    ),
    "gates_unchanged": (
        "还没有改动：拖动一个滑块，或敲除一个专家。",
        "Nothing is changed yet: move a slider, or knock an expert out.",
    ),
    "gates_waiting": ("正在计算…", "Computing…"),
    "gates_same": ("回答没有变", "Same answer"),
    "gates_different": ("回答变了", "The answer changes"),
    "gates_cut": ("只显示前 {most} 个词元", "first {most} tokens"),
    "gates_split_table": ("各专家所占的权重", "Each expert's share of the weight"),
    "gates_empty_prompt": (
        "请先写一个问题，或点一个示例。",
        "Write a question or click an example.",
    ),
    "gates_refused": (
        "没有算出来。英文原因见下。",
        "This could not be computed. The reason is below.",
    ),
    "gates_busy": (
        "服务器太忙，没有算。请过几秒再动一次滑块。",
        "The server is too busy to compute this. Move a slider again in a few seconds.",
    ),
    # Effects
    "gates_effects": ("每个专家实际起了多大作用", "What each expert really adds"),
    "gates_effects_hint": (
        "用现在的滑块读这个提示词时，每个专家的更新有多长：‖g·s·B·A·x‖ ÷ ‖W₀x‖，"
        "对词元和线性层取平均。权重大的专家，作用未必大。",
        "How long each expert's update is while this prompt is read with the sliders as they are: "
        "‖g·s·B·A·x‖ over ‖W₀x‖, averaged over tokens and linear layers. Much weight need not mean "
        "much effect.",
    ),
    "gates_effects_later": (
        "在上面给出一个输入，这里就显示每一层、每个专家的作用。",
        "Give an input above to see what each expert adds in each layer.",
    ),
    "gates_effects_nothing": (
        "没有一个专家有权重，也就没有作用：回答的是冻结的基座。",
        "No expert has any weight, so none adds anything: the frozen backbone answers.",
    ),
    "effect": ("更新 ÷ 冻结层的输出", "Update over frozen output"),
    "effect_axis": (
        "Transformer 层<br>颜色越浓，作用越大（{least} 至 {most}）",
        "Transformer layer<br>stronger: more effect ({least} to {most})",
    ),
    "effect_table": ("每一层各专家的作用", "Effect of each expert in each layer"),
    "gates_gate_share": ("占权重", "Of the weight"),
    "gates_effect_share": ("占作用", "Of the effect"),
    "gates_more_effect": (
        "{name}：权重占 {gate}，作用占 {effect}。",
        "{name} has {gate} of the weight and {effect} of the effect.",
    ),
    # Cluster
    "gates_matrix": ("每个任务把权重给了谁", "Who gets each task's weight"),
    "gates_matrix_hint": (
        "各层平均的份额，每行之和 100 %。公共专家人人可用；专属列是任务自己的专家，各不相同。",
        "Shares averaged over layers; each row adds up to 100 %. All tasks use the common experts; "
        "the specific column is each task's own expert, another one in every row.",
    ),
    "gates_tasks": ("任务", "Task"),
    "gates_similarity": (
        "哪些任务偏向同样的公共专家",
        "Which tasks lean to the same common experts",
    ),
    "gates_similarity_hint": (
        "只比公共专家：每层权重的对数减去均值，各层连起来求余弦。1 偏向相同，0 无关，−1 相反。"
        "任务向量是随机初始化的，相似里有偶然的成分。",
        "Common experts alone are compared: log-weights less their mean in each layer, all layers "
        "in one vector, then cosines. 1 leans alike, 0 unrelated, −1 opposite. Task vectors start "
        "at random, so a part of this is chance.",
    ),
    "gates_similarity_none": (
        "少于两个任务或两个公共专家，没有可比的。",
        "With fewer than two tasks or two common experts there is nothing to compare.",
    ),
    "gates_similarity_even": (
        "门控不是学出来的，所有任务都一样。",
        "The gate is not learned: all tasks are alike.",
    ),
    "gates_similar": (
        "最相似：{one} 与 {other}（{value}）。",
        "Most alike: {one} and {other} ({value}).",
    ),
    "gates_path": ("门控在训练中怎样走到这里", "How the gates got there in training"),
    "gates_path_hint": (
        "上图是所选任务的每个专家，下图拖动滑块看所有任务。各层平均，来自训练日志。",
        "Above, each expert of the chosen task; below, drag the slider to see all tasks. Averaged "
        "over layers, from the training log.",
    ),
    "gates_path_none": (
        "这个适配器没有带训练日志，看不到门控的变化。",
        "This adapter comes without a training log, so the path of its gates is not known.",
    ),
    "gates_path_of": ("所选任务：{task}", "The chosen task: {task}"),
    "gates_step_axis": ("训练步", "Training step"),
    "gates_step": ("第 {n} 步", "Step {n}"),
    "gates_share_axis": ("占权重", "Share of the weight"),
    "gates_path_table": ("各专家所占的权重，按训练步", "Each expert's share by training step"),
}
