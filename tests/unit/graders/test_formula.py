import math

import pytest

from residency.errors import GraderError
from residency.graders.formula import compute, parse_formula

SCORES = {"a": 0.5, "b": 2.0}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a + b * 2", 4.5),
        ("(a + b) / 2", 1.25),
        ("2 ^ 3 + 1", 9),
        ("-a ^ 2", -0.25),
        ("b ** 2", 4),
        ("min(a, b, 0.1)", 0.1),
        ("max(a)", 0.5),
        ("abs(-a)", 0.5),
        ("floor(1.9) + ceil(1.1)", 3),
        ("sqrt(4) + exp(0)", 3),
        ("log(exp(2))", 2),
        (" 0.3 * a\n", 0.15),
    ],
)
def test_arithmetic_means_what_it_does_on_paper(formula: str, value: float) -> None:
    assert math.isclose(compute(parse_formula(formula, SCORES), SCORES), value)


@pytest.mark.parametrize(
    "formula",
    ["", "a +", "c", "a if b else 1", "a.real", "a[0]", "__import__('os')", "open('x')", "min()", "sqrt(1, 2)",
     "log(1, base=2)", "'a' * 9", "a and b", "a < b", "lambda: 1", "[a]", "a % b", "a // b", "True", "1j",
     "(a := 1)", "a" + " + a" * 5_000, "(" * 500 + "a" + ")" * 500],
)  # fmt: skip
def test_anything_else_is_refused_before_a_run(formula: str) -> None:
    with pytest.raises(GraderError) as caught:
        parse_formula(formula, SCORES)
    assert "a, b" in (caught.value.hint or "")


@pytest.mark.parametrize("formula", ["1 / (a - a)", "sqrt(-1)", "log(0)", "9 ^ 9 ^ 9", "(-1) ^ 0.5"])
def test_a_formula_without_a_value_says_so_quickly(formula: str) -> None:
    with pytest.raises((ArithmeticError, ValueError)):
        compute(parse_formula(formula, SCORES), SCORES)
