"""The tab where a task is tried."""

WORDS: dict[str, tuple[str, str]] = {
    # Choosing
    "cluster": ("任务簇", "Task cluster"),
    "cluster medical": ("医疗", "Medical"),
    "cluster general": ("通用", "General"),
    "cluster own": ("自有任务", "Your own tasks"),
    "task": ("任务", "Task"),
    "classification": ("分类", "classification"),
    "extraction": ("抽取", "extraction"),
    "normalization": ("标准化", "normalization"),
    "number": ("数值", "number"),
    "generation": ("生成", "generation"),
    "unknown_task": (
        "自定义任务：输入会原样成为提示词。",
        "A custom task: the input is used as the prompt unchanged.",
    ),
    # Free input
    "free": ("不知道选哪个任务？", "Not sure which task?"),
    "free_placeholder": (
        "粘贴任意文本，按回车自动识别任务",
        "Paste any text and press Enter to detect the task",
    ),
    "guesses": ("可能是这些任务，点选一个：", "Probable tasks, choose one:"),
    "recent": ("最近的提问（只存在这个浏览器里）", "Recent questions (kept in this browser only)"),
    "forget_recent": ("清除", "Clear"),
    # Asking
    "input": ("输入", "Input"),
    "samples": ("点一个示例，直接看回答", "Click an example to see it answered"),
    "text": ("文本", "Text"),
    "prompt": ("模型读到的提示词（可以改）", "The prompt the model reads (editable)"),
    "prompt_short": ("提示词", "Prompt"),
    "prompt_placeholder": (
        "填好左边的字段后，提示词显示在这里。",
        "Fill in the fields to see the prompt here.",
    ),
    "most_tokens": ("回答的最大词元数", "Longest answer, in tokens"),
    "labels_only": ("只能回答这个任务的标签", "Restrict to this task's labels"),
    "labels_only_info": (
        "所有模型都只能从提示词列出的标签中选择。",
        "All models must choose one of the labels in the prompt.",
    ),
    "run": ("回答", "Answer"),
    "stop": ("停止", "Stop"),
    # Answers
    "answers": ("回答", "Answer"),
    "bare": ("裸基座", "Bare backbone"),
    "compared": ("{method} · 对照", "{method} · for comparison"),
    "nothing_adapted_yet": (
        "回答会逐字显示在这里。",
        "The answer appears here, word by word.",
    ),
    "nothing_bare_yet": (
        "同一个问题，不使用专家。",
        "The same question, without experts.",
    ),
    "nothing_rival_yet": (
        "同一个问题，另一个适配器。",
        "The same question, another adapter.",
    ),
    "beside": ("同时问其他模型（最多 {most} 个）", "Compare with (up to {most})"),
    "trained_on": ("{count} 条训练样本", "{count} training records"),
    "same_answer": ("与第一个相同", "same as the first"),
    "label_shares": ("各标签的概率", "Probability of each label"),
    "more_labels": (
        "其余 {count} 个标签的概率更低。",
        "{count} more labels have lower probabilities.",
    ),
    "waiting_model": ("模型加载完成后开始…", "Starts when the model is loaded…"),
    "reading": ("正在读取提示词…", "Reading the prompt…"),
    "empty_answer": ("（空回答）", "(an empty answer)"),
    "tokens": ("{count} 词元", "{count} tokens"),
    "speed": ("{speed} 词元/秒", "{speed} tokens/s"),
    "seconds": ("{seconds} 秒", "{seconds} s"),
    "cut": ("达到长度上限", "cut at the limit"),
    "stopped": ("已停止", "stopped"),
    # Parsed
    "parsed": ("解析结果", "Parsed result"),
    "parsed_later": (
        "回答完成后，这里显示解析出的标签、实体或表格，并与参考答案对比。",
        "Labels, entities or rows of the complete answer are shown here and compared with the "
        "reference.",
    ),
    "in_text": ("在原文中", "In the text"),
    "nothing_found": ("没有解析出任何条目。", "No item was found in the answer."),
    "unparsed": ("无法解析的部分", "Could not be parsed"),
    "head": ("头实体", "head"),
    "tail": ("尾实体", "tail"),
    "reference": ("参考答案", "Reference"),
    "right": ("与参考答案一致", "Agrees with the reference"),
    "wrong": ("与参考答案不一致", "Differs from the reference"),
    "hits": (
        "命中 {hits} / {expected}，多余 {extra}",
        "{hits} of {expected} found, {extra} extra",
    ),
    "no_reference": (
        "自定义输入没有参考答案，请自行判断。",
        "Your own input has no reference: judge the answer yourself.",
    ),
    "open_ended": (
        "生成任务没有唯一正确的答案，参考答案仅供对比。",
        "A generation task has no single right answer; the reference is for comparison.",
    ),
    # Errors
    "fill_in": ("请先填写“{field}”。", "Fill in “{field}” first."),
    "too_long": (
        "输入有 {count} 个字符，最多 {most} 个：请缩短。",
        "The input has {count} characters, at most {most} are read: shorten it.",
    ),
    "queued": (
        "排队中，前面还有 {ahead} 个问题…",
        "Queued after {ahead} other questions…",
    ),
    "busy": (
        "提问太多，服务器暂时无法处理。请按下面的英文说明稍后再问。",
        "Too many questions at the moment. Ask again later, as the message below says.",
    ),
    "refused_by_engine": (
        "模型或这个适配器没有加载成功，所以没有回答。请按下面的英文说明处理。",
        "The model or this adapter could not be loaded, so there is no answer. Follow the message "
        "below.",
    ),
    "refused_task": (
        "这个适配器不支持这个任务，请换一个任务。英文原因见下。",
        "This adapter does not support this task: choose another one. The reason is below.",
    ),
    "refused_prompt": (
        "提示词太长或无法读取：请缩短提示词，或调低回答的词元上限。",
        "The prompt is too long or cannot be read: shorten it, or lower the longest answer.",
    ),
    "not_taken": (
        "问题没有送达：服务器繁忙，或连接中断。请几秒后重试。",
        "The question was not delivered: the server is busy, or the connection failed. Try again "
        "in a few seconds.",
    ),
    "internal": (
        "发生内部错误，没有得到回答。请重试；如果仍然出错，请查看服务器日志。",
        "An internal error occurred and there is no answer. Try again; if it persists, read the "
        "server's log.",
    ),
}
