"""The tab of the leaderboards."""

WORDS: dict[str, tuple[str, str]] = {
    # Choosing
    "board": ("榜单", "Board"),
    "board_title": (
        "{cluster} · {split} · {tasks} 个任务 · {n} 条样本",
        "{cluster} · {split} · {tasks} tasks · {n} records",
    ),
    "board_no_split": ("未分集", "no split"),
    "board_view": ("看法", "View"),
    "board_view table": ("表格", "Table"),
    "board_view tasks": ("逐任务", "By task"),
    "board_view seesaw": ("跷跷板", "Seesaw"),
    "board_view pareto": ("代价", "Cost"),
    "board_view heat": ("热图", "Heat map"),
    "board_view wins": ("两两胜负", "Duels"),
    "board_view radar": ("雷达", "Radar"),
    "board_view noise": ("噪声", "Noise"),
    "board_about tasks": (
        "每个任务一行，线段是 95% 区间。点图例可隐藏方法。",
        "A row for each task, lines are 95 % intervals. Click the legend to hide a method.",
    ),
    "board_about seesaw": (
        "与参照方法相比，每个任务是得是失：共享让谁付出了代价。点图例可添加方法。",
        "What each task gains or loses against the reference: who pays for sharing. Click the "
        "legend to add methods.",
    ),
    "board_about pareto": (
        "横轴是代价，纵轴是平均分；折线连起没有更便宜的方法能比的那些。",
        "What a method costs against its mean score; the line joins those that nothing cheaper "
        "equals.",
    ),
    "board_about heat": (
        "每一列从该任务的最低分到最高分着色。",
        "Each task is coloured from its worst score to its best.",
    ),
    "board_about wins": (
        "行确实胜过列的任务数（Holm 校正，p < 0.05）。",
        "On how many tasks the row surely beats the column (Holm's rule, p < .05).",
    ),
    "board_about radar": (
        "每条辐是一个任务，0 至 100 分。用搜索或筛选换方法。",
        "A spoke for each task, from 0 to 100. Search or filter to draw other methods.",
    ),
    "board_about noise": (
        "样本噪声：换一批同类样本会差多少。训练噪声：换一个随机种子会差多少。",
        "Item noise: what other records of the kind would change. Training noise: what another "
        "seed would change.",
    ),
    "board_click": (
        "点图上的标记，看它背后的样本；用键盘请到表格里选。",
        "Click a mark to read the samples behind it; by keyboard, choose a cell of the table.",
    ),
    "board_find": ("按名称搜索", "Search by name"),
    "board_find_example": ("如 CGC, MOE", "CGC, MOE"),
    "board_filters": ("筛选", "Filters"),
    "board_families": ("方法族", "Families"),
    "board_family cgc-lora": ("CGC-LoRA", "CGC-LoRA"),
    "board_family ablation": ("消融", "Ablations"),
    "board_family moe-lora": ("MOE-LoRA", "MOE-LoRA"),
    "board_family lora": ("LoRA", "LoRA"),
    "board_family merging": ("合并", "Merging"),
    "board_family backbone": ("基座", "Backbone"),
    "board_family other": ("其他", "Other"),
    "board_budget": ("训练参数上限", "Most trained parameters"),
    "board_any": ("不限", "any"),
    "board_at_most": ("至多 {size}", "at most {size}"),
    "board_tasks": (
        "只算这些任务（平均分与名次随之重算）",
        "Only these tasks (mean and ranks anew)",
    ),
    "board_local": ("包括本机的运行", "With runs of this machine"),
    "board_clear": ("清除筛选", "Clear filters"),
    "board_reference": ("参照", "Reference"),
    "board_cost": ("代价", "Cost"),
    "board_cost parameters": ("训练的参数", "trained parameters"),
    "board_cost active_rank": ("单任务所用的秩", "rank that one task uses"),
    "board_cost training_seconds": ("训练时间", "training time"),
    "board_csv": ("下载 CSV", "Download CSV"),
    "board_json": ("下载 JSON", "Download JSON"),
    # In words
    "board_tied_all": (
        "{all} 种方法全部并列第一：它们的区间互相重叠。",
        "All {all} methods share rank 1: their intervals overlap.",
    ),
    "board_tied_both": (
        "两种方法并列第一：它们的区间互相重叠。",
        "Both methods share rank 1: their intervals overlap.",
    ),
    "board_tied": (
        "{all} 种方法中有 {tied} 种并列第一：它们的区间互相重叠。",
        "{tied} of {all} methods share rank 1: their intervals overlap.",
    ),
    "board_alone": (
        "{all} 种方法中，{name} 独居第一。",
        "Of {all} methods, {name} alone has rank 1.",
    ),
    "board_only_one": ("只有 {name} 一种方法。", "There is only {name}."),
    "board_sure": (
        "与 {reference} 逐样本配对比较更灵敏（p < 0.05）：平均分确实更高：{above}；"
        "确实更低：{below}。其余的差异可能只是偶然。",
        "Paired with {reference} sample by sample, which is sharper (p < .05): surely higher in "
        "the mean: {above}; surely lower: {below}. All other differences may be chance.",
    ),
    "board_nobody": ("无", "none"),
    "board_one_seed": (
        "每种方法只训练了一个种子，训练噪声没有测。",
        "Each method was trained with one seed: training noise is not measured.",
    ),
    "board_even_seeds": (
        "每种方法都训练了 {most} 个种子。",
        "Each method was trained with {most} seeds.",
    ),
    "board_seeds": (
        "训练种子：{least} 至 {most} 个。",
        "Training seeds: {least} to {most}.",
    ),
    "board_part": (
        "只看 {shown} / {all} 种方法、{tasks} / {of} 个任务；名次和标记都在其中重算。",
        "{shown} of {all} methods on {tasks} of {of} tasks; ranks and marks are among these.",
    ),
    "board_facts": ("这个榜单测的是什么", "What this board measures"),
    "board_facts_note": (
        "同一榜单的方法回答了同样的样本。数据：样本哈希的前几位。",
        "All methods of a board answered the same records. Data: the first digits of their hash.",
    ),
    "board_metric": ("指标", "Metric"),
    "board_version": ("版本（任务，指标）", "Version (task, metric)"),
    "board_data": ("数据", "Data"),
    "board_records": ("样本数", "Records"),
    # Table
    "board_caption": ("方法的排名和得分", "Ranks and scores of the methods"),
    "board_rank": ("名次", "Rank"),
    "board_method": ("方法", "Method"),
    "board_mean": ("平均", "Mean"),
    "board_interval": ("95% 区间", "95 % interval"),
    "board_spread": ("训练散布", "Seed spread"),
    "board_parameters": ("参数", "Params"),
    "board_parameters_note": ("训练的参数", "trained"),
    "board_active_rank": ("秩", "Rank used"),
    "board_active_rank_note": ("所用 / 总", "of stored"),
    "board_training_seconds": ("训练", "Training"),
    "board_training_seconds_note": ("时间", "time"),
    "board_tokens_per_second": ("速度", "Speed"),
    "board_tokens_per_second_note": ("词元/秒", "tokens/s"),
    "board_best": ("最好", "best"),
    "board_close": ("未能确定不如最好", "not surely worse than the best"),
    "board_behind": ("确实不如最好", "surely worse than the best"),
    "board_tied_with": ("并列", "tied"),
    "board_local_mark": ("本机", "local"),
    "board_key": (
        "分数 × 100。<b>粗体</b>：该任务最好；常规：未能确定不如最好；<i>浅淡</i>：确实不如"
        "（配对自助法，Holm 校正，p < 0.05）。名次：1 + 区间整个在其上方的方法数。"
        "点任何一格，看背后的样本。",
        "Scores × 100. <b>Bold</b>: best of the task; plain: not surely worse; <i>faint</i>: "
        "surely worse (paired bootstrap, Holm's rule, p < .05). Rank: 1 + the number of methods "
        "whose interval lies wholly above. Click any cell for the samples behind it.",
    ),
    "board_nothing_fits": (
        "没有方法符合这些条件。清除筛选或换个名称。",
        "No method fits. Clear the filters or search for another name.",
    ),
    "board_alone_seesaw": (
        "跷跷板至少要两种方法。清除筛选或换个名称。",
        "A seesaw needs two methods. Clear the filters or search for another name.",
    ),
    "board_empty": (
        "还没有可以排名的运行。用下面的命令做一次评测，再回到这里。",
        "There is no scored run yet. Evaluate with the command below and come back.",
    ),
    "board_view_samples": ("看样本：{name}，{task}", "Samples: {name}, {task}"),
    "board_sort_by": ("按{column}排序", "Sort by {column}"),
    # Left out and elsewhere
    "board_left_out": ("没有进榜的运行（{n}）", "Runs that are left out ({n})"),
    "board_run": ("运行", "Run"),
    "board_reason": ("原因", "Reason"),
    "board_unscored": (
        "还没有打分：python -m evals score",
        "not scored yet: python -m evals score",
    ),
    "board_replaced": ("被更新的运行取代：{by}", "replaced by a newer run: {by}"),
    "board_published": ("别处发表的数字（不与上面同排）", "Published elsewhere (not ranked above)"),
    "board_published_note": (
        "数据划分和基座都不同，不是同一次测量。",
        "Other data and other backbones: not the same measurement.",
    ),
    "board_score": ("得分", "Score"),
    "board_backbone": ("基座", "Backbone"),
    "board_source": ("来源", "Source"),
    "board_note": ("为何不同", "What differs"),
    # Samples
    "board_samples": ("{name} 的样本", "Samples of {name}"),
    "board_sample": ("样本", "Sample"),
    "board_overall": ("全部任务", "All tasks"),
    "board_cell": ("任务", "Task"),
    "board_against": ("对照", "Beside"),
    "board_seed": ("种子", "Seed"),
    "board_only": ("哪些样本", "Which samples"),
    "board_only all": ("全部 {n}", "all {n}"),
    "board_only wrong": ("没答全对 {n}", "not all right {n}"),
    "board_only disagree": ("两者不同 {n}", "answers differ {n}"),
    "board_only won": ("胜 {n}", "won {n}"),
    "board_only lost": ("负 {n}", "lost {n}"),
    "board_close_samples": ("收起样本", "Close samples"),
    "board_earlier": ("上一页", "Previous"),
    "board_later": ("下一页", "Next"),
    "board_place": ("第 {first}–{last} 条，共 {n} 条", "{first}–{last} of {n}"),
    "board_no_samples": ("没有这样的样本。", "There is no such sample."),
    "board_input": ("输入", "Input"),
    "board_target": ("参考答案", "Reference"),
    "board_silent": ("（空回答）", "(an empty answer)"),
    "board_cut": ("到上限为止", "cut at the limit"),
    "board_own_score": (
        "每条旁的数是它单独的 {metric}；榜上的分数按全部样本算，未必是它们的平均。",
        "Beside each answer: its {metric} by itself. The board's score is that of all records "
        "together, not always their mean.",
    ),
    "board_own_scores": (
        "每条旁的数是它单独的得分；榜上的分数按全部样本算，未必是它们的平均。",
        "Beside each answer: its score by itself. The board's score is that of all records "
        "together, not always their mean.",
    ),
    "board_no_data": (
        "这里没有数据，只能显示样本编号和回答。运行文件夹从不含数据集的原文。把数据放进一个文件夹，"
        "让环境变量 {variable} 指向它，再启动应用，就能看到输入和参考答案。",
        "The data is not on this machine, so only ids and answers are shown: run folders never "
        "hold a dataset's text. Put the data into a folder, let the environment variable "
        "{variable} name it and start the app again to see inputs and references.",
    ),
    "board_other_data": (
        "本机 {tasks} 的样本不是这次运行回答的那些，所以不显示输入和参考答案。",
        "The records of {tasks} on this machine are not those that were answered, so inputs and "
        "references are not shown.",
    ),
    "board_run_unreadable": (
        "读不到这次运行的回答。英文原因见下。",
        "The answers of this run cannot be read. The reason is below.",
    ),
    # Provenance
    "board_provenance": ("来历", "Provenance"),
    "board_label": ("标签", "Label"),
    "board_prompt": ("提示词", "Prompt"),
    "board_split": ("数据集划分", "Split"),
    "board_data_hash": ("数据哈希", "Data hash"),
    "board_adapter_hash": ("适配器哈希", "Adapter hash"),
    "board_fingerprint": ("基座指纹", "Backbone fingerprint"),
    "board_commit": ("代码提交", "Commit"),
    "board_clean": ("无改动", "clean"),
    "board_dirty": ("有未提交的改动", "with uncommitted changes"),
    "board_versions": ("软件版本", "Versions"),
    "board_hardware": ("硬件", "Hardware"),
    "board_decoding": ("解码", "Decoding"),
    "board_recipe": ("配方", "Recipe"),
    "board_learning_rate": ("学习率", "Learning rate"),
    "board_dev_losses": ("各学习率的开发集损失", "Dev loss by learning rate"),
    "board_training": ("训练", "Training"),
    "board_answering": ("回答", "Answering"),
    "board_answered": ("{time}，{tokens} 词元", "{time}, {tokens} tokens"),
    "board_made": ("完成于", "Made"),
    "board_manifest": ("原始 manifest.json", "Raw manifest.json"),
}
