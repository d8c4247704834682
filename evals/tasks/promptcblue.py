r"""The 16 medical tasks of PromptCBLUE (arXiv 2310.14151), in its published prompt wording.

One record, as the files hold it (the sentence is ours):

    {"input": "判断下面搜索词的意图：\n感冒了要不要去医院\n选项：就医建议，医疗费用\n答：",
     "target": "就医建议",
     "answer_choices": ["就医建议", "医疗费用"],
     "task_type": "cls",
     "task_dataset": "KUAKE-QIC",
     "sample_id": "train-1"}
"""

from functools import partial

from evals.tasks import parsing
from evals.tasks.parsing import SEPARATOR
from evals.tasks.task import CHOICES, Field, Task

_medical = partial(Task, dataset="promptcblue", cluster="medical", licence="CC-BY-NC-4.0")

_NONE_OF_THESE = "非上述类型"
_ENTITIES_FOLLOW = "上述句子中的实体包含："
_DIALOGUE = Field("dialogue", "对话", "Dialogue", multiline=True)


def _text(label_zh: str, label_en: str, *, multiline: bool = True) -> Field:
    return Field("text", label_zh, label_en, multiline=multiline)


def _choices(label_zh: str, label_en: str, *default: str) -> Field:
    return Field(
        CHOICES,
        f"{label_zh}（用“，”分隔）",
        f"{label_en} (separated by “，”)",
        default=SEPARATOR.join(default),
    )


_CMEEE_TYPES = (
    "疾病",
    "临床表现",
    "身体部位",
    "药物",
    "医疗程序",
    "医学检验项目",
    "医疗设备",
    "微生物类",
    "医院科室",
)
_IMCS_TYPES = ("症状", "具体的药物名称", "药物类别", "医学检查检验", "医疗操作")

# Frequent relations first: the form offers the first few.
_RELATIONS = (
    *("临床表现", "药物治疗", "病因", "并发症", "相关（导致）", "同义词", "病理分型"),
    *("实验室检查", "影像学检查", "辅助治疗", "鉴别诊断", "手术治疗", "多发群体", "辅助检查"),
    *("发病部位", "高危因素", "发病率", "组织学检查", "发病年龄", "阶段", "预后状况"),
    *("多发季节", "相关（症状）", "多发地区", "传播途径", "风险评估因素", "发病性别倾向", "预防"),
    *("侵及周围组织转移的症状", "相关（转化）", "死亡率", "放射治疗", "内窥镜检查", "病史"),
    *("病理生理", "化疗", "发病机制", "转移部位", "治疗后症状", "外侵部位", "筛查", "遗传因素"),
    *("预后生存率", "就诊科室"),
)

_TRIAL_CRITERIA = (
    *("疾病", "治疗或手术", "实验室检查", "诊断", "怀孕相关", "知情同意", "药物", "年龄"),
    *("风险评估", "过敏耐受", "参与其它试验", "器官组织状态", "特殊病人特征", "研究者决定"),
    *("能力", "预期寿命", "依存性", "体征(医生检测）", "症状(患者感受)", "疾病分期", "肿瘤进展"),
    *("受体状态", "成瘾行为", "酒精使用", "吸烟状况", "睡眠", "饮食", "锻炼", "性别", "性取向"),
    *("种族", "居住情况", "教育情况", "读写能力", "设备", "数据可及性", "伦理审查", "病例来源"),
    *("健康群体", "残疾群体", "护理", "献血", "口腔相关"),
)

_SEARCH_INTENTS = (
    *("治疗方案", "病情诊断", "注意事项", "疾病描述", "就医建议", "功效作用", "后果表述"),
    *("指标解读", "病因分析", "医疗费用"),
)

_DIALOGUE_ACTS = (
    *("关于症状的询问", "关于症状的回答", "关于病因的询问", "关于病因的回答"),
    *("关于个人基本信息的询问", "关于个人基本信息的回答", "关于已有检查和治疗的提问"),
    *("关于已有检查和治疗的回答", "关于用药建议的提问", "关于用药建议的解答"),
    *("关于就医建议的提问", "关于就医建议的解答", "关于注意事项的提问", "关于注意事项的解答"),
    "给出诊断",
)

