"""The arithmetic of a `multi` grader: parsed to a tree, checked node by node, and computed without `eval`."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping

from residency.errors import GraderError

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
SEVERAL_ARGUMENTS = ("min", "max")
LONGEST_CHARACTERS = 10_000


def parse_formula(text: str, names: Collection[str]) -> ast.expr:
    """The formula as a checked tree; `names` are the scores it may use.

    Raises GraderError where it is anything but + - * / ^, parentheses, numbers, the names and the eight functions.
    """
    if len(text) > LONGEST_CHARACTERS:
        raise _wrong(text, f"it is longer than {LONGEST_CHARACTERS:,} characters", names)
    try:
        # `^` is the power here, as on paper; Python's own `^` binds weaker than `+`.
        tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _wrong(text, "it cannot be read", names) from None
    _check(tree, text, names)
    return tree


def compute(node: ast.expr, scores: Mapping[str, float]) -> float:
    """The value of a tree from `parse_formula`. Raises ArithmeticError or ValueError where it has none, as 1 / 0."""
    match node:
        case ast.Constant():
            return float(node.value)  # type: ignore[arg-type]  # _check let only numbers through
        case ast.Name():
            return scores[node.id]
        case ast.UnaryOp():
            value = compute(node.operand, scores)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp():
            return OPERATORS[type(node.op)](compute(node.left, scores), compute(node.right, scores))
        case ast.Call(func=ast.Name(id=function)):
            arguments = [compute(argument, scores) for argument in node.args]
            return FUNCTIONS[function](arguments if function in SEVERAL_ARGUMENTS else arguments[0])
    raise AssertionError(f"unchecked {ast.dump(node)}")


def _check(node: ast.expr, text: str, names: Collection[str]) -> None:
    match node:
        case ast.Constant() if type(node.value) in (int, float):
            return None
        case ast.Name() if node.id in names:
            return None
        case ast.Name():
            raise _wrong(text, f"there is no grader `{node.id}`", names)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            return _check(node.operand, text, names)
        case ast.BinOp() if type(node.op) in OPERATORS:
            _check(node.left, text, names)
            return _check(node.right, text, names)
        case ast.Call(func=ast.Name(id=function), keywords=[]) if function in FUNCTIONS:
            if not node.args or (len(node.args) > 1 and function not in SEVERAL_ARGUMENTS):
                raise _wrong(
                    text,
                    f"`{function}` takes {'one or more values' if function in SEVERAL_ARGUMENTS else 'one value'}",
                    names,
                )
            for argument in node.args:
                _check(argument, text, names)
            return None
    raise _wrong(text, f"`{ast.unparse(node)}` is not allowed", names)


def _wrong(text: str, reason: str, names: Collection[str]) -> GraderError:
    return GraderError(
        f"the formula {text[:200]!r} is wrong: {reason}",
        param="calculate_output",
        hint=f"use + - * / ^, numbers, {', '.join(FUNCTIONS)}, and the graders {', '.join(sorted(names))}",
    )
