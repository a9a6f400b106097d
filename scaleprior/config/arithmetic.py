"""Detectron2's YAML files compute some lists by ``!!python/object/apply:eval``; here that is arithmetic and no more."""

from __future__ import annotations

import ast
import operator
from typing import Any

import yaml

from scaleprior.errors import UserError

__all__ = ["ArithmeticLoader", "evaluate"]

_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow,
}  # fmt: skip
_LARGEST = 1e9  # operands beyond this are no config; it also bounds the work of **
_LONGEST = 1000


def evaluate(text: str) -> Any:
    """The value of numbers, ``+ - * / // **``, lists, tuples and list comprehensions over them; executes nothing.

    Raises:
        UserError: anything else.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, {})
    except (SyntaxError, ArithmeticError, TypeError, RecursionError) as e:
        raise UserError(f"cannot compute {text!r}: {e}", hint="write the numbers out") from e


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, names)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, names), _value(node.right, names)
        too_large = isinstance(node.op, ast.Pow) and (abs(left) > 1000 or abs(right) > 20)
        if too_large or not all(isinstance(v, (int, float)) and abs(v) <= _LARGEST for v in (left, right)):
            raise ArithmeticError("only numbers of a moderate size can be combined")
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(each, names) for each in node.elts]
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.ListComp) and len(node.generators) == 1:
        (loop,) = node.generators
        if isinstance(loop.target, ast.Name) and not loop.ifs:
            items = _value(loop.iter, names)
            if isinstance(items, list) and len(items) <= _LONGEST:
                return [_value(node.elt, {**names, loop.target.id: item}) for item in items]
    raise ArithmeticError(f"{ast.unparse(node)} is more than arithmetic")


class ArithmeticLoader(yaml.SafeLoader):
    """PyYAML's safe loader that knows Detectron2's ``eval`` tag."""


def _evaluate_tag(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise UserError(f"a YAML eval tag with {arguments!r}", hint="write the numbers out")
    return evaluate(arguments[0])


ArithmeticLoader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _evaluate_tag)
