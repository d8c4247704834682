"""Texts of the export tab."""

WORDS: dict[str, tuple[str, str]] = {
    "export_not_allowed": (
        "这里不能导出；大小和命令行照常可用。要打开：设环境变量 CGCLORA_ALLOW_EXPORTS=1 "
        "再启动应用，或在自己的机器上运行下面的命令。",
        "Adapters cannot be exported here; sizes and command line work. To switch this on, set the "
        "environment variable CGCLORA_ALLOW_EXPORTS=1 and restart the app, or run the command "
        "below on your own machine.",
    ),
    # What
    "export_what": ("导出什么", "What to export"),
    "export_adapter": ("适配器", "Adapter"),
    "export_format": ("格式", "Format"),
    "export_tasks": ("任务（不选就是全部）", "Tasks (none chosen: all)"),
    "export_more": ("更多设置", "More settings"),
    "export_precision": ("数值精度", "Precision"),
    "export_precision_info": (
        "缺省：float32，不损失精度；合并模型用基座自己的精度。",
        "Default: float32, which loses nothing; a merged model has its backbone's own.",
    ),
    "export_precision_default": ("缺省", "default"),
    "export_base": ("使用时的基座", "Backbone where it is used"),
    "export_base_info": (
        "文件夹或 Hub 名称，写进 PEFT 和 vLLM 的配置；不填就用训练时的名字。",
        "Folder or hub id that PEFT and vLLM files name; empty: the name at training.",
    ),
    "export_format peft": (
        "PEFT LoRA\n每个任务一个 LoRA 文件夹，用于 transformers、vLLM 等",
        "PEFT LoRA\na LoRA folder per task, for transformers, vLLM and others",
    ),
    "export_format merged": (
        "合并模型\n一个任务并入基座权重，像普通模型一样加载",
        "Merged model\none task in the backbone's weights, loads like any model",
    ),
    "export_format gguf": (
        "GGUF LoRA\n每个任务一个 .gguf 文件，用于 llama.cpp（--lora）",
        "GGUF LoRA\na .gguf file per task, for llama.cpp (--lora)",
    ),
    "export_format vllm": (
        "vLLM 套件\n全部 LoRA、启动脚本和客户端，一个服务器回答所有任务",
        "vLLM bundle\nLoRAs, start script and client: one server for all tasks",
    ),
    "export_format cgclora": (
        "cgclora\n适配器本身，可在本项目中按 Hub 编号使用",
        "cgclora\nthe adapter itself, to be used here by its hub id",
    ),
    "export_size": ("约 {size}", "≈ {size}"),
    "export_size_unknown": ("大小未知", "size unknown"),
    "export_size_later": ("模型加载后显示大小", "size once the model is loaded"),
    "export_size_whole": ("未压缩的文件合计", "of files, uncompressed"),
    "export_one_task": (
        "这种格式只含一个任务：请选择一个。",
        "This format holds one task: choose one.",
    ),
    "export_no_adapter": ("还没有适配器。", "There is no adapter yet."),
    "export_start": ("导出", "Export"),
    "export_too_large": (
        "这次导出约 {size}，这里最多 {limit}：少选几个任务，换 float16，或在自己的机器上运行命令。",
        "This export has about {size}, at most {limit} are allowed here: choose fewer tasks or "
        "float16, or run the command on your own machine.",
    ),
    "export_no_room": (
        "打包需要约 {size}，磁盘只剩 {free}：删除旧的导出，或腾出空间后再试。",
        "Files and archive take about {size}, {free} are free on the disk: remove older exports or "
        "free some room.",
    ),
    # Exports
    "export_jobs": ("已导出", "Exports"),
    "export_no_jobs": (
        "还没有导出。完成后在这里下载，或推送到 Hugging Face。",
        "No exports yet. Download them here once they are done, or push them to Hugging Face.",
    ),
    "export_all_tasks": ("全部 {n} 个任务", "all {n} tasks"),
    "export_some_tasks": ("{n} 个任务", "{n} tasks"),
    "export_written": ("已写 {done}，共约 {size}", "{done} of about {size} written"),
    "export_reading": ("正在读适配器和基座…", "Reading adapter and backbone…"),
    "export_stopping": (
        "正在停止；不会留下写了一半的文件。",
        "Stopping; nothing half-written stays.",
    ),
    "export_stopped": (
        "没有留下文件；“继续”会从头再做一次。",
        "No files were left; Resume makes the export from the start.",
    ),
    "export_download": ("下载 {name}（{size}）", "Download {name} ({size})"),
    "export_kept": (
        "文件保留一小时，然后从服务器删除。",
        "The files stay on the server for an hour.",
    ),
    "export_gone": ("文件已经删除：请重新导出。", "The files have been removed: export again."),
    "export_licence": ("许可：{licence}", "Licence: {licence}"),
    "export_no_licence": (
        "许可：适配器没有说明，发布前请确认训练数据允许。",
        "Licence: not stated by the adapter; make sure that its data may be shared before you "
        "publish it.",
    ),
    # Push
    "push_heading": ("推送到 Hugging Face", "Push to Hugging Face"),
    "push_repo": ("仓库", "Repository"),
    "push_repo_hint": ("用户名/名称", "owner/name"),
    "push_token": ("你的访问令牌", "Your access token"),
    "push_token_info": (
        "令牌需要写权限，只用于这一次推送：不保存，不写日志，随后从页面清除。",
        "The token needs permission to write. It is used for this push alone: not stored, not "
        "logged, and cleared from the page.",
    ),
    "push_private": ("私有仓库", "Private repository"),
    "push_start": ("推送", "Push"),
    "push_running": ("正在上传 {size}…", "Uploading {size}…"),
    "push_busy": (
        "正在推送另一个导出：等它完成后再试。",
        "Another export is being pushed: try again when it has ended.",
    ),
    "push_done": ("已推送：", "Pushed: "),
    "push_failed": ("没有推送", "Not pushed"),
    "push_failed token": (
        "令牌无效：在 huggingface.co/settings/tokens 重新复制，或新建一个有写权限的。",
        "The hub does not accept this token: copy it again from huggingface.co/settings/tokens, or "
        "make one with permission to write.",
    ),
    "push_failed name": (
        "仓库名称无效：写成“用户名/名称”，只用字母、数字和 - _ .",
        "That is no name of a repository: write owner/name, with letters, digits and - _ . only.",
    ),
    "push_failed denied": (
        "这个令牌不能写入该仓库：换有写权限的令牌，或用自己名下的仓库。",
        "This token may not write there: take one with permission to write, and a repository of "
        "your own.",
    ),
    "push_failed taken": (
        "仓库里已有别的内容，没有改动它：换一个名称。",
        "The repository holds something else and was left as it is: choose another name.",
    ),
    "push_failed public": (
        "仓库已存在而且是公开的：先在 Hub 上改为私有，或换一个名称。",
        "The repository exists and is public: make it private on the hub first, or choose another "
        "name.",
    ),
    "push_failed offline": (
        "连不上 Hugging Face：检查服务器的网络后再试。",
        "Hugging Face cannot be reached: check the server's network and try again.",
    ),
    "push_failed refused": (
        "Hugging Face 没有接受上传，原因如下；没有留下写了一半的内容。",
        "Hugging Face did not take the upload, for the reason below; nothing half-written stays.",
    ),
    "push_failed files": (
        "服务器读不出导出的文件：请重新导出。",
        "The exported files cannot be read: export again.",
    ),
}
