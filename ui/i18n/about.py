"""Texts of the About tab."""

WORDS: dict[str, tuple[str, str]] = {
    # The expert layer
    "about_layer": ("专家层", "The expert layer"),
    "about_layer_intro": (
        "每个线性层旁边都有低秩专家。点图中任何一处，看它的作用和大小。",
        "Every linear layer has low-rank experts beside it. Click any part to see what it "
        "computes and how large it is.",
    ),
    "about_adapter": ("适配器", "Adapter"),
    "about_linear": ("线性层", "Linear layer"),
    "about_task": ("任务", "Task"),
    "about_drawing": ("专家层的结构，用方向键选择", "The expert layer; choose with the arrow keys"),
    "about_no_adapter": ("还没有可用的适配器。", "No adapter is available yet."),
    "about_same_for_all": (
        "所有任务用同样的权重。",
        "Every task uses the same weights.",
    ),
    "about_shape": ("形状", "Shape"),
    "about_parameters": ("参数", "Parameters"),
    "about_in_layer": ("{count}（本层）", "{count} in this layer"),
    "about_of_kind": (
        "{count}（{layers} 个同类层）",
        "{count} in the {layers} layers of this kind",
    ),
    "about_frozen": ("冻结，不训练", "frozen, not trained"),
    "about_trained": ("训练", "trained"),
    "about_none": ("无", "none"),
    "about_shared_by_all": ("{count}（全模型共用）", "{count}, shared by the whole model"),
    # Its parts
    "about input": ("输入 x", "Input x"),
    "about_why_input": (
        "每个词元一个向量，同时输入冻结权重和所有专家。",
        "One vector per token; frozen weight and experts get the same input.",
    ),
    "about frozen": ("冻结权重 W₀", "Frozen weight W₀"),
    "about_why_frozen": (
        "基座自身的权重，训练中保持不变。",
        "The backbone's own weight, unchanged by training.",
    ),
    "about A": ("{expert} · A", "{expert} · A"),
    "about_why_A": (
        "把输入投影到专家的秩 k = {rank}。",
        "Projects the input down to the expert's rank, k = {rank}.",
    ),
    "about_why_shared_A": (
        "所有专家共用的 A，把输入投影到秩 k = {rank}。",
        "The A that all experts share: projects the input down to the rank k = {rank}.",
    ),
    "about turn": ("任务矩阵", "Matrix of the task"),
    "about_why_turn": (
        "每个任务用自己的 k × k 矩阵变换共用的 A。",
        "Each task turns the shared A by a k × k matrix of its own.",
    ),
    "about B": ("{expert} · B", "{expert} · B"),
    "about_why_B": (
        "再投影到输出宽度。训练从 B = 0 开始，所以起点就是裸基座。",
        "Projects up to the output's width. Training starts at B = 0, that is, at the bare "
        "backbone.",
    ),
    "about_whose_common": ("公共专家：每个任务都用。", "A common expert: every task uses it."),
    "about_whose_specific": (
        "专属专家：只有它自己的任务用。",
        "A specific expert: only its own task uses it.",
    ),
    "about_whose_one": ("唯一的专家：所有任务共用。", "The only expert: all tasks use it."),
    "about_one": ("专家", "Expert"),
    "about task": ("任务编号 t", "Task id t"),
    "about_why_task": (
        "门控的唯一输入，与文本无关。每个任务有一个学到的向量。",
        "The gate's only input; it does not see the text. Each task has a learned vector.",
    ),
    "about_why_task_id": (
        "门控的唯一输入，与文本无关。",
        "The gate's only input; it does not see the text.",
    ),
    "about gate": ("门控", "Gate"),
    "about_why_gate_task": (
        "在任务可用的专家上取 softmax，其他任务的专家权重为 0。",
        "A softmax over the experts that the task may use; experts of other tasks get 0.",
    ),
    "about_why_gate_skills": (
        "公共专家：各任务自己的 sigmoid 除以它们的和；专属专家之和为 1。",
        "Common experts: the task's own sigmoids divided by their sum; the specific ones sum to 1.",
    ),
    "about_why_gate_uniform": (
        "不学习：可用的专家权重相等，其他的为 0。",
        "Not learned: equal weights for the experts that a task may use, 0 for others.",
    ),
    "about_why_gate_none": (
        "不加权：可用的专家直接相加。",
        "Not weighted: the sum of the experts that a task may use.",
    ),
    "about_gate_model": ("整个模型共用一个门控。", "One gate for the whole model."),
    "about_gate_layer": ("每层一个门控。", "One gate per layer."),
    "about weight": ("{expert} · 权重", "{expert} · weight"),
    "about_why_weight": (
        "同一任务的每个词元都用同一个权重。",
        "Every token of a task gets the same weight.",
    ),
    "about_why_zero": (
        "所选任务不能用这个专家：权重为 0。",
        "The chosen task may not use this expert: its weight is 0.",
    ),
    "about scale": ("比例 ×s", "Scale ×s"),
    "about_why_scale": (
        "不训练的常数：α 除以秩，使不同的秩可以比较。",
        "A constant, not trained: alpha divided by a rank, so that ranks are comparable.",
    ),
    "about sum": ("输出 h", "Output h"),
    "about_why_sum": (
        "冻结的结果加上专家之和，乘比例 s = {scale}。一个任务的和就是一个秩 {rank} 的普通 LoRA，"
        "可以折叠进 W₀。",
        "The frozen result plus the experts' sum times s = {scale}. For one task that sum is a "
        "plain LoRA of rank {rank}, which folds into W₀.",
    ),
    # 1 + N
    "about_tree": ("1 + N：这里装了什么", "1 + N: what is installed here"),
    "about_tree_intro": (
        "一个基座，每簇任务一套专家。请求先确定簇，再确定任务的门控。",
        "One backbone, one set of experts per task cluster. A request selects a cluster, then its "
        "task's gate.",
    ),
    "about_backbone": ("冻结的基座", "Frozen backbone"),
    "about_decoding": (
        "解码：{code} 前向计算，权重 {weights}",
        "Decoding: {code} forward pass, weights {weights}",
    ),
    "about_size": ("{count} 参数", "{count} parameters"),
    "about_cluster": (
        "{common} 公共 + {tasks} 任务 × {specific} 专属",
        "{common} common + {tasks} tasks × {specific} specific",
    ),
    # Budgets
    "about_budgets": ("参数与来源", "Budgets and provenance"),
    "about_tasks": ("任务数", "Tasks"),
    "about_trained_parameters": ("训练的参数", "Trained parameters"),
    "about_share": ("占基座", "Share of the backbone"),
    "about_ranks": ("总秩 / 有效秩", "Total / active rank"),
    "about_experts": ("公共 + 专属专家", "Common + specific experts"),
    "about_file": ("文件", "File"),
    "about_records": ("训练样本", "Training records"),
    "about_steps": ("训练步数", "Steps"),
    "about_dev_loss": ("开发集损失", "Dev loss"),
    "about_data": ("训练数据哈希", "Data hash"),
    "about_commit": ("代码提交", "Commit"),
    "about_licence": ("许可", "Licence"),
    "about_budget_note": (
        "数字来自各适配器的 manifest.json；开发集不同时，损失不可比较。",
        "Numbers come from each adapter's manifest.json; losses on different dev sets cannot be "
        "compared.",
    ),
    "about_share_later": ("模型加载完后显示", "once the model is loaded"),
    # Programs
    "about_programs": ("从程序里用", "From a program"),
    "about_api": ("Python，三行：", "Python, three lines:"),
    "about_endpoints": ("全部接口", "All endpoints"),
    "about_mcp_on": (
        "MCP 已开启。在支持 MCP 的助手中填入下面的地址：",
        "MCP is on. Give this address to an assistant that supports MCP:",
    ),
    "about_mcp_off": (
        "这里没有开启 MCP。自己运行时可以这样开启：",
        "MCP is off here. To turn it on where you run the app:",
    ),
    # Limits
    "about_limits": ("上限", "Limits"),
    "about_limits_intro": (
        "这台服务器的上限；可用环境变量修改。",
        "The limits of this server, set by environment variables.",
    ),
    "limit_characters": ("提示词字符", "Characters of a prompt"),
    "limit_prompt_tokens": ("提示词词元", "Tokens of a prompt"),
    "limit_answer_tokens": ("回答词元", "Tokens of an answer"),
    "limit_answer_seconds": ("一个回答的秒数", "Seconds of an answer"),
    "limit_at_once": ("每批的请求", "Requests in a batch"),
    "limit_waiting": ("排队的请求", "Waiting requests"),
    "limit_per_minute": ("每位访客每分钟的请求", "Requests of a visitor per minute"),
    "limit_upload_mb": ("上传文件的 MB", "MB of an upload"),
    "limit_upload_lines": ("上传文件的行数", "Lines of an upload"),
    "limit_uploads_mb": ("每小时全部上传的 MB", "MB of all uploads per hour"),
    "limit_jobs": ("排队的评测和训练", "Waiting evaluations and trainings"),
    "limit_export_mb": ("一次导出的 MB", "MB of an export"),
    # Licences
    "about_licences": ("许可与说明", "Licences and notices"),
    "about_code": ("代码", "Code"),
    "about_model": ("基座", "Backbone"),
    "about_adapters": ("适配器", "Adapters"),
    "about_medicine": ("医疗", "Medicine"),
    "about_is_gemma": (
        "Gemma 依 Gemma 使用条款提供；在它之上训练的适配器同样受其约束。",
        "Gemma is provided under and subject to the Gemma Terms of Use, and so are the adapters "
        "trained on it.",
    ),
    "about_is_other": (
        "其许可由提供方规定。",
        "Its provider sets its licence.",
    ),
    "about_research": (
        "本项目附带的仅供研究，不得商用，因为训练数据是 CC BY-NC 4.0。",
        "Those that come with the project are for research only, not for commercial use, because "
        "the training data is CC BY-NC 4.0.",
    ),
    "about_no_advice": (
        "这里的任何回答都不是医疗建议。",
        "Nothing here is medical advice.",
    ),
    "about_gemma_terms": ("Gemma 使用条款", "Gemma Terms of Use"),
    "about_prohibited": ("禁止用途", "prohibited uses"),
    # Citing
    "about_cite": ("引用", "How to cite"),
    "about_independent": (
        "这是独立的实现；使用方法请引用论文作者。",
        "This is an independent implementation; if you use the method, cite its authors.",
    ),
    "about_versions": ("版本", "Versions"),
}
