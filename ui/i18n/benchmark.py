"""The tab that starts evaluations."""

WORDS: dict[str, tuple[str, str]] = {
    # What to evaluate
    "bench_what": ("评什么", "What to evaluate"),
    "bench_adapter": ("谁来回答", "Who answers"),
    "bench_known_tasks": ("{count} 个任务", "{count} tasks"),
    "bench_one_task": ("1 个任务", "1 task"),
    "bench_bare_note": (
        "不带专家，用来对照；任务由数据决定。",
        "Without experts, for comparison; any task of the data.",
    ),
    "bench_compared": ("对照", "For comparison"),
    "bench_source": ("数据", "Data"),
    "bench_official": ("官方测试集", "Official test set"),
    "bench_samples": ("自带例句", "Our examples"),
    "bench_upload": ("自己的文件", "Your own file"),
    "bench_file": ("PromptCBLUE 或 Firefly 格式的文件", "A PromptCBLUE or Firefly file"),
    "bench_file_note": (
        "JSON 或 JSONL，要有参考答案。只留到评测结束或停止一天后，之后从服务器删除。",
        "JSON or JSONL, with reference answers. Removed from the server when the evaluation "
        "is done, or a day after it stopped.",
    ),
    "bench_stand_in": (
        "my-test.jsonl 代表你的文件：PromptCBLUE 或 Firefly 格式，带参考答案。",
        "my-test.jsonl stands for your file, in the form of PromptCBLUE or Firefly, with "
        "reference answers.",
    ),
    "bench_samples_note": (
        "每个任务 4 条：看看流程，分数说明不了什么。",
        "Four a task: enough to see how it works, too few to say how good it is.",
    ),
    "bench_tasks": ("任务", "Tasks"),
    "bench_per_task": ("每个任务最多几条", "Records a task, at most"),
    "bench_per_task_info": ("0 表示全部", "0 takes all"),
    # What was found in the data
    "bench_found": (
        "{records} 条记录，{tasks} 个任务",
        "{records} records, {tasks} tasks",
    ),
    "bench_report_table": ("每个任务的记录数", "Records of each task"),
    "bench_records": ("记录", "Records"),
    "bench_left_out": (
        "这些任务没有评分办法，跳过：{tasks}",
        "There is no scorer for these tasks, they are left out: {tasks}",
    ),
    "bench_upload_first": ("先上传一个文件。", "Upload a file first."),
    "bench_no_common_task": (
        "这份数据里没有这个适配器会的任务：换一个适配器，或换一份数据。",
        "The data has no task that this adapter knows: choose another adapter, or other data.",
    ),
    # Start
    "bench_start": ("开始评测", "Start"),
    "bench_total": ("{records} 条记录", "{records} records"),
    "bench_time": ("约 {time}（按本机之前的速度）", "about {time}, at this machine's pace"),
    "bench_no_time": ("第一次评测之后才能估计时间", "the first run tells how long it takes"),
    "bench_choose_task": ("至少选一个任务。", "Choose at least one task."),
    "bench_gone": (
        "上传的文件已不在服务器上：请重新上传。",
        "The uploaded file is no longer on the server: upload it again.",
    ),
    "bench_trained_on_it": (
        "这个适配器就是用自带例句训练的，拿它们评测，分数会虚高：请换别的数据。",
        "This adapter was trained on our examples, so they would flatter it: choose other data.",
    ),
    # Jobs
    "bench_jobs": ("评测作业", "Evaluations"),
    "bench_no_jobs": (
        "还没有评测。启动后，这里显示每个任务的进度，然后是分数。",
        "No evaluations yet. Once one has started, the progress of each task is shown here, and "
        "then its scores.",
    ),
    "bench_of_task": ("每个任务最多 {count} 条", "at most {count} a task"),
    "bench_scoring": ("回答完毕，正在评分…", "All answered, scoring…"),
    "bench_progress": ("{done} / {total} 条", "{done} of {total}"),
    "bench_took": ("用时 {time}", "took {time}"),
    "bench_stopping": ("正在结束，已有的回答会保留。", "Ending; the answers so far are kept."),
    "bench_stopped": (
        "已有的回答都在，继续时从这里接着做。",
        "The answers so far are kept; it goes on from there.",
    ),
    # Scores
    "bench_scores": ("每个任务的分数", "Scores of each task"),
    "bench_metric": ("指标", "Metric"),
    "bench_score": ("分数", "Score"),
    "bench_interval": ("95% 区间", "95% interval"),
    "bench_mean": ("平均", "Mean"),
    "bench_few": (
        "每个任务不到 {count} 条，区间很宽：只够看个大概。",
        "Fewer than {count} records a task: the intervals are wide, this is a first look only.",
    ),
    "bench_to_board": ("去“排行榜”", "Open the leaderboard"),
    "bench_no_run": (
        "它的结果文件夹已不在，分数看不到了。",
        "Its run folder is gone, and the scores with it.",
    ),
}
