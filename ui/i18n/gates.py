"""The tab of the gates, and the gate of a task below its answers."""

WORDS: dict[str, tuple[str, str]] = {
    # Gates
    "gates": ("门控", "Gate"),
    "gates_intro": (
        "这个任务的各专家权重。门控只取决于任务，与输入无关：同一任务的所有输入权重相同。",
        "The weights of this task's experts. The gate depends on the task alone: every input of a "
        "task gets the same weights.",
    ),
    "gates_later": ("模型加载完成后显示。", "Shown when the model is loaded."),
    "gates_never": (
        "模型加载失败，无法显示门控。",
        "The model could not be loaded, so no gate can be shown.",
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
        "Transformer layer<br>stronger colour: more weight ({least} to {most})",
    ),
    "weight": ("权重", "Weight"),
    # Choosing
    "gates_view": ("视图", "View"),
    "gates_view task": ("一个任务", "One task"),
    "gates_view cluster": ("整个任务簇", "Whole cluster"),
    "gates_loading": (
        "模型加载完成后，这里显示门控。",
        "The gates are shown here when the model is loaded.",
    ),
    "gates_none": (
        "没有可用的适配器，因此没有门控。",
        "There is no adapter, so there are no gates.",
    ),
    # Weights
    "gates_ablation": ("门控的作用", "What the gates do"),
    "gates_ablation_hint": (
        "换一种门控，再答一遍同样的开发集记录。权重不等于作用：权重小的专家也可能决定答案。",
        "The same dev records, answered with other gates. The weight of an expert is not its "
        "effect: an expert with little weight may decide the answer.",
    ),
    "gates_variant": ("门控", "Gates"),
    "gates_score": ("分数", "Score"),
    "gates_change": (
        "与学到的门控之差（95% 区间）",
        "Difference from the learned gates (95% interval)",
    ),
    "gates learned": ("学到的门控", "Learned"),
    "gates uniform": ("均匀门控", "Uniform"),
    "gates no specific experts": ("去掉专属专家", "Without specific experts"),
    "gates no common experts": ("去掉公共专家", "Without common experts"),
    "gates_effect": (
        "影响最大的改变：{variant}，分数变化 {change}。",
        "The change that matters most: {variant}, {change} points.",
    ),
    "gates_no_effect": (
        "这些记录上，没有一种改变的影响超出偶然。",
        "On these records no change makes a difference beyond chance.",
    ),
    "gates_measured": ("开发集 {n} 条记录", "{n} dev records"),
    "gates_unmeasured": (
        "还没有测量：python -m evals gates --adapter … --write",
        "Not measured yet: python -m evals gates --adapter … --write",
    ),
    "gates_uniform": (
        "门控几乎仍是均匀的：试试更大的 --gate-learning-rate，或训练更久。",
        "The gates have stayed almost uniform: try a larger --gate-learning-rate, or train longer.",
    ),
    "gates_unused": (
        "{n} 个专家里，第 {experts} 个几乎没有被使用：可以减少专家数，或加大它们的秩。",
        "Of the {n} experts, number {experts} is hardly used: fewer experts, or experts of a "
        "higher rank, may do.",
    ),
    "gates_collapsed": (
        "这些任务的权重全在一个专家上：{tasks}。试试较小的 --gate-learning-rate。",
        "All weight is on one expert in these tasks: {tasks}. Try a smaller --gate-learning-rate.",
    ),
    "gates_weights": ("权重在专家间的分配", "How the weight is split"),
    "gates_by_layer": ("逐层", "Layer by layer"),
    "gates_entropy": ("分配的均匀程度", "How even the split is"),
    "gates_entropy_hint": (
        "熵 ÷ log(专家数)：1 表示完全均匀，越低权重越集中。细线是各类线性层。",
        "Entropy divided by log(number of experts): 1 is an even split, lower values mean that few "
        "experts have most of the weight. Thin lines are the kinds of linear layers.",
    ),
    "gates_entropy_one": (
        "只有一个专家，无需分配。",
        "There is a single expert, so no weight is split.",
    ),
    "gates_entropy_axis": ("归一化的熵", "Normalised entropy"),
    "gates_layer_axis": ("Transformer 层", "Transformer layer"),
    "gates_unlearned uniform": (
        "这个适配器的门控不是学习得到的：每个专家的权重相同。",
        "This adapter's gate is not learned: every expert has the same weight.",
    ),
    "gates_unlearned none": (
        "这个适配器没有门控：每个专家的权重都是 1。",
        "This adapter has no gate: every expert has weight 1.",
    ),
    "gates_one_scope": (
        "所有层共用一个门控，因此各层权重相同。",
        "All layers share one gate, so their weights are equal.",
    ),
    # What if
    "gates_what_if": ("改变专家的权重会怎样", "What if an expert had more weight, or none"),
    "gates_what_if_hint": (
        "拖动滑块或移除一个专家，松开后重新回答。1 是学到的权重。",
        "Move a slider or knock an expert out to get a new answer. 1 is the learned weight.",
    ),
    "gates_samples": ("点一个示例", "Click an example"),
    "gates_prompt": ("模型读到的提示词（可以改）", "The prompt the model reads (editable)"),
    "gates_run": ("回答", "Answer"),
    "gates_knock": ("移除", "Knock out"),
    "gates_restore": ("恢复", "Restore"),
    "gates_reset": ("全部恢复", "Reset all"),
    "gates_keep_sum": ("保持权重之和不变", "Keep the sum of the weights"),
    "gates_keep_sum_info": (
        "减少的权重按比例分给其他专家。关闭后，更新的总量也会改变。",
        "The weight that one expert loses goes to the others in proportion. Without this, the "
        "whole update shrinks or grows, too.",
    ),
    "gates_slider": ("{name} · 学到 {share}", "{name} · learned {share}"),
    "gates_slider_more": (
        "这里只有前 {shown} 个专家的滑块，其余 {rest} 个的权重不变。",
        "The first {shown} experts have sliders; the other {rest} keep their weights.",
    ),
    "gates_original": ("学到的权重", "Learned weights"),
    "gates_changed": ("改变后的权重", "Changed weights"),
    "gates_before": (
        "点一个示例，或拖动滑块。",
        "Click an example, or move a slider.",
    ),
    "gates_unchanged": (
        "权重尚未改变：拖动一个滑块，或移除一个专家。",
        "No weight is changed yet: move a slider, or knock an expert out.",
    ),
    "gates_waiting": ("正在计算…", "Computing…"),
    "gates_same": ("回答不变", "Same answer"),
    "gates_different": ("回答改变", "The answer changes"),
    "gates_cut": ("只显示前 {most} 个词元", "first {most} tokens"),
    "gates_split_table": ("各专家的权重占比", "Each expert's share of the weight"),
    "gates_empty_prompt": (
        "请先输入提示词，或点一个示例。",
        "Enter a prompt or click an example.",
    ),
    "gates_refused": (
        "计算失败。英文原因见下。",
        "This could not be computed. The reason is below.",
    ),
    "gates_busy": (
        "服务器繁忙，没有计算。请几秒后再拖动滑块。",
        "The server is too busy to compute this. Move a slider again in a few seconds.",
    ),
    # Effects
    "gates_effects": ("每个专家的实际作用", "What each expert adds"),
    "gates_effects_hint": (
        "以当前滑块的权重读取这个提示词时，每个专家的更新的范数：‖g·s·B·A·x‖ ÷ ‖W₀x‖，"
        "对词元和线性层取平均。权重大的专家，作用不一定大。",
        "The norm of each expert's update while this prompt is read with the current weights: "
        "‖g·s·B·A·x‖ over ‖W₀x‖, averaged over tokens and linear layers. A large weight need not "
        "have a large effect.",
    ),
    "gates_effects_later": (
        "在上面输入提示词后，这里显示每一层每个专家的作用。",
        "Enter a prompt above to see the effect of each expert in each layer.",
    ),
    "gates_effects_nothing": (
        "所有专家的权重都是 0，没有作用：由冻结的基座回答。",
        "All experts have weight 0, so the frozen backbone answers alone.",
    ),
    "effect": ("更新 ÷ 冻结层的输出", "Update over frozen output"),
    "effect_axis": (
        "Transformer 层<br>颜色越浓，作用越大（{least} 至 {most}）",
        "Transformer layer<br>stronger colour: more effect ({least} to {most})",
    ),
    "effect_table": ("每一层各专家的作用", "Effect of each expert in each layer"),
    "gates_gate_share": ("权重占比", "Of the weight"),
    "gates_effect_share": ("作用占比", "Of the effect"),
    "gates_more_effect": (
        "{name}：权重占 {gate}，作用占 {effect}。",
        "{name} has {gate} of the weight and {effect} of the effect.",
    ),
    # Cluster
    "gates_matrix": ("各任务的专家权重", "Expert weights of each task"),
    "gates_matrix_hint": (
        "各层平均的占比，每行之和为 100 %。所有任务共用公共专家；专属列是各任务自己的专家。",
        "Shares averaged over layers; each row adds up to 100 %. All tasks use the common experts; "
        "the specific column is a different expert in every row, the task's own.",
    ),
    "gates_tasks": ("任务", "Task"),
    "gates_similarity": (
        "哪些任务偏好相同的公共专家",
        "Which tasks prefer the same common experts",
    ),
    "gates_similarity_hint": (
        "只比较公共专家：每层权重取对数并减去均值，各层拼接后计算余弦。1 相同，0 无关，−1 相反。"
        "任务向量随机初始化，因此相似度有偶然成分。",
        "The cosine of the log-weights of the common experts, centred in each layer and "
        "concatenated over layers. 1 is the same preference, 0 unrelated, −1 the opposite. Task "
        "vectors are initialised at random, so a part of the similarity is chance.",
    ),
    "gates_similarity_none": (
        "少于两个任务或两个公共专家，无法比较。",
        "With fewer than two tasks or two common experts there is nothing to compare.",
    ),
    "gates_similarity_even": (
        "门控不是学习得到的，所有任务的权重相同。",
        "The gate is not learned: all tasks have the same weights.",
    ),
    "gates_similar": (
        "最相似：{one} 与 {other}（{value}）。",
        "Most similar: {one} and {other} ({value}).",
    ),
    "gates_path": ("训练中的门控", "The gates during training"),
    "gates_path_hint": (
        "上图是所选任务的各专家；在下图拖动滑块查看所有任务。数值为各层平均，来自训练日志。",
        "Above, each expert of the chosen task; below, drag the slider to see all tasks. Averaged "
        "over layers, from the training log.",
    ),
    "gates_path_none": (
        "这个适配器没有附带训练日志，无法显示门控的变化。",
        "This adapter has no training log, so its gates during training are unknown.",
    ),
    "gates_path_of": ("所选任务：{task}", "The chosen task: {task}"),
    "gates_step_axis": ("训练步", "Training step"),
    "gates_step": ("第 {n} 步", "Step {n}"),
    "gates_share_axis": ("权重占比", "Share of the weight"),
    "gates_path_table": ("各训练步的专家权重占比", "Each expert's share by training step"),
}
