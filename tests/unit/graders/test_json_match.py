import pytest

from residency.graders.json_match import field_scores, is_json, json_match, share_of_equal_fields


@pytest.mark.parametrize(
    ("output", "reference", "same"),
    [
        ('{"a": 1, "b": [1, 2]}', '{ "b":[1,2], "a":1 }', True),
        ("1", "1.0", True),
        ('{"a": 1}', '{"a": 1.0}', True),
        ('{"a": true}', '{"a": 1}', False),
        ("[1, 2]", "[2, 1]", False),
        ('{"a": 1}', '{"a": 1, "b": null}', False),
        ('"é"', '"\\u00e9"', True),
        ('```json\n{"a": 1}\n```', '{"a": 1}', False),
        ("not json", "not json", False),
        ("NaN", "NaN", False),
        ("", "", False),
        ("[" * 100_000, "[]", False),
    ],
)
def test_two_texts_match_where_their_json_means_the_same(output: str, reference: str, same: bool) -> None:
    assert json_match(output, reference) is same


def test_what_is_json() -> None:
    assert is_json("{}")
    assert is_json(" null ")
    assert not is_json("{'a': 1}")
    assert not is_json("[1] tail")


def test_nested_objects_count_by_their_innermost_fields() -> None:
    reference = '{"intent": "on", "slots": {"area": "kitchen", "name": "lamp"}, "tags": [1, 2]}'
    output = '{"intent": "on", "slots": {"area": "garage", "extra": 1}, "tags": [1, 2]}'
    assert field_scores(output, reference) == {
        "intent": True, "slots.area": False, "slots.name": False, "slots.extra": False, "tags": True,
    }  # fmt: skip
    assert share_of_equal_fields(output, reference) == 2 / 5


@pytest.mark.parametrize("output", ["Sure!", "[]", '"x"', "{}"])
def test_an_output_without_the_fields_has_all_of_them_wrong(output: str) -> None:
    assert field_scores(output, '{"a": 1, "b": {"c": 2}}') == {"a": False, "b.c": False}


def test_a_value_where_an_object_belongs_is_wrong() -> None:
    assert field_scores('{"a": 5}', '{"a": {"b": 1}}') == {"a.b": False}


def test_a_text_that_is_no_object_is_one_field() -> None:
    assert field_scores("[1, 2]", "[1, 2]") == {"": True}
    assert share_of_equal_fields("{}", "{}") == 1.0


def test_dots_in_keys_do_not_collide_with_nesting() -> None:
    assert field_scores('{"a.b": 1, "a": {"b": 2}}', '{"a.b": 1, "a": {"b": 3}}') == {'"a.b"': True, "a.b": False}
