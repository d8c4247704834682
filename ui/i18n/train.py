"""Texts of the training tab."""

WORDS: dict[str, tuple[str, str]] = {
    # Data
    "train_data": ("数据", "Data"),
    "train_source": ("数据来源", "Source of data"),
    "train_source_samples": (
        "自带示例句\n每个任务几句，只够了解流程",
        "Our example sentences\na few per task, enough to try the steps",
    ),
    "train_source_folder": (
        "{cluster}数据\n数据文件夹中的训练集和开发集",
        "{cluster} data\ntrain and dev split of the data folder",
    ),
    "train_source_upload": (
        "上传 JSONL\n每行含 task、input、target",
        "Upload JSONL\ntask, input and target on each line",
    ),
    "train_file": ("训练文件", "Train file"),
    "train_dev_file": ("开发文件（可不传）", "Dev file (optional)"),
    "train_formats": (
        "也支持 PromptCBLUE、Firefly、ShareGPT、Alpaca 的文件。上传的文件只用于本次访问；"
        "启动训练后，副本随任务保留，训练完成或停止一天后删除。",
        "PromptCBLUE, Firefly, ShareGPT and Alpaca files work, too. An upload is only used in "
        "this session; a copy stays with a training job until it is done, or a day after it "
        "stopped.",
    ),
    "train_fraction": ("从训练数据中划出的开发集比例", "Share split off as dev set"),
    "train_tasks": ("任务（不选就是全部）", "Tasks (none chosen: all)"),
    "train_reading": ("正在读取数据…", "Reading the data…"),
    "train_upload_first": (
        "选择训练文件后，这里显示检查结果。",
        "Choose a train file to see a report on it here.",
    ),
    # Report
    "train_n_train": ("训练记录", "train records"),
    "train_n_dev": ("开发记录", "dev records"),
    "train_n_tasks": ("任务", "tasks"),
    "train_n_refused": ("无法读取的行", "unreadable lines"),
    "train_report_table": ("每个任务的数据", "The data of each task"),
    "train_col_task": ("任务", "Task"),
    "train_col_records": ("训练 / 开发", "Train / dev"),
    "train_col_prompt": ("提示词字数", "Prompt characters"),
    "train_col_target": ("答案字数", "Answer characters"),
    "train_col_labels": ("标签", "Labels"),
    "train_col_too_long": ("超长", "Too long"),
    "train_lengths_note": (
        "字数：中位 / 95% / 最长。",
        "Characters: median / 95 % / longest.",
    ),
    "train_tokens_note": (
        "“超长”按词元计，每个任务最多统计 {n} 条。",
        "“Too long” counts tokens of at most {n} records per task.",
    ),
    "train_tokens_later": (
        "分词器加载后显示“超长”。",
        "“Too long” appears once the tokenizer is loaded.",
    ),
    "train_labels": ("{n} 种，“{commonest}” {share}", "{n}, “{commonest}” {share}"),
    "train_find_all": ("所有任务", "all of them"),
    "train_find_leakage": (
        "{n} 条开发记录的提示词也在训练集里：开发损失会偏低。",
        "{n} dev records have prompts of the train set: the dev loss will be too low.",
    ),
    "train_find_conflicts": (
        "{n} 条训练记录与前面的提示词相同、答案不同。",
        "{n} train records repeat a prompt with another answer.",
    ),
    "train_find_repeated": (
        "{n} 条训练记录重复了前面的提示词。",
        "{n} train records repeat an earlier prompt.",
    ),
    "train_find_few": (
        "{n} 个任务不到 50 条训练记录，难以学会：{tasks}",
        "{n} tasks have fewer than 50 train records and will hardly learn: {tasks}",
    ),
    "train_find_few_dev": (
        "{n} 个任务不到 20 条开发记录，开发损失不太可信：{tasks}",
        "{n} tasks have fewer than 20 dev records, so their dev loss says little: {tasks}",
    ),
    "train_find_one_task": (
        "只有一个任务，没有可以共享的内容：公共专家没有意义，用 LoRA 即可。",
        "There is only one task, so nothing to share: use plain LoRA, common experts have no "
        "purpose.",
    ),
    "train_find_unequal": (
        "各任务相差悬殊：最大的是最小的 {n} 倍（{tasks}）。限制每任务记录数，或改用均匀采样。",
        "The tasks are very unequal, the largest has {n} times the records of the smallest "
        "({tasks}): limit the records per task, or sample uniformly.",
    ),
    "train_find_one_label": (
        "九成以上答案相同：{tasks}",
        "More than nine in ten answers are the same: {tasks}",
    ),
    "train_find_too_long": (
        "超过 5% 的记录超过上限，将被跳过：{tasks}",
        "More than 5 % of the records exceed the limit and will be skipped: {tasks}",
    ),
    "train_find_split_off": (
        "没有开发集，从训练数据中划出了 {n} 条（相同的提示词不会分开）。",
        "No dev set was given: {n} records were split off (equal prompts stay together).",
    ),
    # Method
    "train_method_and_sizes": ("方法与规模", "Method and sizes"),
    "train_method": ("方法", "Method"),
    "train_common": ("公共专家", "Common experts"),
    "train_specific": ("每任务专属专家", "Specific experts per task"),
    "train_expert_rank": ("每个专家的秩", "Rank of an expert"),
    "train_lora_rank": ("LoRA 的秩", "Rank of LoRA"),
    "train_moe_experts": ("MOE-LoRA 的专家数", "Experts of MOE-LoRA"),
    "train_records_per_task": (
        "每任务的最多记录数（0：全部）",
        "Maximum records per task (0: all)",
    ),
    "train_epochs": ("轮数", "Epochs"),
    "train_learning_rate": ("学习率", "Learning rate"),
    "train_advanced": ("更多设置", "More settings"),
    "train_gate_rate": ("门控学习率", "Gate learning rate"),
    "train_batch_size": ("批大小", "Batch size"),
    "train_accumulation": ("梯度累积", "Gradient accumulation"),
    "train_max_length": ("记录的最多词元数", "Maximum tokens of a record"),
    "train_sampling": ("任务采样", "Task sampling"),
    "train_weighting": ("损失加权", "Loss weighting"),
    "train_best_by": ("最优权重的依据（开发集）", "Best weights by dev"),
    "train_alpha": ("缩放系数 alpha", "Scale alpha"),
    "train_modules": ("适配的线性层（不选就是全部）", "Adapted linear layers (none chosen: all)"),
    "train_dev_records": (
        "每任务的最多开发记录数（0：全部）",
        "Maximum dev records per task (0: all)",
    ),
    "train_evaluations": ("计算开发损失的次数", "Number of dev loss evaluations"),
    "train_patience": ("提前停止的耐心次数（0：不停）", "Early stopping patience (0: off)"),
    "train_seed": ("随机种子", "Seed"),
    "train_half": ("以 bf16 保存，文件减半", "Save in bf16, half the size"),
    # Adding tasks
    "train_base": ("从哪里开始", "Start from"),
    "train_base_new": ("新的适配器", "A new adapter"),
    "train_base_add": ("给“{base}”加任务（已有 {n} 个）", "Add to {base} ({n} tasks)"),
    "train_base_gone": (
        "“{base}”不能加任务：换一个适配器，或从新的适配器开始。",
        "{base} cannot take a task: choose another adapter, or start from a new one.",
    ),
    "train_all_known": ("没有新任务", "No new task"),
    "train_all_known_advice": (
        "“{base}”已经会这些任务：{tasks}。换一份含有别的任务的数据，或从新的适配器开始。",
        "{base} has all of these tasks already: {tasks}. Choose data with another task, or start "
        "from a new adapter.",
    ),
    "train_find_known": (
        "“{base}”已有、不再训练的任务：{tasks}",
        "Left out, because {base} has them already: {tasks}",
    ),
    "train_col_adapter": ("适配器", "Adapter"),
    "train_together": ("合计", "Together"),
    "train_growth_table": ("增加的部分", "What is added"),
    "train_growth_note": (
        "只训练新任务的专属专家和它的门控；公共专家和其他任务一个比特也不变。训练后会验证这一点，"
        "并给新任务打分。规模和精度与原适配器相同，原适配器保留。",
        "Only the experts and the gate of the new task are trained: common experts and other tasks "
        "stay the same, bit for bit. This is checked after the training, and the new task is "
        "scored. Sizes and precision are those of the adapter, which itself stays as it is.",
    ),
    "train_added_to": ("加到“{base}”", "added to {base}"),
    "train_measuring": (
        "训练完成，正在给新任务打分，并核对其他任务…",
        "Trained. Now the new task is scored, and the others are compared…",
    ),
    "train_added": ("加任务前后", "Before and after"),
    "train_before": ("单独的基座", "the backbone alone"),
    "train_before_after": (
        "{task}：单独的基座 → 加任务后（{metric}）",
        "{task}: the backbone alone → now ({metric})",
    ),
    "train_gain_axis": (
        "与单独的基座之差 × 100，{level} 区间",
        "Difference to the backbone alone × 100, {level} interval",
    ),
    "train_others_identical": ("其他任务完全不变", "other tasks are identical"),
    "train_others_changed": (
        "有的任务变了：这个适配器不该代替原来的。展开下表看是哪些。",
        "Some tasks changed: this adapter should not replace the one before. The table below says "
        "which.",
    ),
    "train_added_note": (
        "{n} 条开发记录，也用来挑选断点，所以得分略微偏高；要准确打分，请到“评测”用另外的记录。"
        "加任务之前没有适配器会它，所以与单独的基座相比。",
        "On {n} dev records, which also chose the checkpoint, so the score is a little too high: "
        "score it on other records in the Benchmark tab. Before, no adapter knew the task, so it "
        "is compared with the backbone alone.",
    ),
    "train_proof": ("其他任务不变的证明", "Proof that no other task changed"),
    "train_proof_note": (
        "逐位比较每个任务用到的全部权重（公共专家、专属专家、门控），并在同样的提示词之后逐个词元"
        "比较 logits。",
        "All weights that a task uses (common experts, its own, its gate) are compared bit by bit, "
        "and the logits token by token after the same prompts.",
    ),
    "train_col_weights": ("用到的权重", "Weights used"),
    "train_col_changed": ("变了的张量", "Tensors changed"),
    "train_col_logits": ("logits 的最大差", "Largest difference of logits"),
    "train_compared": ("{prompts} 条 × {tokens} 词元", "{prompts} prompts × {tokens} tokens"),
    "train_identical": ("完全相同", "identical"),
    "train_differs": ("变了", "changed"),
    "train_identical_hover": (
        "{weights} 个权重逐位相同；{prompts} 条提示词之后 logits 之差为 {difference}",
        "All {weights} weights are the same, bit for bit;<br>after {prompts} prompts the logits "
        "differ by {difference}",
    ),
    "train_differs_hover": (
        "权重变了，或 {prompts} 条提示词之后 logits 之差达 {difference}",
        "Weights changed, or the logits differ by {difference} after {prompts} prompts",
    ),
    # Budget
    "train_trained": ("训练的参数", "trained parameters"),
    "train_share": ("占基座", "of the backbone"),
    "train_file_size": ("适配器文件", "adapter file"),
    "train_steps": ("步", "steps"),
    "train_time": ("预计用时", "estimated time"),
    "train_time_unknown": (
        "预计用时，开始训练后可知",
        "estimated time, known after the first steps",
    ),
    "train_after_loading": ("加载后显示", "after loading"),
    "train_budget_table": ("同样设置下的各种方法", "All methods at this setting"),
    "train_col_method": ("方法", "Method"),
    "train_col_parameters": ("参数", "Parameters"),
    "train_col_file": ("适配器文件", "Adapter file"),
    "train_col_total": ("总秩", "Total rank"),
    "train_col_active": ("每任务秩", "Rank per task"),
    "train_impossible": ("规模无效", "Impossible with these sizes"),
    "train_bad_settings": ("设置无效", "These settings are invalid"),
    "train_bad_settings_advice": (
        "按下面的英文提示修改。",
        "Change the value that the message below names.",
    ),
    # Start
    "train_name": ("适配器的名字", "Name of the adapter"),
    "train_name_info": (
        "字母、数字、_ 和 -。训练完成后可在“试一试”中选择。",
        "Letters, digits, _ and -. Once trained it can be chosen in “Try it”.",
    ),
    "train_command_files": (
        "train.jsonl 和 dev.jsonl 代表所选数据：已转为本项目格式并划分。",
        "train.jsonl and dev.jsonl stand for the chosen data, split and in the project's format.",
    ),
    "train_start": ("开始训练", "Start training"),
    "train_name_taken": (
        "已经有叫 {name} 的适配器或训练：换一个名字。",
        "There is an adapter or a run called {name}: choose another name.",
    ),
    "train_no_data": ("请先选择可用的数据。", "Choose usable data first."),
    # Runs
    "train_jobs": ("训练任务", "Runs"),
    "train_no_jobs": (
        "还没有训练任务。启动后，这里实时显示损失曲线和门控。",
        "No runs yet. Once one has started, this shows its loss and gates as it trains.",
    ),
    "train_stopping": (
        "完成当前步并保存断点后停止。",
        "Stops after the current step and its checkpoint.",
    ),
    "train_stopped": (
        "可从断点继续，结果与没有停过完全相同。",
        "It resumes from its checkpoint, with exactly the result of an uninterrupted run.",
    ),
    "train_step": ("第 {step} / {steps} 步", "Step {step} of {steps}"),
    "train_best": ("最低开发损失 {loss}（第 {step} 步）", "lowest dev loss {loss} (step {step})"),
    "train_try": ("去“试一试”", "Try it"),
    "train_export": ("导出", "Export it"),
    "train_evaluate": (
        "要了解它的质量，请到“评测”中打分。",
        "To measure its quality, score it in the Benchmark tab.",
    ),
    "train_loss": ("损失（每词元 nat）", "Loss (nats per token)"),
    "train_all_tasks": ("全部任务", "all tasks"),
    "train_dev": ("开发集", "dev"),
    "train_step_axis": ("步", "Step"),
    "train_gate_axis": ("专属专家的份额", "Share of specific experts"),
    "train_even_split": ("均匀分配", "even split"),
    "train_run_table": ("每个任务的损失与门控", "Loss and gates of each task"),
    "train_col_loss": ("训练损失", "Train loss"),
    "train_col_dev_loss": ("开发损失", "Dev loss"),
    "train_col_gate": ("公共 / 专属", "Common / specific"),
}
