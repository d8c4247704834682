"""The tab of the leaderboards."""

from evals.methods import FAMILIES

WORDS: dict[str, tuple[str, str]] = {
    # Choosing
    "board": ("榜单", "Board"),
    "board_others": ("其他比较", "Other comparisons"),
    "board_title": (
        "{cluster} · {methods} 种方法 · {tasks} 个任务 · {n} 条样本 · {split}",
        "{cluster} · {methods} methods · {tasks} tasks · {n} records · {split}",
    ),
    "board_cluster": ("任务簇", "Cluster"),
    "board_all_clusters": ("全部", "All"),
    "board_newest": (
        "本机最新的运行：{name}（{cluster}）",
        "Newest run here: {name} ({cluster})",
    ),
    "board_no_split": ("未划分", "no split"),
    "board_view": ("视图", "View"),
    "board_view table": ("表格", "Table"),
    "board_view tasks": ("逐任务", "By task"),
    "board_view seesaw": ("跷跷板", "Seesaw"),
    "board_view pareto": ("成本", "Cost"),
    "board_view heat": ("热图", "Heat map"),
    "board_view wins": ("两两比较", "Pairwise wins"),
    "board_view radar": ("雷达", "Radar"),
    "board_view noise": ("噪声", "Noise"),
    "board_about tasks": (
        "每个任务一行，线段是 95% 置信区间。点击图例可隐藏方法。",
        "A row for each task; lines are 95 % intervals. Click the legend to hide a method.",
    ),
    "board_about seesaw": (
        "每个任务相对参照方法的增减：共享使哪些任务变差。点击图例可添加方法。",
        "Gain or loss of each task against the reference: which tasks suffer from sharing. Click "
        "the legend to add methods.",
    ),
    "board_about pareto": (
        "每种方法的任意两个量。折线是帕累托前沿：没有别的方法在两个量上都不比它差。虚线：另一个量未知。",
        "Any two quantities of each method. The line is the Pareto front: no other method is as "
        "good in both. Dotted: the other quantity is not known.",
    ),
    "board_about heat": (
        "每个任务按最低分到最高分着色。",
        "Each task is coloured from its lowest to its highest score.",
    ),
    "board_about wins": (
        "上：行方法平均分更高的重采样所占的百分比，即 P(行优于列)，并列各计一半。"
        "下：行方法显著优于列方法的任务数（Holm 校正，p < 0.05）。",
        "Above: percentage of resamples in which the row's mean is higher, P(row better than "
        "column); ties count half. Below: number of tasks where the row is significantly better "
        "(Holm correction, p < .05).",
    ),
    "board_about radar": (
        "每条轴是一个任务，0 至 100 分。用搜索或筛选更换方法。",
        "An axis for each task, from 0 to 100. Search or filter to show other methods.",
    ),
    "board_about noise": (
        "样本噪声：更换测试样本引起的差异。训练噪声：更换随机种子引起的差异。",
        "Item noise: variation over test records. Training noise: variation over seeds.",
    ),
    "board_click": (
        "点击图中的标记查看对应的样本；使用键盘时请在表格中选择。",
        "Click a marker to see its samples; with the keyboard, choose a cell of the table.",
    ),
    "board_find": ("按名称搜索", "Search by name"),
    "board_find_example": ("如 CGC, MOE", "CGC, MOE"),
    "board_filters": ("筛选", "Filters"),
    "board_families": ("方法类别", "Families"),
    **{f"board_family {family}": titles for family, titles in FAMILIES.items()},
    "board_budget": ("可训练参数上限", "Most trained parameters"),
    "board_any": ("不限", "any"),
    "board_at_most": ("至多 {size}", "at most {size}"),
    "board_tasks": (
        "只计入这些任务（重新计算平均分和名次）",
        "Only these tasks (recomputes means and ranks)",
    ),
    "board_local": ("包括本机的运行", "Include runs of this machine"),
    "board_clear": ("清除筛选", "Clear filters"),
    "board_reference": ("参照", "Reference"),
    "board_cost": ("横轴", "Horizontal axis"),
    "board_versus": ("纵轴", "Vertical axis"),
    "board_csv": ("下载 CSV", "Download CSV"),
    "board_json": ("下载 JSON", "Download JSON"),
    # Sharing
    "board_share": ("复制链接", "Copy link"),
    "board_shared": ("已复制", "Link copied"),
    "board_share_by_hand": ("复制这个地址", "Copy this address"),
    "board_cite": ("引用", "Cite"),
    "board_picture": ("下载图片", "Download picture"),
    "board_citation": ("引用当前视图", "Cite this view"),
    "board_cite_first": (
        "在 {tasks} 个任务（{n} 条测试样本）上比较 {methods} 种方法，{name} 的平均分最高，为 "
        "{value}（95% 置信区间 {low} 至 {high}；重采样名次 {places}）。",
        "Of {methods} methods on {tasks} tasks ({n} test records), {name} has the highest mean "
        "score, {value} (95 % interval {low} to {high}; places {places} when records are "
        "resampled). ",
    ),
    "board_cite_next": (
        "其次是 {name}，为 {value}（{low} 至 {high}）；前者在 {share}% 的重采样中更高。",
        "{name} follows with {value} ({low} to {high}); the first is higher in {share} % of the "
        "resamples. ",
    ),
    "board_cite_origin": (
        "cgclora {version}，榜单 {board}，运行于 {date}，代码提交 {commit}。",
        "cgclora {version}, board {board}, runs of {date}, commit {commit}.",
    ),
    "board_card_more": ("另有 {n} 种方法。任务：", "{n} more methods. Tasks: "),
    "board_card_interval": ("95% 置信区间", "95 % intervals"),
    # In words
    "board_tied_all": (
        "全部 {all} 种方法并列第一：它们的置信区间互相重叠。",
        "All {all} methods share rank 1: their intervals overlap.",
    ),
    "board_tied_both": (
        "两种方法并列第一：它们的置信区间重叠。",
        "Both methods share rank 1: their intervals overlap.",
    ),
    "board_tied": (
        "{all} 种方法中有 {tied} 种并列第一：它们的置信区间互相重叠。",
        "{tied} of {all} methods share rank 1: their intervals overlap.",
    ),
    "board_alone": (
        "{all} 种方法中，{name} 单独排名第一。",
        "Of {all} methods, {name} alone has rank 1.",
    ),
    "board_only_one": ("只有 {name} 一种方法。", "{name} is the only method."),
    "board_sure": (
        "与 {reference} 逐样本配对检验（p < 0.05）：平均分显著更高：{above}；"
        "显著更低：{below}。其余差异不显著。",
        "Paired test against {reference} over samples (p < .05): mean significantly higher: "
        "{above}; significantly lower: {below}. All other differences are not significant.",
    ),
    "board_nobody": ("无", "none"),
    "board_better_than_1": (
        "在 {shares[0]} 的重采样中，{first} 的平均分高于 {others[0]}。",
        "{first} has a higher mean than {others[0]} in {shares[0]} of the resamples.",
    ),
    "board_better_than_2": (
        "{first} 的平均分在 {shares[0]} 的重采样中高于 {others[0]}，在 {shares[1]} 的重采样中高于 "
        "{others[1]}。",
        "{first} has a higher mean than {others[0]} in {shares[0]} of the resamples, and than "
        "{others[1]} in {shares[1]}.",
    ),
    "board_one_seed": (
        "每种方法只用一个种子训练，未测量训练噪声。",
        "Each method was trained with one seed: training noise is not measured.",
    ),
    "board_even_seeds": (
        "每种方法用 {most} 个种子训练。",
        "Each method was trained with {most} seeds.",
    ),
    "board_seeds": (
        "训练种子：{least} 至 {most} 个。",
        "Training seeds: {least} to {most}.",
    ),
    "board_part": (
        "显示 {shown} / {all} 种方法、{tasks} / {of} 个任务；名次和标记只在其中计算。",
        "{shown} of {all} methods on {tasks} of {of} tasks; ranks and marks compare these alone.",
    ),
    "board_facts": ("这个榜单的测量内容", "What this board measures"),
    "board_facts_note": (
        "同一榜单的所有方法回答相同的样本。数据：样本哈希的前几位。",
        "All methods of a board answered the same records. Data: the first digits of their hash.",
    ),
    "board_metric": ("指标", "Metric"),
    "board_version": ("版本（任务，指标）", "Version (task, metric)"),
    "board_data": ("数据", "Data"),
    "board_records": ("样本数", "Records"),
    # Table
    "board_caption": ("方法的排名和得分", "Ranks and scores of the methods"),
    "board_rank": ("名次", "Rank"),
    "board_rank_note": ("（95%）", "(95 %)"),
    "board_rank_hint": (
        "括号内：在 95% 的重采样中排第 {low} 至 {high} 名，只要平均分更高就算在前；"
        "名次本身只计置信区间完全在其上方的方法。",
        "In brackets: place {low} to {high} in 95 % of the resamples, where any method with a "
        "higher mean is ahead. The rank itself counts only methods whose interval lies entirely "
        "above.",
    ),
    "board_method": ("方法", "Method"),
    "board_mean": ("平均", "Mean"),
    "board_interval": ("95% 置信区间", "95 % interval"),
    "board_spread": ("种子间标准差", "Seed spread"),
    "board_parameters": ("参数", "Params"),
    "board_parameters_note": ("可训练", "trained"),
    "board_active_rank": ("秩", "Rank used"),
    "board_active_rank_note": ("使用 / 总", "of stored"),
    "board_training_seconds": ("训练", "Training"),
    "board_training_seconds_note": ("时间", "time"),
    "board_tokens_per_second": ("速度", "Speed"),
    "board_tokens_per_second_note": ("词元/秒", "tokens/s"),
    "board_forgetting": ("遗忘", "Forgetting"),
    "board_forgetting_note": ("奈特/词元", "nats/token"),
    "board_best": ("最好", "best"),
    "board_close": ("与最好无显著差异", "not significantly worse than the best"),
    "board_behind": ("显著差于最好", "significantly worse than the best"),
    "board_tied_with": ("并列", "tied"),
    "board_local_mark": ("本机", "local"),
    "board_key": (
        "分数 × 100。<b>粗体</b>：该任务最好；常规：与最好无显著差异；<i>浅色</i>：显著更差"
        "（配对自助法，Holm 校正，p < 0.05）。名次：1 + 置信区间完全在其上方的方法数；"
        "括号内是重采样样本后名次的 95% 区间。点击任意单元格查看样本。",
        "Scores × 100. <b>Bold</b>: best of the task; plain: not significantly worse; "
        "<i>faint</i>: significantly worse (paired bootstrap, Holm correction, p < .05). Rank: 1 + "
        "the number of methods whose interval lies entirely above; in brackets the 95 % interval "
        "of its place when records are resampled. Click any cell to see its samples.",
    ),
    "board_nothing_fits": (
        "没有符合条件的方法。请清除筛选或更换搜索名称。",
        "No method matches. Clear the filters or search for another name.",
    ),
    "board_alone_seesaw": (
        "跷跷板图至少需要两种方法。请清除筛选或更换搜索名称。",
        "The seesaw needs two methods. Clear the filters or search for another name.",
    ),
    "board_empty": (
        "还没有已打分的运行。请用下面的命令运行评测，然后返回这里。",
        "There is no scored run yet. Run an evaluation with the command below and come back.",
    ),
    "board_view_samples": ("查看样本：{name}，{task}", "Samples: {name}, {task}"),
    "board_sort_by": ("按{column}排序", "Sort by {column}"),
    # Left out and elsewhere
    "board_left_out": ("未上榜的运行（{n}）", "Runs on no board ({n})"),
    "board_run": ("运行", "Run"),
    "board_reason": ("原因", "Reason"),
    "board_unscored": (
        "还没有打分：python -m evals score",
        "not scored yet: python -m evals score",
    ),
    "board_replaced": ("被更新的运行取代：{by}", "replaced by a newer run: {by}"),
    "board_published": ("其他来源发表的结果（不参与排名）", "Published elsewhere (not ranked)"),
    "board_published_note": (
        "数据划分和基座不同，不能直接比较。",
        "Other data and other backbones: not directly comparable.",
    ),
    "board_score": ("得分", "Score"),
    "board_backbone": ("基座", "Backbone"),
    "board_source": ("来源", "Source"),
    "board_note": ("差异", "What differs"),
    # Samples
    "board_samples": ("{name} 的样本", "Samples of {name}"),
    "board_sample": ("样本", "Sample"),
    "board_overall": ("全部任务", "All tasks"),
    "board_cell": ("任务", "Task"),
    "board_against": ("对照", "Beside"),
    "board_seed": ("种子", "Seed"),
    "board_only": ("哪些样本", "Which samples"),
    "board_only all": ("全部 {n}", "all {n}"),
    "board_only wrong": ("未完全正确 {n}", "not fully correct {n}"),
    "board_only disagree": ("回答不同 {n}", "answers differ {n}"),
    "board_only won": ("胜 {n}", "won {n}"),
    "board_only lost": ("负 {n}", "lost {n}"),
    "board_close_samples": ("收起样本", "Close samples"),
    "board_earlier": ("上一页", "Previous"),
    "board_later": ("下一页", "Next"),
    "board_place": ("第 {first}–{last} 条，共 {n} 条", "{first}–{last} of {n}"),
    "board_no_samples": ("没有符合条件的样本。", "No sample matches."),
    "board_input": ("输入", "Input"),
    "board_target": ("参考答案", "Reference"),
    "board_silent": ("（空回答）", "(an empty answer)"),
    "board_cut": ("达到长度上限", "cut at the limit"),
    "board_own_score": (
        "回答旁是该样本的 {metric}。榜单的分数由全部样本计算，不一定是它们的平均。",
        "Each answer shows its own {metric}. The board's score is computed over all records and "
        "need not be the mean of these.",
    ),
    "board_own_scores": (
        "回答旁是该样本的得分。榜单的分数由全部样本计算，不一定是它们的平均。",
        "Each answer shows its own score. The board's score is computed over all records and "
        "need not be the mean of these.",
    ),
    "board_no_data": (
        "本机没有数据集，只能显示样本编号和回答。运行文件夹不包含数据集的文本。请将数据放入一个文件夹，"
        "用环境变量 {variable} 指定它，并重新启动应用，即可查看输入和参考答案。",
        "The dataset is not on this machine, so only ids and answers are shown: run folders hold "
        "no text of a dataset. To see inputs and references, put the data into a folder, set the "
        "environment variable {variable} to it and restart the app.",
    ),
    "board_other_data": (
        "本机上 {tasks} 的样本与这次运行使用的不同，因此不显示输入和参考答案。",
        "The records of {tasks} on this machine differ from those of this run, so inputs and "
        "references are not shown.",
    ),
    "board_run_unreadable": (
        "无法读取这次运行的回答。英文原因见下。",
        "The answers of this run cannot be read. The reason is below.",
    ),
    # Provenance
    "board_provenance": ("来源信息", "Provenance"),
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
    "board_made": ("完成时间", "Created"),
    "board_manifest": ("原始 manifest.json", "Raw manifest.json"),
}
