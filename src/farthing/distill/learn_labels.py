"""What counts as an answer: the labels of a task, and which of them a large model's text names."""

from collections import Counter
from collections.abc import Iterable, Sequence

from farthing.report.compare_match import find_choice, normalized

__all__ = ["LabelFinder", "are_names", "seen_labels", "with_answers"]

MAX_LABEL_CHARS = 80


class LabelFinder:
    """The one label that a text names (itself, in JSON, in a sentence), None where it names none or several."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._found: dict[str, str | None] = {}  # answers repeat

    def find(self, text: str) -> str | None:
        if text not in self._found:
            self._found[text] = find_choice(text, self._labels)
        return self._found[text]


def are_names(labels: Sequence[str]) -> bool:
    """Whether answers can name each: letters or digits in all, and no two that differ in case or punctuation alone."""
    names = {normalized(label) for label in labels}
    return "" not in names and len(names) == len(labels)


def with_answers(known: Sequence[str], answers: Iterable[str]) -> tuple[str, ...]:
    """`known` and, behind them, the answers that name none of them and could be labels."""
    finder, there, new = LabelFinder(known), {normalized(label) for label in known}, []
    for text in dict.fromkeys(answer.strip() for answer in answers):
        name = normalized(text)
        if _is_name(text) and name not in there and finder.find(text) is None:
            there.add(name)
            new.append(text)
    return (*known, *new)


def seen_labels(answers: Iterable[str], known: Sequence[str], least: int) -> tuple[str, ...]:
    """`known` and, behind them in order, what was answered `least` times: short answers of one line."""
    texts = Counter(text for answer in answers if (text := answer.strip()))
    spelled: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for text, count in texts.most_common():
        name = normalized(text)
        if _is_name(text):
            spelled.setdefault(name, text)
            counts[name] += count
    there = {normalized(label) for label in known}
    new = sorted(spelled[name] for name, count in counts.items() if count >= least and name not in there)
    return (*known, *new)


def _is_name(text: str) -> bool:
    is_plain = "\n" not in text and not text.startswith(("{", "["))
    return is_plain and len(text) <= MAX_LABEL_CHARS and bool(normalized(text))
