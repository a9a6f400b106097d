"""Detectron2's YAML files compute some lists by ``!!python/object/apply:eval``; here that is arithmetic and no more."""

from __future__ import annotations

import ast
import itertools
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import yaml

from scaleprior.errors import UserError
from scaleprior.wording import one_line, shown

__all__ = ["ArithmeticLoader", "ArithmeticTextError", "evaluate"]

_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow,
}  # fmt: skip
_LARGEST = 1e9  # operands beyond this are no config; it also bounds the work of **
_MOST_STEPS = 10_000  # values computed on the way, for a whole file; Detectron2's longest expression takes 50
_LONGEST = 10_000  # characters: Python's parser takes a thousand times their room


class ArithmeticTextError(UserError):
    """A text that is no arithmetic; whoever knows says where it stands."""


def evaluate(text: str, steps: Iterator[int] | None = None) -> Any:
    """The value of numbers, ``+ - * / // **``, lists and list comprehensions over numbers; executes nothing.

    A tuple becomes a list.

    Args:
        steps: counts the values computed on the way, 1 first; None begins anew.

    Raises:
        ArithmeticTextError: anything else, or more than 10,000 steps.
    """
    try:
        if len(text) > _LONGEST:
            raise ArithmeticError(f"{len(text):,} characters, at most {_LONGEST:,} are read")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "1is 2", which nobody wrote as Python
            tree = ast.parse(text.strip(), mode="eval")
        return _value(tree.body, {}, steps or itertools.count(1))
    except (SyntaxError, ArithmeticError, TypeError, ValueError, RecursionError, MemoryError) as e:
        why = one_line(e) if str(e) else "too deep"
        raise ArithmeticTextError(f"cannot compute {shown(text, 200)}: {why}", hint="write the numbers out") from e


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
    """PyYAML's safe loader that knows Detectron2's ``eval`` tag; one is for one text.

    Attributes:
        steps: counts what all expressions of the text take.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.steps = itertools.count(1)


def _evaluate_tag(loader: ArithmeticLoader, node: yaml.Node) -> Any:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise ArithmeticTextError(f"a YAML eval tag with {shown(arguments)}", hint="write the numbers out")
    return evaluate(arguments[0], loader.steps)


ArithmeticLoader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _evaluate_tag)
