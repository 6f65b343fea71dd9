"""The report says what is in the run folder, for any run, and shows data without running it."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from residency.config.graders import Python, StringCheck
from residency.data.messages import Example, Origin
from residency.errors import DataError, RunError
from residency.evals import plots
from residency.evals.report import code, write_report
from residency.evals.run import Completion, evaluate
from residency.records import RunFolder

HOSTILE = '<script>alert(1)</script> | `x` ``` & "q" $x_1$ {{ 7 * 7 }}'


class Page(HTMLParser):
    """The text that a reader sees, and the tags."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text())
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def run(finished_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(finished_run.path, tmp_path / "smart-home")))


def test_a_finished_run_has_everything_on_one_page(run: RunFolder) -> None:
    path = write_report(run)
    page = Page(path)
    assert path == run / "report.html"
    for words in (
        "of 150 test answers are right, up from", "Tuning helped", "95 % interval", "McNemar", "base-6-shot",
        "unseen_wordings", "10 answers side by side", "best: step 160", "Learning rate", "Gradient norm",
        "train.learning_rate", "1e-3, from the rule", "Rows dropped", "3 of 1,503 training rows are longer",
        "Peak memory", "1.80\N{NO-BREAK SPACE}GiB", "612 tokens/s", "plan card", "2.13.0+cpu",
        "Ship with adapter scale 0.75, not as it is", "What was forgotten", "over 0.15", "Must be kept", "1.080 times",
        "because they share words with the task: 1 of 129 general prompts", "step 20: OK",
        "beyond the answers to the tests took 42.0 s, 18.6 % of the training time",
        "Where it holds", "of prompts like the training data", "neighbours intact", "answer to question",
        "where json_match says its text is right", "the form of the answer is what was trained (8)",
        "of 50 training rows can be drawn out",
    ):  # fmt: skip
        assert " ".join(words.split()) in page.text, words


def test_the_headline_is_against_the_best_of_the_untuned_models(run: RunFolder) -> None:
    title = re.search(r"<h1>(.*?)</h1>", write_report(run).read_text())
    assert title is not None
    assert title[1].replace("\N{NO-BREAK SPACE}", " ") == "93.3 % of 150 test answers are right, up from 8.7 %."


def test_the_page_needs_nothing_from_elsewhere_and_no_script(run: RunFolder) -> None:
    page, source = Page(write_report(run)), (run / "report.html").read_text()
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in source
    assert "url(http" not in source


def test_pictures_are_whole_keep_their_text_and_follow_the_theme(run: RunFolder) -> None:
    pictures = re.findall(r"<svg.*?</svg>", write_report(run).read_text(), re.DOTALL)
    assert len(pictures) == 6
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert "<text" in picture
        assert "var(--" in picture
        assert not re.search(r"#0[1-5]0[1-5]0[1-5]", picture)
    ids = [name for picture in pictures for name in re.findall(r'<clipPath id="([^"]+)"', picture)]
    assert len(ids) == len(set(ids))


def test_markdown_says_the_same(run: RunFolder) -> None:
    write_report(run)
    text = (run / "report.md").read_text()
    assert "up from 8.7\N{NO-BREAK SPACE}%" in text
    assert "## Before and after" in text
    assert "| trained prompt | 8 | " in text
    assert "| train.learning\\_rate | 0.001 | LoRA on 135 M" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1


