"""Texts of the tab that compares methods on a user's data."""

WORDS: dict[str, tuple[str, str]] = {
    # Data
    "compare_data": ("数据", "Data"),
    "compare_source": ("数据来源", "Source"),
    "compare_source_upload": (
        "自己的文件\n每行一条：任务、输入、答案",
        "Your own file\nA task, an input and an answer a line",
    ),
    "compare_source_example": (
        "示例\n4 个自拟的小任务，480 条",
        "Example\n4 small tasks of our own, 480 records",
    ),
    "compare_source_hub": (
        "Hugging Face 数据集\n填数据集的 id",
        "Hugging Face dataset\nGive its id",
    ),
    "compare_train_file": ("训练数据（JSONL）", "Training data (JSONL)"),
    "compare_dev_file": ("开发集（可选）", "Dev data (optional)"),
    "compare_test_file": ("测试集（可选）", "Test data (optional)"),
    "compare_formats": (
        "每行一个 JSON 对象，含 task、input、target；PromptCBLUE、Firefly、ShareGPT、Alpaca 的文件"
        "也可以。没有开发集或测试集时，从训练数据里划出：相同的输入不会分在两边，标签比例不变。启动后，"
        "数据随这次比较保留，删除比较时一并删除。",
        "A JSON object a line with task, input and target; PromptCBLUE, Firefly, ShareGPT and "
        "Alpaca files work, too. Dev and test data are split off the training data if you give "
        "none: equal inputs stay together, labels keep their shares. Once started, the data stays "
        "with the comparison and is removed with it.",
    ),
    "compare_hub": ("数据集 id", "Dataset id"),
    "compare_hub_example": (
        "例如 your-name/your-tasks，回车读取",
        "such as your-name/your-tasks; Enter reads it",
    ),
    "compare_tasks": ("只比较这些任务", "Only these tasks"),
    "compare_upload_first": (
        "上传一个文件，这里会显示里面有什么任务、怎样评分。",
        "Upload a file: its tasks, and how they are scored, will be shown here.",
    ),
    "compare_n_tasks": ("个任务", "tasks"),
    "compare_n_train": ("训练记录", "train records"),
    "compare_n_dev": ("开发记录", "dev records"),
    "compare_n_test": ("测试记录", "test records"),
    "compare_made": (
        "{names}是从训练数据里划出来的。",
        "The {names} were split off the training data.",
    ),
    "compare_leaked": (
        "{n} 条{split}的输入也出现在测试集或开发集里，已去掉。",
        "{n} {split} were left out: their input is also in the test or dev data.",
    ),
    "compare_few": (
        "最少的任务只有 {n} 条测试记录；少于 {few} 条时区间很宽，小差别看不出来。",
        "The smallest task has {n} test records; with fewer than {few}, intervals are wide and "
        "small differences stay hidden.",
    ),
    "compare_report_table": (
        "各任务的记录数",
        "Records of each task",
    ),
    "compare_col_task": ("任务", "Task"),
    "compare_col_records": ("训练 / 开发 / 测试", "Train / dev / test"),
    # Methods and budget
    "compare_methods": ("方法与预算", "Methods and budget"),
    "compare_which": ("方法", "Methods"),
    "compare_rates": ("学习率", "Learning rates"),
    "compare_rates_info": (
        "每种方法都试这些，取开发集损失最低的。",
        "Each method tries all of them; the one with the lowest dev loss counts.",
    ),
    "compare_seeds": ("随机种子数", "Training seeds"),
    "compare_seeds_info": (
        "两个以上才能看出训练本身的波动。",
        "Two or more show how much training itself varies.",
    ),
    "compare_minutes": ("时间预算（分钟）", "Time budget (minutes)"),
    "compare_advanced": ("训练量（默认按预算选）", "Amount of training (by default what fits)"),
    "compare_train_records": ("每任务训练记录（0：按预算）", "Train records a task (0: what fits)"),
    "compare_epochs": ("轮数（0：按预算）", "Epochs (0: what fits)"),
    "compare_test_records": ("每任务测试记录（0：按预算）", "Test records a task (0: what fits)"),
    "compare_no_data": (
        "有了数据，这里会显示要训练多少、需要多久。",
        "Once there is data, its cost will be shown here.",
    ),
    "compare_expected": ("预计时间", "expected time"),
    "compare_n_epochs": ("轮训练", "epochs"),
    "compare_n_train_each": ("条训练记录，每任务至多", "train records a task at most"),
    "compare_n_test_each": ("条测试记录，每任务至多", "test records a task at most"),
    "compare_all": ("全部", "all"),
    "compare_too_long": (
        "再少也超出时间预算：去掉几种方法、学习率或种子，或给更多时间。",
        "Even the smallest amount exceeds the budget: take fewer methods, rates or seeds, or give "
        "it more time.",
    ),
    "compare_rough": (
        "粗略估计：这台机器上还没有跑过比较，第一次之后会准一些。",
        "A rough estimate: no comparison has run on this machine yet. After the first it is "
        "better.",
    ),
    "compare_sizes_table": ("各方法的大小", "Size of each method"),
    "compare_col_method": ("方法", "Method"),
    "compare_col_parameters": ("可训练参数", "Trained parameters"),
    "compare_col_ranks": ("总秩 / 单任务所用的秩", "Total rank / rank in use"),
    # Start
    "compare_name": ("名称", "Name"),
    "compare_name_info": ("字母、数字、- 和 _", "Letters, digits, - and _"),
    "compare_name_taken": (
        "已经有一个叫 {name} 的比较：换个名称。",
        "There is a comparison called {name} already: choose another name.",
    ),
    "compare_start": ("开始比较", "Compare"),
    # State
    "compare_jobs": ("比较", "Comparisons"),
    "compare_no_jobs": (
        "还没有比较。启动一个之后，开发集损失、排行榜、跷跷板图、成本和门控会依次出现在这里。",
        "None yet. Once you start one, dev losses, leaderboard, seesaw, costs and gates appear "
        "here one after the other.",
    ),
    "compare_counted": (
        "{tasks} 个任务 · {methods} 种方法 · {seeds} 个种子",
        "tasks: {tasks} · methods: {methods} · seeds: {seeds}",
    ),
    "compare_step_dev loss": ("开发集损失", "Dev losses"),
    "compare_step_one seed": ("一个种子的得分", "Scores of one seed"),
    "compare_step_all seeds": ("所有种子的得分", "Scores of all seeds"),
    "compare_now": (
        "训练完成 {trained} · 已评分 {answered} / {cells}",
        "training {trained} done · {answered} of {cells} scored",
    ),
    "compare_stopping": ("正在停止；已完成的都会保留。", "Stopping; what is finished stays."),
    "compare_stopped": (
        "已停止。继续时从停下的地方接着做。",
        "Stopped. It resumes where it ended.",
    ),
    "compare_remove": ("删除", "Delete"),
    "compare_remove_warning": (
        "删除这次比较，连同它的数据、适配器和得分？留用的适配器不受影响。",
        "Delete this comparison with its data, adapters and scores? Adapters that you kept stay.",
    ),
    "compare_dev_losses": ("各学习率的开发集损失", "Dev loss by learning rate"),
    "compare_dev_note": (
        "单位：奈特每答案词元，越低越好；粗体是选中的学习率。损失不是得分：答得对不对要看排行榜。",
        "In nats a token of the answer, lower is better; bold is the chosen rate. A loss is not a "
        "score: how many answers are right is what the leaderboard shows.",
    ),
    "compare_verdict": ("结论", "Verdict"),
    "compare_board": ("排行榜", "Leaderboard"),
    "compare_col_rank": ("名次", "Rank"),
    "compare_col_mean": ("平均分", "Mean"),
    "compare_board_note": (
        "得分 ×100，得分和名次的 95% 区间只含测试记录的波动。粗体：该任务最高；下划线：与最高分"
        "不能区分。",
        "Scores times 100; the 95% intervals of scores and ranks are the noise of the test "
        "records. Bold: best of the task; underlined: cannot be told apart from it.",
    ),
    "compare_to_board": ("在排行榜中细看", "Look closer on the leaderboard"),
    "compare_seesaw": (
        "跷跷板：各任务相对单任务 LoRA 的得失",
        "Seesaw: what each task gains or pays beside a LoRA of its own",
    ),
    "compare_costs": ("成本与得分", "Costs and scores"),
    "compare_keep": ("留用一个适配器", "Keep an adapter"),
    "compare_keep_info": (
        "留用之后，就像训练出来的适配器一样，可以试用、看门控、评测和带走。",
        "Once kept, it is like one that was trained here: try it, see its gates, evaluate it, take "
        "it away.",
    ),
    "compare_keep_it": ("留用", "Keep"),
    "compare_kept": ("已留用，名为 {name}。", "Kept as {name}."),
    "compare_not_kept": (
        "没有留用：这种方法还没有适配器，或文件已被删除。",
        "Not kept: this method has no adapter yet, or its files are gone.",
    ),
    "compare_go_try": ("试一试", "Try it"),
    "compare_go_export": ("导出", "Export it"),
    "compare_go_gates": ("看门控", "See its gates"),
    "compare_gates": ("门控权重（各层平均）", "Gate weights (mean over the layers)"),
}
