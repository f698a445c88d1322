"""The course's own words, in every language: states, what is said of a verdict, what is refused and what to do then.

What lessons ask stands with the lessons. Each text is one line.
"""

from __future__ import annotations

from .languages import Text

STATES = {
    "right": Text("right", "正确"),
    "wrong": Text("wrong", "错误"),
    "noisy": Text("noisy", "噪声太大"),
    "missing": Text("missing", "缺少结果"),
}

HEAD = (
    Text("question", "问题"),
    Text("predicted", "预测"),
    Text("measured", "实测"),
    Text("95 % interval", "95 % 区间"),
    Text("off by", "偏差"),
    Text("number", "数值"),
    Text("reason", "理由"),
    Text("run", "运行"),
)
LIST_HEAD = (Text("", ""), Text("question", "问题"), Text("predicted", "预测"), Text("reasons", "可选理由"))
TABLE = Text("published", "已发表数据")

LOCKED_NOW = Text(
    "locked at {when}: {name} = {value}{unit}{because}", "已于 {when} 锁定：{name} = {value}{unit}{because}"
)
KEPT = Text(
    "locked since {when}, nothing has changed: {name} = {value}{unit}{because}",
    "自 {when} 起已锁定，没有变化：{name} = {value}{unit}{because}",
)
BECAUSE = Text(", because {reason}", "，理由：{reason}")
NO_REASON = Text("no reason was given, so only the number will be judged", "没有给出理由，因此只评判数值")
RUN_IT = Text("now run:  {run}", "现在运行：{run}")
READ_IT = Text("now check:  {run}", "现在检查：{run}")
RAN_ALREADY = Text(
    "lesson {lesson} has {open} of {all} questions without a verdict: %cooptim check {lesson} shows them",
    "第 {lesson} 课还有 {open} 个问题（共 {all} 个）没有结论：%cooptim check {lesson} 可以查看",
)

WHY = {
    "not predicted": Text(
        '{name}: nothing was predicted. %cooptim predict "{name}" NUMBER --because REASON, and then run it',
        '{name}：还没有预测。先运行 %cooptim predict "{name}" 数值 --because 理由，然后再做实验',
    ),
    "late": Text(
        "{name}: the run came before any prediction, so there is nothing to judge; go on with the next question",
        "{name}：实验在预测之前就已运行，无法评判；请继续下一个问题",
    ),
    "not run": Text(
        "{name}: not run since it was predicted. Run:  {run}", "{name}：预测之后还没有运行实验。请运行：{run}"
    ),
    "another": Text(
        "{name}: run {id} is of another task, or has other options. Run the lesson's task cell, then:  {run}",
        "{name}：运行 {id} 的任务或选项与本课不同。请先运行本课的任务单元格，再运行：{run}",
    ),
    "running": Text(
        "{name}: run {id} still goes on; check again when it has ended", "{name}：运行 {id} 尚未结束，结束后请再次检查"
    ),
    "unfinished": Text(
        "{name}: run {id} did not come to its end. Run it again:  {run}",
        "{name}：运行 {id} 没有正常结束。请重新运行：{run}",
    ),
    "version": Text(
        "{name}: run {id} was recorded by another version and cannot be read. Run it again:  {run}",
        "{name}：运行 {id} 由另一个版本记录，无法读取。请重新运行：{run}",
    ),
    "refused": Text(
        "{name}: in run {id} this way refused the network, see its table. Define the lesson's task again, and:  {run}",
        "{name}：在运行 {id} 中，该方式不接受这个网络（见其表格）。请重新定义本课的任务，然后运行：{run}",
    ),
    "busy": Text(
        "{name}: noisy: other programs had the CPUs during run {id}. Measure again when the machine is quiet:  {again}",
        "{name}：噪声太大：运行 {id} 期间其他程序占用了 CPU。请在机器空闲时重新测量：{again}",
    ),
    "one round": Text(
        "{name}: noisy: one round does not say how far another would lie. Measure again with {option}:  {again}",
        "{name}：噪声太大：只有一轮，无法知道下一轮会差多少。请用 {option} 重新测量：{again}",
    ),
    "wide": Text(
        "{name}: noisy: {low} to {high} cannot tell your {value} from another. Measure again with {option}:  {again}",
        "{name}：噪声太大：区间 {low} 到 {high} 无法判断你的 {value} 是否成立。请用 {option} 重新测量：{again}",
    ),
    "too noisy": Text(
        "{name}: noisy: {low} to {high} cannot tell, nor would 49 rounds. Measure when the machine is quiet:  {again}",
        "{name}：噪声太大：区间 {low} 到 {high} 无法判断，49 轮也不够。请在机器空闲时重新测量：{again}",
    ),
}
NUMBER_RIGHT = Text(
    "{name}: right: you said {value}, it is {measured} (up to {tolerance} off counts as right)",
    "{name}：正确：你预测 {value}，实测 {measured}（偏差不超过 {tolerance} 即为正确）",
)
NUMBER_WRONG = Text(
    "{name}: wrong: you said {value}, it is {measured} (up to {tolerance} off would be right)",
    "{name}：错误：你预测 {value}，实测 {measured}（偏差不超过 {tolerance} 才算正确）",
)
DIRECTION = Text(
    "; even the direction is another: one of the two is faster than the network as it is, the other slower",
    "；连方向也不同：预测与实测一个比原始网络快，一个比它慢",
)
REASON_RIGHT = Text("  the reason is right: {why}", "  理由正确：{why}")
REASON_WRONG = Text("  the reason is another: {why}", "  真正的原因不同：{why}")
REASON_UNKNOWN = Text(
    "  which reason is right, these data cannot tell: the intervals overlap, or hold no gain and no loss",
    "  这些数据无法判断哪个理由正确：区间互相重叠，或看不出得失",
)
REASON_MISSING = Text("  no reason was given; it is this: {why}", "  没有给出理由；原因是：{why}")
SCORE = Text(
    "lesson {lesson}: {right} of {all} numbers and {reasons} of {asked} reasons right; {open} without a verdict yet",
    "第 {lesson} 课：{all} 个数值中 {right} 个正确，{asked} 个理由中 {reasons} 个正确；{open} 个尚无结论",
)
EXPORTED = Text("{place}: the file to hand in", "{place}：请提交此文件")

