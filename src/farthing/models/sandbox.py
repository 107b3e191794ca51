"""Jinja's sandbox with a budget: what a template may loop over, build and print is counted.

Jinja's own sandbox denies what reaches outside (attributes with underscores, unsafe calls, ranges above 100,000), but a
template of one line can still loop for hours or fill the memory. So the tree of a template is changed once, before it
is compiled: loops, printed pieces and joined strings pass through the filters `_counted`, `_printed` and `_sized`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import do_join
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

__all__ = ["BudgetExceeded", "Refused", "budget", "environment"]

MAX_STEPS = 200_000  # rounds of loops, items filtered and calls, of one rendering together
MAX_SIZE = 16_000_000  # characters printed in one rendering; of a string, or items of a list
MAX_NUMBER = 10_000  # a number given to a filter or to a method of a string (widths, indents, counts)
MAX_BITS = 4096  # of a computed integer
_WIDTH = re.compile(r"[0-9]{5,}|\*|:[^{}]*\{")  # in a format: a wide width, or one that comes from an argument


class Refused(TemplateError):
    """The template called raise_exception: it does not take these messages."""


class BudgetExceeded(Exception):
    """A limit above is passed. The message completes "the model's chat template ..."."""


class _Spent:
    steps = 0
    printed = 0


_spent: ContextVar[_Spent] = ContextVar("spent")


@contextmanager
def budget() -> Iterator[None]:
    """Whatever is rendered inside shares one budget."""
    token = _spent.set(_Spent())
    try:
        yield
    finally:
        _spent.reset(token)


def _step(times: int = 1) -> None:
    spent = _spent.get()
    spent.steps += times
    if spent.steps > MAX_STEPS:
        raise BudgetExceeded(f"takes more than {MAX_STEPS} steps")


def _fits(size: int) -> None:
    if size > MAX_SIZE:
        raise BudgetExceeded(f"builds more than {MAX_SIZE} characters")


# pass_context keeps these three from being computed when the template is compiled.
@pass_context
def _counted(_: Context, items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        _step()
        yield item


@pass_context
def _printed(_: Context, value: Any) -> Any:
    spent = _spent.get()
    spent.printed += len(value) if isinstance(value, str) else 1
    _fits(spent.printed)
    return value


@pass_context
def _sized(_: Context, value: Any) -> Any:
    return _checked(value)


def _checked(value: Any) -> Any:
    if isinstance(value, str | list | tuple):
        _fits(len(value))
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise BudgetExceeded(f"computes with integers of more than {MAX_BITS} bits")
    return value


def _check_text_call(name: str, text: str, args: tuple[Any, ...]) -> None:
    """Of a method or filter on text: what it would build, before it does."""
    if any(isinstance(number, int) and abs(number) > MAX_NUMBER for number in args):
        raise BudgetExceeded(f"calls {name} with a number above {MAX_NUMBER}")
    if name in ("format", "format_map", "%") and _WIDTH.search(text):
        raise BudgetExceeded("formats with a width out of range")
    if name == "replace" and len(args) >= 2:
        _fits(len(text) + (text.count(str(args[0]))) * len(str(args[1])))
    if name == "join" and args and isinstance(args[0], list | tuple):
        _fits(sum(len(str(item)) for item in args[0]) + len(text) * len(args[0]))


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter with its arguments and its result checked."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # where the filtered value stands

    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        value = args[first] if len(args) > first else None
        text = value if isinstance(value, str) else ""
        if isinstance(value, list | tuple | dict | range):
            _step(len(value))
        _check_text_call(name, text, (*args[first + 1 :], *kwargs.values()))
        return _checked(function(*args, **kwargs))

    return limited


def _join(eval_context: Any, items: Iterable[Any], d: str = "", attribute: Any = None) -> Any:
    rows = [items] if isinstance(items, str) else list(items)
    if attribute is None:
        _check_text_call("join", d, (rows,))
    return do_join(eval_context, rows, d, attribute)


class _Budgeted(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter("_counted", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter("_sized", node)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filter("_printed", _constant(child)) for child in node.nodes]
        return node


def _constant(node: nodes.Expr) -> nodes.Expr:
    return nodes.Const(node.data, lineno=node.lineno) if isinstance(node, nodes.TemplateData) else node


def _filter(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str | list | tuple) and isinstance(times, int):
                    _fits(len(many) * times)
        if operator == "**" and (abs(left) > 2**64 or abs(right) > 64):
            raise BudgetExceeded("raises a number to a power out of range")
        if operator == "%" and isinstance(left, str):
            _check_text_call("%", left, ())
        return _checked(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _step()
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str):
            _check_text_call(getattr(__obj, "__name__", ""), text, (*args, *kwargs.values()))
        return _checked(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_text_call("format", value.__self__, ())
        return wrapped

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Budgeted().visit(tree)
        return tree


class _Generation(Extension):
    """{% generation %}...{% endgeneration %} marks the assistant's text for training; here it only prints it."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own protocol

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise Refused(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is; Jinja's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox that templates are compiled in; render inside `budget()`."""
    made = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation])
    _join.jinja_pass_arg = do_join.jinja_pass_arg  # type: ignore[attr-defined]
    made.filters.update(tojson=_tojson, join=_join)
    for name in set(made.filters) - {"default", "d"}:
        made.filters[name] = _limited(name, made.filters[name])
    made.filters.update(_counted=_counted, _printed=_printed, _sized=_sized)
    del made.globals["lipsum"]  # a generator of filler text of any length
    made.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return made
