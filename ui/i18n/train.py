"""The tab that trains adapters."""

WORDS: dict[str, tuple[str, str]] = {
    # Data
    "train_data": ("数据", "Data"),
    "train_source": ("用什么数据", "Which data"),
    "train_source_samples": (
        "自带示例句\n每个任务几句，只够走一遍流程",
        "Our example sentences\na few a task, enough to try the steps",
    ),
    "train_source_folder": (
        "{cluster}数据\n数据文件夹中的训练集和开发集",
        "{cluster} data\ntrain and dev split of the data folder",
    ),
    "train_source_upload": (
        "上传 JSONL\n每行一个 task、input、target",
        "Upload JSONL\na task, input and target a line",
    ),
    "train_file": ("训练文件", "Train file"),
    "train_dev_file": ("开发文件（可不传）", "Dev file (optional)"),
    "train_formats": (
        "也认识 PromptCBLUE 和 Firefly 的文件。上传的文件只属于这次访问；启动训练后，"
        "副本随任务保留，训练完成或停止一天后删除。",
        "PromptCBLUE and Firefly files are understood, too. An upload belongs to this visit alone; "
        "a copy stays with a training job until it is done, or a day after it stopped.",
    ),
    "train_fraction": ("从训练数据中分出多少作开发集", "Share split off as dev set"),
    "train_tasks": ("任务（不选就是全部）", "Tasks (none chosen: all)"),
    "train_upload_first": (
        "选一个训练文件，这里立刻显示检查结果。",
        "Choose a train file: what is in it is shown here at once.",
    ),
    # Report
    "train_n_train": ("训练记录", "train records"),
    "train_n_dev": ("开发记录", "dev records"),
    "train_n_tasks": ("任务", "tasks"),
    "train_n_refused": ("拒收的行", "refused lines"),
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
        "“超长”按词元数，每个任务最多数 {n} 条。",
        "“Too long” counts tokens, of at most {n} records a task.",
    ),
    "train_tokens_later": (
        "“超长”要等分词器加载完。",
        "“Too long” appears once the tokenizer is loaded.",
    ),
    "train_labels": ("{n} 种，“{commonest}” {share}", "{n}, “{commonest}” {share}"),
    "train_find_all": ("所有任务", "all of them"),
    "train_find_leakage": (
        "{n} 条开发记录的提示词也在训练集里：开发损失会偏低。",
        "{n} dev records have a prompt of the train set: the dev loss will look too low.",
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
        "{n} 个任务不到 50 条训练记录，很难学会：{tasks}",
        "{n} tasks have fewer than 50 train records and will hardly learn: {tasks}",
    ),
    "train_find_few_dev": (
        "{n} 个任务不到 20 条开发记录，开发损失不太可信：{tasks}",
        "{n} tasks have fewer than 20 dev records, so their dev loss says little: {tasks}",
    ),
    "train_find_one_task": (
        "只有一个任务：没有什么可以共享，公共专家没有意义，用 LoRA 就够了。",
        "There is one task only, so nothing to share: common experts make no sense, plain LoRA "
        "does.",
    ),
    "train_find_unequal": (
        "各任务相差悬殊：最大的是最小的 {n} 倍（{tasks}）。限制每任务记录数，或改用均匀采样。",
        "The tasks are very unequal, {n} times as many records ({tasks}): limit the records a "
        "task, or sample uniformly.",
    ),
    "train_find_one_label": (
        "九成以上答案相同：{tasks}",
        "More than nine in ten answers are the same: {tasks}",
    ),
    "train_find_too_long": (
        "超过 5% 的记录比上限长，会被略去：{tasks}",
        "More than 5 % of the records are longer than the limit and will be left out: {tasks}",
    ),
    "train_find_split_off": (
        "没有开发集，从训练数据中分出了 {n} 条（同样的提示词总在同一边）。",
        "No dev set was given: {n} records were split off (equal prompts stay together).",
    ),
    # Method
    "train_method_and_sizes": ("方法与规模", "Method and sizes"),
    "train_method": ("方法", "Method"),
    "train_common": ("公共专家", "Common experts"),
    "train_specific": ("每任务专属专家", "Specific experts a task"),
    "train_expert_rank": ("每个专家的秩", "Rank of an expert"),
    "train_lora_rank": ("LoRA 的秩", "Rank of LoRA"),
    "train_moe_experts": ("MOE-LoRA 的专家数", "Experts of MOE-LoRA"),
    "train_records_per_task": ("每任务最多用多少条（0：全部）", "Most records a task (0: all)"),
    "train_epochs": ("轮数", "Epochs"),
    "train_learning_rate": ("学习率", "Learning rate"),
    "train_advanced": ("更多设置", "More settings"),
    "train_gate_rate": ("门控学习率", "Learning rate of the gate"),
    "train_batch_size": ("批大小", "Batch size"),
    "train_accumulation": ("梯度累积", "Accumulated batches"),
    "train_max_length": ("最长多少词元", "Longest record, in tokens"),
    "train_sampling": ("任务采样", "Sampling of tasks"),
    "train_weighting": ("损失加权", "Weighting of the loss"),
    "train_alpha": ("缩放系数 alpha", "Scale alpha"),
    "train_modules": ("改哪些线性层（不选就是全部）", "Linear layers (none chosen: all)"),
    "train_dev_records": (
        "每任务最多多少条开发记录（0：全部）",
        "Most dev records a task (0: all)",
    ),
    "train_evaluations": ("测几次开发损失", "Times the dev loss is taken"),
    "train_patience": ("几次不降就停（0：不停）", "Stop after so many without gain (0: never)"),
    "train_seed": ("随机种子", "Seed"),
    "train_half": ("以 bf16 保存，文件减半", "Save in bf16, half the size"),
    # Budget
    "train_trained": ("训练的参数", "trained parameters"),
    "train_share": ("占基座", "of the backbone"),
    "train_file_size": ("适配器文件", "adapter file"),
    "train_steps": ("步", "steps"),
    "train_time": ("预计用时", "estimated time"),
    "train_time_unknown": ("预计用时，开头几步后才知道", "time, known after the first steps"),
    "train_after_loading": ("加载后显示", "after loading"),
    "train_budget_table": ("同样设置下的各种方法", "All methods at this setting"),
    "train_col_method": ("方法", "Method"),
    "train_col_parameters": ("参数", "Parameters"),
    "train_col_file": ("适配器文件", "Adapter file"),
    "train_col_total": ("总秩", "Total rank"),
    "train_col_active": ("每任务秩", "Rank a task"),
    "train_impossible": ("这样的规模不行", "Not possible at these sizes"),
    "train_bad_settings": ("这些设置不行", "These settings cannot be used"),
    "train_bad_settings_advice": (
        "按下面的英文提示改一个值。",
        "Change the value that the message below names.",
    ),
    # Start
    "train_name": ("适配器的名字", "Name of the adapter"),
    "train_name_info": (
        "字母、数字、_ 和 -。训练完就能在“试一试”里选到它。",
        "Letters, digits, _ and -. Once trained it can be chosen in “Try it”.",
    ),
    "train_command_files": (
        "train.jsonl 和 dev.jsonl 是把所选数据换成本项目格式、分好之后的文件。",
        "train.jsonl and dev.jsonl stand for the chosen data in the project's format, split.",
    ),
    "train_start": ("开始训练", "Start training"),
    "train_bad_name": (
        "名字只能用 1 到 40 个字母、数字、_ 和 -。",
        "A name has 1 to 40 letters, digits, _ and -.",
    ),
    "train_name_taken": (
        "已经有叫 {name} 的适配器或训练：换一个名字。",
        "There is an adapter or a run called {name}: choose another name.",
    ),
    "train_no_data": ("先选好能用的数据。", "Choose usable data first."),
    # Runs
    "train_jobs": ("训练任务", "Runs"),
    "train_no_jobs": (
        "还没有训练任务。启动后，这里实时显示损失曲线和门控。",
        "No runs yet. Once one has started, its loss and gates are shown here as they change.",
    ),
    "train_stopping": (
        "走完这一步、写好断点就停。",
        "Stops after this step, once a checkpoint is written.",
    ),
    "train_stopped": (
        "从断点继续，与没停过的结果完全一样。",
        "It resumes from its checkpoint, to exactly the result of a run that never stopped.",
    ),
    "train_step": ("第 {step} / {steps} 步", "Step {step} of {steps}"),
    "train_best": ("最低开发损失 {loss}（第 {step} 步）", "lowest dev loss {loss} (step {step})"),
    "train_try": ("去“试一试”", "Try it"),
    "train_evaluate": (
        "要知道它有多准，到“评测”里给它打分。",
        "To know how good it is, score it in the Benchmark tab.",
    ),
    "train_loss": ("损失（每词元 nat）", "Loss (nats a token)"),
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
