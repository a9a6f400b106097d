"""Detectron2's YAML files compute some lists by ``!!python/object/apply:eval``; here that is arithmetic and no more."""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Iterator
from typing import Any

import yaml

from scaleprior.errors import UserError

__all__ = ["ArithmeticLoader", "evaluate"]

_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow,
}  # fmt: skip
_LARGEST = 1e9  # operands beyond this are no config; it also bounds the work of **
_MOST_STEPS = 10_000  # values computed on the way; Detectron2's longest expression takes 50


def evaluate(text: str) -> Any:
    """The value of numbers, ``+ - * / // **``, lists and list comprehensions over numbers; executes nothing.

    A tuple becomes a list.

    Raises:
        UserError: anything else.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, {}, itertools.count(1))
    except (SyntaxError, ArithmeticError, TypeError, ValueError, RecursionError, MemoryError) as e:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        raise UserError(f"cannot compute {shown!r}: {e or 'too deep'}", hint="write the numbers out") from e


def _value(node: ast.expr, names: dict[str, float], steps: Iterator[int]) -> Any:
    if next(steps) > _MOST_STEPS:
        raise ArithmeticError(f"it takes more than {_MOST_STEPS} steps")
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, names, steps)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, names, steps), _value(node.right, names, steps)
        too_large = isinstance(node.op, ast.Pow) and (abs(left) > 1000 or abs(right) > 20)
        if too_large or not all(isinstance(v, (int, float)) and abs(v) <= _LARGEST for v in (left, right)):
            raise ArithmeticError("only numbers of a moderate size can be combined")
        result = _OPERATORS[type(node.op)](left, right)
        if isinstance(result, complex):
            raise ArithmeticError(f"{left} ** {right} is no real number")
        return result
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(each, names, steps) for each in node.elts]
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.ListComp) and len(node.generators) == 1:
        (loop,) = node.generators
        if isinstance(loop.target, ast.Name) and not loop.ifs:
            items = _value(loop.iter, names, steps)
            # Over lists the result could double with each level, without a step more.
            if isinstance(items, list) and all(isinstance(item, (int, float)) for item in items):
                return [_value(node.elt, {**names, loop.target.id: item}, steps) for item in items]
    raise ArithmeticError(f"{ast.unparse(node)[:80]} is more than arithmetic")


class ArithmeticLoader(yaml.SafeLoader):
    """PyYAML's safe loader that knows Detectron2's ``eval`` tag."""


def _evaluate_tag(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise UserError(f"a YAML eval tag with {arguments!r}", hint="write the numbers out")
    return evaluate(arguments[0])


ArithmeticLoader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _evaluate_tag)
