r"""The 16 medical tasks of PromptCBLUE (arXiv 2310.14151), in its published prompt wording.

One record, as the files hold it (the sentence is ours):

    {"input": "判断下面搜索词的意图：\n感冒了要不要去医院\n选项：就医建议，医疗费用\n答：",
     "target": "就医建议",
     "answer_choices": ["就医建议", "医疗费用"],
     "task_type": "cls",
     "task_dataset": "KUAKE-QIC",
     "sample_id": "train-1"}

Answers are read, and scored first, as the official scorer does it (see `parsing`); its name for
CMeIE is CMeIE-V2, which `readers` reads as CMeIE. Where it speaks of micro F1 over labels,
its code takes the weighted F1.
"""

from functools import partial

from evals.tasks import parsing
from evals.tasks import promptcblue_labels as labels
from evals.tasks.parsing import SEPARATOR
from evals.tasks.task import CHOICES, Field, Task

_medical = partial(Task, dataset="promptcblue", cluster="medical", licence="CC-BY-NC-4.0")

# The label of an empty answer is the scorer's first one, wherever the record lists it.
_NONE_OF_THESE = "非上述类型"
_one_of_many = partial(
    _medical,
    kind="classification",
    reader=parsing.label(empty=_NONE_OF_THESE),
    strict_reader=parsing.label(strict=True),
    catch_all=_NONE_OF_THESE,
    metrics=("macro-f1", "accuracy", "weighted-f1"),
)
_one_of_few = partial(
    _medical,
    kind="classification",
    metrics=("weighted-f1", "micro-f1/labels", "accuracy"),
    version="2",
)