def test_the_same_run_gives_the_same_report(run: RunFolder) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_data_is_shown_and_never_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "hostile")
    run.path.mkdir()
    rows = [
        Example(Origin("t", row), ({"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}))
        for row in range(3)
    ]
    run.say("odd", HOSTILE, level="warning")
    for model in ("base", "tuned"):
        answers = [Completion(HOSTILE if model == "tuned" else "<b>no</b>", True, 1) for _ in rows]
        graders = [StringCheck(name=HOSTILE)]
        run.write(f"eval/test.{model}.json", evaluate(HOSTILE, model, rows, lambda _, a=answers: a, graders))
    page = Page(write_report(run))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert "49" not in page.text
    assert HOSTILE in page.text
    assert "row 1" in page.text  # as files and `residency eval` count them
    assert "row 0" not in page.text
    markdown = (run / "report.md").read_text()
    outside = re.sub(r"^(`{3,})\n.*?\n\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in outside
    assert "````\n" in markdown


def test_a_folder_with_nothing_in_it_yet_gets_a_report(tmp_path: Path) -> None:
    page = Page(write_report(RunFolder(tmp_path)))
    assert "This run has not finished" in page.text
    assert "Nothing has been trained yet" in page.text


def test_an_unfinished_run_shows_what_there_is(run: RunFolder) -> None:
    (run / "summary.json").unlink()
    shutil.rmtree(run / "eval")
    page = Page(write_report(run))
    assert "This run has not finished" in page.text
    assert "188 training steps so far" in page.text
    assert "held-out loss went from" in page.text


def test_a_failed_run_says_why_and_what_to_do(run: RunFolder) -> None:
    (run / "summary.json").unlink()
    shutil.rmtree(run / "eval")
    run.fail(DataError("3 rows cannot be used", hint="correct them", problems=["train.jsonl:7: no answer"]))
    write_report(run)
    for text in (Page(run / "report.html").text, (run / "report.md").read_text()):
        assert "This run failed after 188 training steps." in text
        assert "3 rows cannot be used" in text
        assert "train.jsonl:7: no answer" in text
        assert "correct them" in text


def test_one_model_alone_is_reported_without_a_comparison(run: RunFolder) -> None:
    for path in (run / "eval").glob("*"):
        if path.name != "test.base.json":
            path.unlink()
    page = Page(write_report(run))
    assert "without a before and after" in page.text
    assert "base on test: 0.0" in page.text
    assert "## Results" in (run / "report.md").read_text()


@pytest.mark.parametrize(
    ("right_after", "verdict"), [(0, "Tuning made it worse"), (30, "No difference could be shown")]
)
def test_a_run_without_a_gain_says_so(tmp_path: Path, right_after: int, verdict: str) -> None:
    rows = [
        Example(Origin("t", row), ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}))
        for row in range(60)
    ]
    run = RunFolder(tmp_path)
    for model, right in (("base", 30), ("tuned", right_after)):
        answers = [Completion("a" if row < right else "b", True, 1) for row in range(60)]
        run.write(f"eval/test.{model}.json", evaluate("test", model, rows, lambda _, a=answers: a, [StringCheck()]))
    assert verdict in Page(write_report(run)).text


def test_answers_that_could_not_be_graded_or_were_cut_are_counted(tmp_path: Path) -> None:
    rows = [Example(Origin("t", 1), ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}))] * 4
    grader = Python(source="def grade(sample, item):\n    return 1 if sample['output_text'] == 'a' else None")
    answers = [Completion("a", True, 1), Completion("b", False, 9), Completion("b", True, 1), Completion("a", True, 1)]
    run = RunFolder(tmp_path)
    run.write("eval/test.base.json", evaluate("test", "base", rows, lambda _: answers, [grader]))
    text = Page(write_report(run)).text
    assert "python could not grade 2 of 4 answers of base on test, which counts as 0." in text
    assert "NoneType, not a number" in text
    assert "1 of 4 answers of base on test stopped at the token limit." in text


def test_tests_with_different_rows_are_not_compared_and_it_is_said(run: RunFolder) -> None:
    rows = [Example(Origin("t", 1), ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}))]
    other = evaluate("test", "base", rows, lambda _: [Completion("a", True, 1)], [StringCheck(name="json_match")])
    run.write("eval/test.base.json", other)
    assert "answered different rows" in Page(write_report(run)).text


def test_a_damaged_or_missing_folder_is_an_error(run: RunFolder, tmp_path: Path) -> None:
    (run / "eval" / "test.tuned.json").write_text('{"test": ')
    with pytest.raises(RunError, match=r"test\.tuned\.json"):
        write_report(run)
    with pytest.raises(RunError, match="no run folder"):
        write_report(RunFolder(tmp_path / "nowhere"))


def test_parallel_lines_stand_at_their_values_and_labels_keep_apart() -> None:
    columns: dict[str, list[float | str]] = {"rank": [4.0, 8.0, 8.0], "kind": ["a", "b", "a"], "loss": [1.0, 1.01, 2.0]}
    picture = str(plots.parallel(columns, 0))
    assert "rank" in picture
    assert ">1.01<" not in picture  # too near to the best one's 1
    assert ">2<" in picture


def test_commands_in_a_finding_are_set_as_code_and_nothing_else_is_markup() -> None:
    assert code("use `--fix` <now>") == "use <code>--fix</code> &lt;now&gt;"


def test_on_the_map_no_name_covers_that_of_a_larger_topic() -> None:
    points = [{"x": x, "y": y, "topic": topic} for topic, (x, y) in enumerate([(0, 0), (0.001, 0), (1, 1)])]
    drawn = str(plots.topic_map(points, [{"name": name} for name in ("boats", "ships", "bread")]))
    assert "boats" in drawn
    assert "ships" not in drawn
    assert "bread" in drawn
