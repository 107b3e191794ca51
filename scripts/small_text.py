"""Text to train on, out of files and folders: plain text, HTML and Mallard pages, dictd dictionaries, JSON lines, any
of them gzipped. Paragraphs become single lines, as in WikiText; what a page says beside its text is left out."""

import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

__all__ = ["pieces_of", "spaced"]

PIECE_CHARS = 6000  # what is shuffled: a dictionary of 40 MB is not one document
_MARKUP = (".html", ".htm", ".xhtml", ".page")
_PLAIN = (".txt", ".dict", ".info", ".jsonl", "")
_SILENT = {"script", "style", "head", "nav", "pre", "table"}  # code and tables are not prose
_BLOCKS = {"p", "div", "li", "br", "h1", "h2", "h3", "h4", "h5", "h6", "dd", "dt", "blockquote", "title", "item"}


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.depth = 0  # of silent elements

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.depth += tag in _SILENT
        self.parts += ["\n\n"] * (tag in _BLOCKS)

    def handle_endtag(self, tag: str) -> None:
        self.depth = max(0, self.depth - (tag in _SILENT))
        self.parts += ["\n\n"] * (tag in _BLOCKS)

    def handle_data(self, data: str) -> None:
        if not self.depth:
            self.parts.append(data)


def pieces_of(source: Path, max_bytes: int) -> list[str]:
    """Pieces of a file's or folder's text, evenly out of all of it where it has more than max_bytes."""
    files = [source]
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    pieces = [piece for path in files for piece in _pieces(_paragraphs(path))]
    total = sum(map(len, pieces))
    share = min(1.0, max_bytes / max(total, 1))
    return [piece for i, piece in enumerate(pieces) if int((i + 1) * share) > int(i * share)]


def _paragraphs(path: Path) -> Iterator[str]:
    name = path.name.lower()
    is_zipped = name.endswith((".gz", ".dz"))
    kind = Path(name[:-3]).suffix if is_zipped else Path(name).suffix
    if kind not in _MARKUP + _PLAIN or "changelog" in name or "copyright" in name:
        return
    raw = gzip.decompress(path.read_bytes()) if is_zipped else path.read_bytes()
    if b"\0" in raw[:4096]:
        return
    text = raw.decode(errors="ignore")
    if kind in _MARKUP:
        parser = _Text()
        parser.feed(text)
        text = "".join(parser.parts)
    elif kind == ".jsonl":
        text = "\n\n".join(" ".join(map(str, json.loads(line).values())) for line in text.splitlines())
    entries = r"|\n(?=\S)" if kind == ".dict" else ""
    for paragraph in re.split(rf"\n\s*\n|\n%\n{entries}", re.sub(r"[{}]|<<[^>]*>>", "", text)):
        line = " ".join(paragraph.split())
        if len(line) >= 40 and sum(map(str.isalpha, line)) > 0.7 * len(line.replace(" ", "")):
            yield line


def _pieces(paragraphs: Iterator[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for line in paragraphs:
        held.append(line)
        size += len(line)
        if size >= PIECE_CHARS:
            yield "\n".join(held)
            held, size = [], 0
    if held:
        yield "\n".join(held)


def spaced(text: str) -> str:
    """WikiText's typesetting: punctuation stands apart, and what joins words or digits is marked by @."""
    text = re.sub(r"(?<=\w)-(?=\w)", " @-@ ", text)
    text = re.sub(r"(?<=\d)([.,])(?=\d)", r" @\1@ ", text)
    text = re.sub(r"(?<!@)([,;:!?()\[\]\"“”%$&]|\.(?!\w))(?!@)", r" \1 ", text)
    text = re.sub(r"(?<=\w)('(?:s|t|re|ve|ll|d|m)\b)", r" \1", text)
    return "\n".join(f" {' '.join(line.split())} " for line in text.split("\n"))
