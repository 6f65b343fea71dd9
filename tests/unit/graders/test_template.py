import pytest

from residency.errors import GraderError
from residency.graders.template import AnswerLacks, check_template, make_sample, render

ITEM = {"name": "Ada", "age": 36, "tags": ["a", {"b": "deep"}], "with space": "x", "none": None, "list-of": [1]}
TOOLS = [{"function": {"name": "turn_on", "arguments": "{}"}}]
SAMPLE = make_sample('{"x": {"y": [1, "zwei"]}}', TOOLS)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain } text {", "plain } text {"),
        ("{{ item.name }}", "Ada"),
        ("{{item.name}} is {{ item.age }}", "Ada is 36"),
        ("{{ item.tags }}", '["a", {"b": "deep"}]'),
        ("{{ item.tags[1].b }}", "deep"),
        ("{{ item.tags.0 }}", "a"),
        ("{{ item['with space'] }}", "x"),
        ("{{ item.list-of[0] }}", "1"),
        ("{{ item.none }}", "null"),
        ("{{ sample.output_text }}", '{"x": {"y": [1, "zwei"]}}'),
        ("{{ sample.output_json.x.y[1] }}", "zwei"),
        ("{{ sample.output_json.x }}", '{"y": [1, "zwei"]}'),
        ("{{ sample.output_tools[0].function.name }}", "turn_on"),
        ("{{ sample.choices[0].message.role }}", "assistant"),
    ],
)
def test_a_path_is_looked_up_and_what_is_no_string_is_put_in_as_json(template: str, text: str) -> None:
    assert render(template, ITEM, SAMPLE) == text


def test_values_are_not_templates_themselves() -> None:
    assert render("{{ item.x }}", {"x": "{{ item.secret }}", "secret": "s"}, SAMPLE) == "{{ item.secret }}"


@pytest.mark.parametrize(
    "template",
    ["{{ items.name }}", "{{ item.name", "{{ }}", "{{ 1 + 1 }}", "{{ item.name() }}", "{{ item.name | upper }}",
     "{{ item.__class__() }}", "{% if 1 %}{{ x }}", "{{ sample.output }}", "{{ namespace.item }}"],
)  # fmt: skip
def test_anything_but_a_path_below_item_or_sample_is_refused_before_a_run(template: str) -> None:
    with pytest.raises(GraderError):
        check_template(template)


def test_attributes_of_python_objects_cannot_be_reached() -> None:
    with pytest.raises(GraderError):
        render("{{ item.__class__ }}", ITEM, SAMPLE)


def test_a_field_that_the_row_lacks_is_an_error_that_lists_those_it_has() -> None:
    with pytest.raises(GraderError) as caught:
        render("{{ item.nmae }}", ITEM, SAMPLE)
    assert "item.nmae" in caught.value.message
    assert "name, age, tags" in (caught.value.hint or "")


@pytest.mark.parametrize("template", ["{{ sample.output_json.z }}", "{{ sample.output_tools[3].function.name }}"])
def test_a_part_that_the_answer_lacks_is_the_answers_fault(template: str) -> None:
    with pytest.raises(AnswerLacks):
        render(template, ITEM, SAMPLE)


def test_an_answer_that_is_no_json_has_no_output_json() -> None:
    with pytest.raises(AnswerLacks):
        render("{{ sample.output_json }}", ITEM, make_sample("Sure!"))