_entities = partial(
    parsing.entities,
    suffix="实体",
    framing=("上述句子中的实体包含：", "上述句子没有指定类型实体"),
)
_triples = partial(parsing.triples, framing=("没有指定类型的三元组",))
_events = partial(parsing.events, framing=("上述句子中的临床发现事件如下：",))
_findings = partial(
    parsing.attributes,
    otherwise="不标注",
    framing=("上述对话中临床发现实体以及其阴阳性判别如下：",),
)
_symptoms = partial(
    parsing.attributes,
    otherwise="无法根据上下文确定病人是否患有该症状",
    framing=("当前对话中的症状及其阴阳性判断为：",),
)
_report = partial(
    parsing.sections,
    ("主诉", "现病史", "辅助检查", "既往史", "诊断", "建议"),
    framing=("上述问诊对话的诊疗报告如下：",),
)
_same_question = partial(parsing.label, synonyms={"相同": "是的", "不同": "不是"})

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
            _choices("实体类型", "Entity types", *labels.CMEEE_TYPES[:4]),
        ),
        template="找出指定的实体：\n{text}\n实体类型选项：{choices}\n答：",
        reader=_entities(),
        strict_reader=_entities(strict=True),
        labels=labels.CMEEE_TYPES,
        version="2",
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
            _choices("关系类型", "Relations", *labels.RELATIONS[:4]),
        ),
        template=(
            "根据给定的实体间的关系，抽取具有这些关系的实体对：\n{text}\n"
            "实体间关系标签：{choices}\n答："
        ),
        reader=_triples(),
        strict_reader=_triples(strict=True),
        labels=labels.RELATIONS,
        version="2",
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
        reader=parsing.listed_terms(nothing="没有对应的标准化实体"),
        version="2",
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
        reader=_events(),
        strict_reader=_events(strict=True),
        version="2",
    ),
    _one_of_few(
        name="CHIP-STS",
        title_zh="疾病问句匹配",
        title_en="Question similarity",
        description_zh="判断两个疾病问句的意思是否相同。",
        description_en="Decide whether two questions about a disease mean the same.",
        max_new_tokens=8,
        fields=(
            Field("first", "问句一", "First question"),
            Field("second", "问句二", "Second question"),
        ),
        template="以下两句话的意思相同的吗？\n“{first}”，“{second}”\n选项：{choices}\n答：",
        reader=_same_question(empty="是的"),
        strict_reader=_same_question(strict=True),
        labels=("是的", "不是"),
    ),
    _one_of_many(
        name="CHIP-CTC",
        title_zh="临床试验筛选标准分类",
        title_en="Trial criteria",
        description_zh="判断一条临床试验筛选标准属于哪一类。",
        description_en="Decide what kind of criterion a line of a clinical trial protocol is.",
        max_new_tokens=16,
        fields=(
            _text("筛选标准", "Criterion"),
            _choices("类型", "Types", *labels.TRIAL_CRITERIA),
        ),
        template="判断临床试验筛选标准的类型：\n{text}\n选项：{choices}\n答：",
        labels=labels.TRIAL_CRITERIA,
    ),
    _one_of_few(
        name="KUAKE-IR",
        title_zh="搜索与回答相关性",
        title_en="Search relevance",
        description_zh="判断一段回答与医疗搜索是否相关。",
        description_en="Decide whether an answer is relevant to a medical search.",
        max_new_tokens=8,
        fields=(
            Field("query", "医疗搜索", "Medical search"),
            Field("answer", "回答内容", "Answer", multiline=True),
        ),
        template=(
            "医疗搜索：{query}\n回答内容：{answer}\n上述搜索和回答是否相关？\n选项: {choices}\n答："
        ),
        reader=parsing.label(empty="相关"),
        strict_reader=parsing.label(strict=True),
        labels=("相关", "不相关"),
    ),
    _one_of_many(
        name="KUAKE-QIC",
        title_zh="医疗搜索意图分类",
        title_en="Search intent",
        description_zh="判断一条医疗搜索词的意图。",
        description_en="Decide what a medical search wants to know.",
        max_new_tokens=8,
        fields=(
            _text("搜索词", "Search", multiline=False),
            _choices("意图", "Intents", *labels.SEARCH_INTENTS),
        ),
        template="判断下面搜索词的意图：\n{text}\n选项：{choices}\n答：",
        labels=labels.SEARCH_INTENTS,
    ),
    _one_of_few(
        name="KUAKE-QQR",
        title_zh="搜索词语义关系",
        title_en="Search pair relation",
        description_zh="判断两条搜索词的主题是一致、包含还是其他关系。",
        description_en="Decide whether two searches are about the same, one within the other.",
        max_new_tokens=16,
        fields=(
            Field("first", "搜索词一", "First search"),
            Field("second", "搜索词二", "Second search"),
        ),
        template=(
            "我想知道下面两个搜索词的意思有多相同。\n“{first}”，“{second}”。\n选项：{choices}\n答："
        ),
        reader=parsing.label(empty="完全一致"),
        strict_reader=parsing.label(strict=True),
        labels=("完全一致", "后者是前者的语义子集", "后者是前者的语义父集或语义毫无关联"),
    ),
    _one_of_few(
        name="KUAKE-QTR",
        title_zh="搜索词与标题匹配",
        title_en="Search and title",
        description_zh="判断搜索词与页面标题的匹配程度（四级）。",
        description_en="Grade how well a page title matches a search, in four steps.",
        max_new_tokens=16,
        fields=(
            Field("query", "搜索词", "Search"),
            Field("title", "页面标题", "Page title"),
        ),
        template=(
            "我想知道下面两句话的意思有多相似。\n“{query}”，“{title}”\n选项：{choices}\n答："
        ),
        reader=parsing.label(empty="完全不匹配或者没有参考价值"),
        strict_reader=parsing.label(strict=True),
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
        reader=_findings(),
        strict_reader=_findings(strict=True),
        labels=(
            "已有症状疾病或者假设未来可能发生的疾病等",
            "未患有症状疾病",
            "没有回答、不知道、回答不明确或者模棱两可不好推断",
            "无实际意义的不标注或者和病人当前的状态独立不标注",
        ),
        version="2",
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
            _choices("实体类型", "Entity types", *labels.IMCS_TYPES),
        ),
        template="找出下面句子中的{choices}实体：\n{text}\n答：",
        reader=_entities(),
        strict_reader=_entities(strict=True),
        labels=labels.IMCS_TYPES,
        version="2",
    ),
    _one_of_many(
        name="IMCS-V2-DAC",
        title_zh="问诊意图分类",
        title_en="Dialogue acts",
        description_zh="判断问诊对话最后一句的意图。",
        description_en="Decide what the last line of a consultation does.",
        max_new_tokens=16,
        fields=(_DIALOGUE, _choices("意图", "Acts", *labels.DIALOGUE_ACTS)),
        template="请问最后一句对话是什么意图类型？\n{dialogue}\n意图选项：{choices}\n答：",
        labels=labels.DIALOGUE_ACTS,
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
        reader=_symptoms(),
        strict_reader=_symptoms(strict=True),
        labels=("没有患有该症状", "患有该症状", "无法根据上下文确定病人是否患有该症状"),
        version="2",
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
        reader=_report(),
        strict_reader=_report(strict=True),
        metrics=("rouge-l/sections", "rouge-l/char", "rouge-l/jieba"),
        version="2",
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
        metrics=("rouge-l/char/promptcblue", "rouge-l/jieba", "bleu-4/char", "chrf"),
    ),
)
"""In the order of the collection's own table."""
