"""Texts that the benchmark and the training tab share."""

WORDS: dict[str, tuple[str, str]] = {
    "jobs_not_allowed": (
        "这里不能启动评测和训练；数据检查和命令行照常可用。要打开：设环境变量 "
        "CGCLORA_ALLOW_JOBS=1 再启动应用，或在自己的机器上运行下面的命令。",
        "Evaluations and trainings cannot be started here; data report and command line work. To "
        "switch this on, set the environment variable CGCLORA_ALLOW_JOBS=1 and restart the app, or "
        "run the command below on your own machine.",
    ),
    # Data
    "jobs_unreadable": ("这份数据无法使用", "This data cannot be used"),
    "jobs_unreadable_advice": (
        "按下面的英文提示改好文件后重新上传，或换一份数据。",
        "Correct the file as the message below says and upload it again, or choose other data.",
    ),
    "jobs_refused_lines": (
        "有 {n} 行无法读取，已跳过；前 {shown} 行的原因：",
        "{n} lines cannot be read and are skipped; the first {shown}:",
    ),
    "jobs_line": ("{file} 第 {line} 行", "{file}, line {line}"),
    # Tasks of one's own
    "own_tasks": ("自有任务", "Your own tasks"),
    "own_form": ("答案形式", "Form of answers"),
    "own_form_label": ("一个标签", "one label"),
    "own_form_terms": ("若干条目", "list of items"),
    "own_form_pairs": ("键和值，每行一对", "lines of key and value"),
    "own_form_number": ("数值", "number"),
    "own_form_text": ("自由文本", "free text"),
    "own_metric": ("主要指标", "Main metric"),
    "own_examples": ("例子", "Examples"),
    "own_note": (
        "自有任务的答案形式和指标是从参考答案识别出来的。",
        "How your own tasks are answered and scored was recognised from their reference answers.",
    ),
    "own_correct": ("识别得不对？在这里改", "Not quite right? Correct it here"),
    "own_correct_note": (
        "可以改标题（中文、英文）、答案形式 kind、标签、提示词模板、最长答案等，改动立即生效。"
        "kind 是 classification（一个标签）、extraction（若干条目）、number（数值）"
        "或 generation（自由文本）。用命令行时，把它存为数据旁边的 tasks.toml。",
        "Titles (Chinese, English), the kind of answer, labels, prompt template, longest answer "
        "and more; a change takes effect at once. A kind is classification (one label), "
        "extraction (a list of items), number, or generation (free text). For the command line, "
        "save it as tasks.toml beside the data.",
    ),
    "own_wrong": (
        "这份表还不能用，先按识别的结果处理",
        "This table cannot be used yet; what was recognised applies",
    ),
    # Start
    "jobs_start_heading": ("启动", "Start"),
    "jobs_command": ("等价的命令行", "Equivalent command"),
    "jobs_not_started": ("没有启动", "Not started"),
    "jobs_bad_name": (
        "名字只能用 1 到 40 个字母、数字、_ 和 -。",
        "A name has 1 to 40 letters, digits, _ and -.",
    ),
    "jobs_full": (
        "队列里已有 {count} 个任务：等一些结束后再来。",
        "There are {count} jobs in the queue already: come back when some have ended.",
    ),
    "jobs_queued": (
        "已加入队列。关掉网页也会继续。",
        "In the queue. It continues when you close the page.",
    ),
    # State
    "jobs_state_queued": ("排队中，第 {place} 位", "queued, place {place}"),
    "jobs_state_running": ("进行中", "running"),
    "jobs_state_stopping": ("正在停止", "stopping"),
    "jobs_state_stopped": ("已停止", "stopped"),
    "jobs_state_failed": ("失败", "failed"),
    "jobs_state_done": ("完成", "done"),
    "jobs_wait": (
        "一次只运行一个任务；前面的结束后自动开始。",
        "One job runs at a time; this one starts when those before it have ended.",
    ),
    "jobs_loading": ("正在读数据和模型…", "Reading data and model…"),
    "jobs_left": ("还需约 {time}", "about {time} left"),
    "jobs_upload_gone": (
        "上传的数据已删除，不能继续了：请重新上传并启动。",
        "The uploaded data has been removed, so the job cannot resume: upload it and start again.",
    ),
    "jobs_failed": (
        "下面是日志的最后几行。排除原因后可以继续；要换设置，就重新启动一个。",
        "Below are the last lines of its log. It can resume once the cause is fixed; to change "
        "settings, start a new job.",
    ),
    "jobs_failed 3": (
        "基座没有加载成功：看下面的英文原因。",
        "The backbone could not be loaded; the reason is below.",
    ),
    "jobs_failed 4": (
        "数据无法使用：按下面的英文原因改好，重新启动一个。",
        "The data cannot be used: correct it as the message below says and start a new job.",
    ),
    "jobs_failed 5": (
        "适配器无法使用：按下面的英文原因处理，或换一个适配器。",
        "The adapter cannot be used: do as the message below says, or choose another one.",
    ),
    "jobs_failed -9": (
        "进程被系统终止，多半是内存不够：关掉别的程序后继续。",
        "The system killed it, probably because memory ran out: close other programs and resume.",
    ),
    "jobs_log": ("日志末尾", "End of the log"),
    "jobs_run_command": ("命令", "Command"),
    "jobs_stop": ("停止", "Stop"),
    "jobs_resume": ("继续", "Resume"),
    "jobs_remove": ("移出列表", "Remove from list"),
    "jobs_action_failed": ("操作没有成功", "That did not work"),
    "jobs_seconds": ("{n} 秒", "{n} s"),
    "jobs_minutes": ("{n} 分钟", "{n} min"),
    "jobs_hours": ("{n} 小时", "{n} h"),
}
