"""Texts of the benchmark tab."""

WORDS: dict[str, tuple[str, str]] = {
    # What to evaluate
    "bench_what": ("评测内容", "What to evaluate"),
    "bench_adapter": ("回答的模型", "Answering model"),
    "bench_known_tasks": ("{count} 个任务", "{count} tasks"),
    "bench_one_task": ("1 个任务", "1 task"),
    "bench_bare_note": (
        "不带专家，用于对照；任务由数据决定。",
        "No experts, for comparison; all tasks of the data.",
    ),
    "bench_source": ("数据", "Data"),
    "bench_official": ("官方测试集", "Official test set"),
    "bench_samples": ("自带例句", "Our examples"),
    "bench_upload": ("自己的文件", "Your own file"),
    "bench_file": ("JSON 或 JSONL 文件", "A JSON or JSONL file"),
    "bench_file_note": (
        "JSON 或 JSONL，含参考答案。评测完成后，或停止一天后，从服务器删除。",
        "JSON or JSONL with reference answers. Deleted from the server when the evaluation "
        "is done, or a day after it stopped.",
    ),
    "bench_stand_in": (
        "my-test.jsonl 代表你的文件：PromptCBLUE 或 Firefly 格式，带参考答案。",
        "my-test.jsonl stands for your file in the PromptCBLUE or Firefly format, with "
        "reference answers.",
    ),
    "bench_samples_note": (
        "每个任务 4 条：只够了解流程，分数没有意义。",
        "Four per task: enough to see the steps, too few for a meaningful score.",
    ),
    "bench_tasks": ("任务", "Tasks"),
    "bench_per_task": ("每个任务的最多记录数", "Maximum records per task"),
    "bench_per_task_info": ("0 表示全部", "0 takes all"),
    # What was found in the data
    "bench_found": (
        "{records} 条记录，{tasks} 个任务",
        "{records} records, {tasks} tasks",
    ),
    "bench_report_table": ("每个任务的记录数", "Records of each task"),
    "bench_records": ("记录", "Records"),
    "bench_upload_first": ("先上传一个文件。", "Upload a file first."),
    "bench_no_common_task": (
        "这份数据里没有这个适配器支持的任务：换一个适配器或一份数据。",
        "The data has no task of this adapter: choose another adapter or other data.",
    ),
    # Start
    "bench_start": ("开始评测", "Start"),
    "bench_total": ("{records} 条记录", "{records} records"),
    "bench_time": (
        "约 {time}（按本机之前的速度估计）",
        "about {time}, from earlier runs on this machine",
    ),
    "bench_no_time": ("完成一次评测后可以估计时间", "the time can be estimated after a first run"),
    "bench_choose_task": ("至少选一个任务。", "Choose at least one task."),
    "bench_gone": (
        "上传的文件已不在服务器上：请重新上传。",
        "The uploaded file is no longer on the server: upload it again.",
    ),
    "bench_trained_on_it": (
        "这个适配器用自带例句训练过，用它们评测分数会虚高：请换别的数据。",
        "This adapter was trained on our examples, which inflates its score: choose other data.",
    ),
    # Jobs
    "bench_jobs": ("评测", "Evaluations"),
    "bench_no_jobs": (
        "还没有评测。启动后，这里显示每个任务的进度和分数。",
        "No evaluations yet. Once one has started, this shows the progress and then the scores of "
        "each task.",
    ),
    "bench_of_task": ("每个任务最多 {count} 条", "at most {count} per task"),
    "bench_scoring": ("回答已完成，正在评分…", "All records answered, scoring…"),
    "bench_progress": ("{done} / {total} 条", "{done} of {total}"),
    "bench_took": ("用时 {time}", "took {time}"),
    "bench_stopping": ("正在停止，已有的回答会保留。", "Stopping; the answers so far are kept."),
    "bench_stopped": (
        "已有的回答已保留，继续时从这里开始。",
        "The answers so far are kept; it resumes from there.",
    ),
    # Scores
    "bench_scores": ("每个任务的分数", "Scores of each task"),
    "bench_metric": ("指标", "Metric"),
    "bench_score": ("分数", "Score"),
    "bench_interval": ("95% 区间", "95% interval"),
    "bench_mean": ("平均", "Mean"),
    "bench_few": (
        "每个任务不到 {count} 条记录，区间很宽，只供初步参考。",
        "Fewer than {count} records per task: the intervals are wide, so this is only indicative.",
    ),
    "bench_to_board": ("去“排行榜”", "Open the leaderboard"),
    "bench_no_run": (
        "它的结果文件夹已删除，没有分数可以显示。",
        "Its run folder was deleted, so there are no scores to show.",
    ),
}
