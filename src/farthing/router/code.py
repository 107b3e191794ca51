"""What code in an answer shows of itself: does it parse, is it whole, does it define what was asked for.

Python is read into a syntax tree, JSON by its parser, of other languages only brackets are counted. Nothing is ever
compiled or run: what stands in an answer is data.
"""

import ast
import builtins
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import log1p

import numpy as np
from numpy.typing import NDArray

__all__ = ["CODE_NAMES", "code_checks", "code_in"]

MAX_CHARS = 8_000  # of a prompt and of an answer: a syntax tree of them takes milliseconds
MAX_RUN = 90  # of signs in a row that nest without brackets, such as "- - - x"; brackets the parser bounds itself

CODE_NAMES = (
    "has_code", "asks_code", "no_code_though_asked", "is_python", "no_parse", "is_unclosed", "open_brackets",
    "log_lines", "defines_asked", "lacks_asked", "lacks_arguments", "lacks_return", "only_placeholder", "unknown_names",
    "unused_arguments", "json_broken", "num_blocks",
)  # fmt: skip

_FENCE = re.compile(r"^[ ]{0,3}```+[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ ]{0,3}```+[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_ASKED = re.compile(r"^[ ]{0,3}(?:async[ ]+)?def[ ]+(\w+)[ ]*\(", re.MULTILINE)
_NAMED = re.compile(r"\b(?:function|method|procedure)\s+(?:named\s+|called\s+)?[`\"']?([A-Za-z_]\w*)[`\"']?\s*\(")
_WANTS = re.compile(r"\b(?:write|implement|complete|fix|code|program|function|script|class|regex|sql|query)\b", re.I)
_WRITES = re.compile(r"\b(?:write|implement|code|program|python|javascript)\b", re.I)
_IS_PYTHON = re.compile(r"^\s*(?:def |class |import |from \w+ import |return\b|for .+:$|if .+:$|@\w)", re.MULTILINE)
_RUN = re.compile(rf"(?:[-+~]\s*|\bnot\s+|\blambda\s*:\s*|\bawait\s+){{{MAX_RUN},}}")
_PAIRS = {")": "(", "]": "[", "}": "{"}
_STRINGS = re.compile(r"(?s:\"{3}.*?\"{3}|'{3}.*?'{3})|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|//[^\n]*|#[^\n]*")
_KNOWN = frozenset(dir(builtins)) | {"self", "cls", "__file__"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Block:
    language: str  # as the fence says, lower case; "" where it does not
    text: str
    is_closed: bool  # its fence ends


def code_in(prompt: str, answer: str) -> list[Block]:
    """The fenced blocks; without one, the whole answer where it goes on with the prompt's code or is code itself."""
    blocks = [
        Block(match[1].lower(), match[2], match[0].rstrip(" \t").endswith("```"))
        for match in _FENCE.finditer(answer)
        if match[2].strip()
    ]
    if blocks:
        return blocks
    if _ASKED.search(prompt) and answer[:1] in (" ", "\t"):
        return [Block("python", answer, is_closed=True)]
    lines = [line for line in answer.splitlines() if line.strip()]
    if lines and _IS_PYTHON.match(lines[0]) and not lines[0].rstrip().endswith((".", "?")):
        return [Block("python", answer, is_closed=True)]
    return []


def code_checks(prompt: str, answer: str) -> NDArray[np.float64]:
    """In the order of CODE_NAMES; all 0 where there is no code and none was asked for."""
    prompt, answer = prompt[:MAX_CHARS], answer[:MAX_CHARS]
    asked = _asked(prompt)
    blocks = code_in(prompt, answer)
    asks = bool(asked) or (_WANTS.search(prompt) is not None and "```" in prompt)
    found = dict.fromkeys(CODE_NAMES, 0.0)
    found["asks_code"] = float(asks)
    found["no_code_though_asked"] = float(asks and not blocks)
    if blocks:
        found["has_code"] = 1.0
        found["num_blocks"] = float(min(len(blocks), 5))
        found["log_lines"] = log1p(sum(block.text.count("\n") for block in blocks))
        found["is_unclosed"] = float(not all(block.is_closed for block in blocks))
        found["open_brackets"] = float(min(sum(_open_brackets(block.text) for block in blocks), 5))
        found["json_broken"] = float(any(block.language == "json" and not _is_json(block.text) for block in blocks))
        found |= _of_python(prompt, blocks, asked)
    return np.array([found[name] for name in CODE_NAMES])


def _asked(prompt: str) -> str | None:
    """The function that the prompt leaves open (its last one), or names in words."""
    found: list[str] = _ASKED.findall(prompt)
    if not found and _WRITES.search(prompt):  # not every "function f(x)" is to be programmed
        found = _NAMED.findall(prompt)
    return found[-1] if found else None


def _of_python(prompt: str, blocks: list[Block], asked: str | None) -> dict[str, float]:
    texts = [block.text for block in blocks if _is_python(block)]
    if not texts:
        return {}
    tree = _parse(prompt, texts)
    if tree is None:
        return {"is_python": 1.0, "no_parse": 1.0}
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    found = {"is_python": 1.0, "unknown_names": float(min(len(_unknown(tree)), 5))}
    mine = [function for function in functions if function.name == asked]
    if asked is not None:
        found |= {"defines_asked": float(bool(mine)), "lacks_asked": float(not mine)}
    looked_at = mine or functions
    if looked_at:
        last = looked_at[-1]
        found["only_placeholder"] = float(_is_placeholder(last))
        found["lacks_return"] = float(not any(isinstance(node, ast.Return | ast.Yield) for node in ast.walk(last)))
        arguments = _arguments(last)
        found["lacks_arguments"] = float(bool(mine) and not arguments)
        read = {node.id for node in ast.walk(last) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        found["unused_arguments"] = float(min(len(arguments - read - {"self", "cls"}), 5))
    return found


def _is_python(block: Block) -> bool:
    if block.language:
        return block.language in ("python", "py", "python3")
    return _IS_PYTHON.search(block.text) is not None


def _parse(prompt: str, texts: list[str]) -> ast.Module | None:
    """The tree of all texts together, or of the prompt's open function with the text as its body; None where neither
    is Python."""
    text = "\n".join(texts)
    candidates = [text]
    if text.lstrip("\n")[:1] in (" ", "\t"):
        inside = _FENCE.search(prompt)
        candidates.insert(0, (inside[2] if inside else prompt) + "\n" + text)
    for candidate in candidates:
        if _RUN.search(candidate):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes and comparisons in somebody else's code
                return ast.parse(candidate)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def _unknown(tree: ast.Module) -> set[str]:
    """Names that are read and never bound anywhere in it; none where a star import may have brought them."""
    bound: set[str] = set(_KNOWN)
    read: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return set()
        bound.update(_binds(node))
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
    return read - bound


def _binds(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.arg():
            yield node.arg
        case ast.alias():
            yield (node.asname or node.name).split(".")[0]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name


def _arguments(function: Function) -> set[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {argument.arg for argument in every if argument is not None}


def _is_placeholder(function: Function) -> bool:
    """Nothing but a docstring, pass, ... or NotImplementedError."""
    for statement in function.body:
        match statement:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                continue
            case ast.Raise(exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name(id="NotImplementedError"))):
                continue
            case _:
                return False
    return True


def _open_brackets(text: str) -> int:
    """Brackets without a partner, those of strings and comments left out."""
    stack: list[str] = []
    num_wrong = 0
    for sign in _STRINGS.sub("", text):
        if sign in "([{":
            stack.append(sign)
        elif sign in _PAIRS:
            if stack and stack[-1] == _PAIRS[sign]:
                stack.pop()
            else:
                num_wrong += 1
    return num_wrong + len(stack)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