TASKS = (
    _medical(
        name="CMeEE-V2",
        title_zh="医学实体识别",
        title_en="Medical entities",
        description_zh="从医学文本中找出疾病、症状、药物等实体。",
        description_en="Find diseases, symptoms, drugs and other entities in medical text.",
        kind="extraction",
        max_new_tokens=160,
        fields=(
            _text("医学文本", "Medical text"),
            _choices("实体类型", "Entity types", *_CMEEE_TYPES[:4]),
        ),
        template="找出指定的实体：\n{text}\n实体类型选项：{choices}\n答：",
        reader=parsing.entities(
            suffix="实体", framing=(_ENTITIES_FOLLOW, "上述句子没有指定类型实体")
        ),
        labels=_CMEEE_TYPES,
    ),
    _medical(
        name="CMeIE",
        title_zh="医学关系抽取",
        title_en="Medical relations",
        description_zh="找出文本中具有给定关系的头、尾实体对。",
        description_en="Find the pairs of entities that stand in the given relations.",
        kind="extraction",
        max_new_tokens=320,
        fields=(
            _text("医学文本", "Medical text"),
            _choices("关系类型", "Relations", *_RELATIONS[:4]),
        ),
        template=(
            "根据给定的实体间的关系，抽取具有这些关系的实体对：\n{text}\n"
            "实体间关系标签：{choices}\n答："
        ),
        reader=parsing.triples(framing=("没有指定类型的三元组",)),
        labels=_RELATIONS,
    ),
    _medical(
        name="CHIP-CDN",
        title_zh="诊断标准化",
        title_en="Diagnosis normalization",
        description_zh="从候选的 ICD-10 标准词中选出与医生所写诊断相符的词。",
        description_en="Pick the ICD-10 terms that match a diagnosis as a doctor wrote it.",
        kind="normalization",
        max_new_tokens=32,
        fields=(
            _text("诊断原词", "Diagnosis as written", multiline=False),
            _choices("候选标准词", "Candidate terms"),
        ),
        template=(
            "诊断归一化：\n{text}\n选项：{choices}\n"
            "说明：从候选的若干个ICD-10诊断标准词中选择出与原诊断描述匹配的词\n答："
        ),
        reader=parsing.terms(nothing="没有对应的标准化实体"),
    ),
    _medical(
        name="CHIP-CDEE",
        title_zh="临床发现事件抽取",
        title_en="Clinical events",
        description_zh="抽取病历中的临床发现及其发生状态、描述词和解剖部位。",
        description_en="Extract clinical findings with status, descriptors and body sites.",
        kind="extraction",
        max_new_tokens=448,
        fields=(_text("病历文本", "Medical record"),),
        template=(
            "临床发现事件抽取：\n{text}\n说明：临床发现事件的主体词包含发生状态，"
            "描述词和解剖部位这三种属性，其中描述词和解剖部位可能有多个值\n答："
        ),
        reader=parsing.events(framing=("上述句子中的临床发现事件如下：",)),
    ),
    _medical(
        name="CHIP-STS",
        title_zh="疾病问句匹配",
        title_en="Question similarity",
        description_zh="判断两个疾病问句的意思是否相同。",
        description_en="Decide whether two questions about a disease mean the same.",
        kind="classification",
        max_new_tokens=8,
        fields=(
            Field("first", "问句一", "First question"),
            Field("second", "问句二", "Second question"),
        ),
        template="以下两句话的意思相同的吗？\n“{first}”，“{second}”\n选项：{choices}\n答：",
        reader=parsing.label_or_first,
        labels=("是的", "不是"),
    ),
    _medical(
        name="CHIP-CTC",
        title_zh="临床试验筛选标准分类",
        title_en="Trial criteria",
        description_zh="判断一条临床试验筛选标准属于哪一类。",
        description_en="Decide what kind of criterion a line of a clinical trial protocol is.",
        kind="classification",
        max_new_tokens=16,
        fields=(
            _text("筛选标准", "Criterion"),
            _choices("类型", "Types", *_TRIAL_CRITERIA),
        ),
        template="判断临床试验筛选标准的类型：\n{text}\n选项：{choices}\n答：",
        reader=parsing.label_or_first,
        labels=_TRIAL_CRITERIA,
        catch_all=_NONE_OF_THESE,
    ),
    _medical(
        name="KUAKE-IR",
        title_zh="搜索与回答相关性",
        title_en="Search relevance",
        description_zh="判断一段回答与医疗搜索是否相关。",
        description_en="Decide whether an answer is relevant to a medical search.",
        kind="classification",
        max_new_tokens=8,
        fields=(
            Field("query", "医疗搜索", "Medical search"),
            Field("answer", "回答内容", "Answer", multiline=True),
        ),
        template=(
            "医疗搜索：{query}\n回答内容：{answer}\n上述搜索和回答是否相关？\n选项: {choices}\n答："
        ),
        reader=parsing.label_or_first,
        labels=("相关", "不相关"),
    ),
    _medical(
        name="KUAKE-QIC",
        title_zh="医疗搜索意图分类",
        title_en="Search intent",
        description_zh="判断一条医疗搜索词的意图。",
        description_en="Decide what a medical search wants to know.",
        kind="classification",
        max_new_tokens=8,
        fields=(
            _text("搜索词", "Search", multiline=False),
            _choices("意图", "Intents", *_SEARCH_INTENTS),
        ),
        template="判断下面搜索词的意图：\n{text}\n选项：{choices}\n答：",
        reader=parsing.label_or_first,
        labels=_SEARCH_INTENTS,
        catch_all=_NONE_OF_THESE,
    ),
    _medical(
        name="KUAKE-QQR",
        title_zh="搜索词语义关系",
        title_en="Search pair relation",
        description_zh="判断两条搜索词的主题是一致、包含还是其他关系。",
        description_en="Decide whether two searches are about the same, one within the other.",
        kind="classification",
        max_new_tokens=16,
        fields=(
            Field("first", "搜索词一", "First search"),
            Field("second", "搜索词二", "Second search"),
        ),
        template=(
            "我想知道下面两个搜索词的意思有多相同。\n“{first}”，“{second}”。\n选项：{choices}\n答："
        ),
        reader=parsing.label_or_first,
        labels=("完全一致", "后者是前者的语义子集", "后者是前者的语义父集或语义毫无关联"),
    ),
    _medical(
        name="KUAKE-QTR",
        title_zh="搜索词与标题匹配",
        title_en="Search and title",
        description_zh="判断搜索词与页面标题的匹配程度（四级）。",
        description_en="Grade how well a page title matches a search, in four steps.",
        kind="classification",
        max_new_tokens=16,
        fields=(
            Field("query", "搜索词", "Search"),
            Field("title", "页面标题", "Page title"),
        ),
        template=(
            "我想知道下面两句话的意思有多相似。\n“{query}”，“{title}”\n选项：{choices}\n答："
        ),
        reader=parsing.label_or_first,
        labels=("完全不匹配或者没有参考价值", "很少匹配有一些参考价值", "部分匹配", "完全匹配"),
    ),
    _medical(
        name="CHIP-MDCFNPC",
        title_zh="临床发现阴阳性判别",
        title_en="Status of findings",
        description_zh="判断对话里提到的临床发现，患者是有、没有还是说不清。",
        description_en="Decide for each finding of a dialogue whether the patient has it.",
        kind="extraction",
        max_new_tokens=320,
        fields=(
            _DIALOGUE,
            Field("mentions", "临床发现（用“，”分隔）", "Findings (separated by “，”)"),
        ),
        template=(
            "给出对话中临床发现实体的阴阳性判断：\n{dialogue}\n临床发现实体：{mentions}\n"
            "阴阳性选项：{choices}\n说明：临床发现是临床医学下，病人状态描述的概念集合\n答："
        ),
        reader=parsing.attributes(framing=("上述对话中临床发现实体以及其阴阳性判别如下：",)),
        labels=(
            "已有症状疾病或者假设未来可能发生的疾病等",
            "未患有症状疾病",
            "没有回答、不知道、回答不明确或者模棱两可不好推断",
            "无实际意义的不标注或者和病人当前的状态独立不标注",
        ),
    ),
    _medical(
        name="IMCS-V2-NER",
        title_zh="问诊实体识别",
        title_en="Entities in consultations",
        description_zh="从一句问诊对话中找出症状、药物、检查等实体。",
        description_en="Find symptoms, drugs, examinations in a line of a consultation.",
        kind="extraction",
        max_new_tokens=64,
        fields=(
            _text("问诊语句", "Line of a consultation", multiline=False),
            _choices("实体类型", "Entity types", *_IMCS_TYPES),
        ),
        template="找出下面句子中的{choices}实体：\n{text}\n答：",
        reader=parsing.entities(suffix="实体", framing=(_ENTITIES_FOLLOW,)),
        labels=_IMCS_TYPES,
    ),
    _medical(
        name="IMCS-V2-DAC",
        title_zh="问诊意图分类",
        title_en="Dialogue acts",
        description_zh="判断问诊对话最后一句的意图。",
        description_en="Decide what the last line of a consultation does.",
        kind="classification",
        max_new_tokens=16,
        fields=(_DIALOGUE, _choices("意图", "Acts", *_DIALOGUE_ACTS)),
        template="请问最后一句对话是什么意图类型？\n{dialogue}\n意图选项：{choices}\n答：",
        reader=parsing.label_or_first,
        labels=_DIALOGUE_ACTS,
        catch_all=_NONE_OF_THESE,
    ),
    _medical(
        name="IMCS-V2-SR",
        title_zh="症状识别与判断",
        title_en="Symptoms and status",
        description_zh="找出当前对话中的症状，并判断患者是否有这些症状。",
        description_en="Find the symptoms in the current line, and whether the patient has them.",
        kind="extraction",
        max_new_tokens=64,
        fields=(
            Field("history", "对话历史", "Dialogue so far", multiline=True),
            Field("current", "当前对话", "Current line"),
        ),
        template=(
            "根据对话历史和当前对话，抽取症状实体，以及这些实体的阴阳性：\n"
            "对话历史：\n{history}\n当前对话：\n{current}\n候选：{choices}\n答："
        ),
        reader=parsing.attributes(framing=("当前对话中的症状及其阴阳性判断为：",)),
        labels=("没有患有该症状", "患有该症状", "无法根据上下文确定病人是否患有该症状"),
    ),
    _medical(
        name="IMCS-V2-MRG",
        title_zh="诊疗报告生成",
        title_en="Consultation report",
        description_zh="把一段问诊对话写成六个章节的诊疗报告。",
        description_en="Turn a consultation into a report of six sections.",
        kind="generation",
        max_new_tokens=224,
        fields=(_DIALOGUE,),
        template=(
            "根据下面的问诊对话自动生成对应的诊疗报告：\n问诊对话历史：\n{dialogue}\n"
            "说明：诊疗报告分为主诉, 现病史, 辅助检查, 既往史, 诊断, 建议这六个章节。\n答："
        ),
        reader=parsing.sections(
            ("主诉", "现病史", "辅助检查", "既往史", "诊断", "建议"),
            framing=("上述问诊对话的诊疗报告如下：",),
        ),
    ),
    _medical(
        name="MedDG",
        title_zh="医生回复生成",
        title_en="Doctor's reply",
        description_zh="根据问诊对话写出医生的下一句话。轮次之间空一行。",
        description_en="Write the doctor's next turn; a blank line stands between turns.",
        kind="generation",
        max_new_tokens=96,
        fields=(_DIALOGUE,),
        template="根据医生和患者交流的对话历史预测出医生的下一句回复：\n{dialogue}\n答：",
        reader=parsing.free_text,
    ),
)
"""In the order of the collection's own table."""