# Refusals.

NO_CLAIM = Text(
    "{given!r} is no question of the course: {near}%cooptim predict lists them",
    "{given!r} 不是本课程的问题：{near}%cooptim predict 会列出所有问题",
)
NEAR = Text("did you mean {near!r}? ", "你是指 {near!r} 吗？")
NO_NUMBER = Text(
    "{given!r} is no number: give what you expect, in {unit}, as 2.5",
    "{given!r} 不是数字：请给出你的预期，单位 {unit}，例如 2.5",
)
WITHOUT_NUMBER = Text(
    'a number is missing: %cooptim predict "{name}" 2.5 --because REASON',
    '缺少数字：%cooptim predict "{name}" 2.5 --because 理由',
)
NOT_ABOVE_0 = Text("{given} is no ratio: give a number above 0", "{given} 不是比值：请给出大于 0 的数")
NO_REASON_LIKE = Text("--because {given}: choose one of {choices}", "--because {given}：请选择 {choices} 之一")
NONE_TO_GIVE = Text(
    "--because {given}: this question asks for no reason; leave it out", "--because {given}：此问题不要求理由，请去掉"
)
LOCKED = Text(
    "you have predicted {value} at {when}, and that is locked: run it, then %cooptim check {lesson}",
    "你已在 {when} 预测了 {value}，预测已锁定：请运行实验，然后 %cooptim check {lesson}",
)
TOO_LATE = Text(
    "run {id} began at {when} and answers this: a prediction comes before its run. Go on with {next}",
    "运行 {id} 已在 {when} 开始并给出了答案：预测必须在运行之前。请继续：{next}",
)
END_OF_LESSON = Text("%cooptim check {lesson}", "%cooptim check {lesson}")
NO_LESSON = Text("there is no lesson {given}: choose one of {lessons}", "没有第 {given} 课：请选择 {lessons} 之一")
NOT_OURS = Text(
    "--export {place}: this file is there and is no export of the course: give another name",
    "--export {place}：该文件已存在，且不是本课程导出的文件：请换一个文件名",
)
NOT_EXPORTED = Text(
    "--export {place}: {why}: give a place that can be written", "--export {place}：{why}：请给出可写的位置"
)
OTHER_VERSION = Text(
    "{place} was written by version {version} of the course, this one reads version {own}: install the "
    "other cooptim_lab, or set COOPTIM_HOME to another folder",
    "{place} 由课程的第 {version} 版写入，本版本只能读取第 {own} 版："
    "请安装对应的 cooptim_lab，或将 COOPTIM_HOME 设为其他文件夹",
)
UNREADABLE = Text(
    "{place} cannot be read ({why}): move it away, or set COOPTIM_HOME to another folder",
    "{place} 无法读取（{why}）：请将其移走，或将 COOPTIM_HOME 设为其他文件夹",
)
LINE = Text("line {number} is not one of the course's", "第 {number} 行不是课程的记录")
UNWRITABLE = Text(
    "{place} cannot be written ({why}), so nothing is kept: set COOPTIM_HOME to a folder that can be",
    "{place} 无法写入（{why}），没有保存任何内容：请将 COOPTIM_HOME 设为可写的文件夹",
)
