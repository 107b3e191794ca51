"""What is known for free of a prompt's form: length, sentences, numbers, signs, options, code, words that bind.

All are cheap, smooth in the text, and know nothing of any benchmark; names and order belong to the file of a router.
"""

import re
from math import log1p

import numpy as np
from numpy.typing import NDArray

from farthing.models.grams import readable

__all__ = ["NAMES", "PRIOR_NAMES", "prior", "structure"]

# Comparison, condition, negation, restriction, order: the words that make steps depend on each other.
_BINDING = re.compile(r"\b(than|if|but|not|only|same|other|more|less|then|after|before|rest|half|unless|except)\b")
_HARD = re.compile(r"\b(not|except|least|false|incorrect|never|cannot)\b")
_SENTENCE = re.compile(r"[.!?](?=\s|$)")
_OPTION = re.compile(r"^\s*\(?[A-Ja-j][.):]\s*(.*)$", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SIGNS = re.compile(r"[=+*/^<>\\|~∈√≤≥≠∀∃×÷→∨∧¬⊃·∫∑π]")
_CODE = re.compile(r"```|[{};]|\b(?:def|return|import|class|void|int|print|SELECT)\b|\(\)")
_WORDS = re.compile(r"[^\W\d_]+")
_PERSON = re.compile(r"\b(he|she|they|his|her|their|him|man|woman)\b")
_SPEAKER = re.compile(r"\b(i|my|me|you|your)\b")
_ASKING = re.compile(r"\b(why|how|explain|prove|derive|compare|describe)\b")
_WHOLE = re.compile(r"\b(?:all|none|both) of\b|\bneither\b")

NAMES = (
    "log_chars", "log_letters", "log_body_chars", "log_option_chars", "log_option_spread", "num_options",
    "log_words", "log_distinct_words", "distinct_share", "mean_word_chars", "long_word_share", "log_binding_words",
    "log_sentences", "log_lines", "digit_share", "log_numbers", "log_body_numbers", "option_number_share",
    "sign_share", "log_code", "upper_share", "comma_share", "quote_share", "asks", "has_blank", "is_negated",
    "asks_how", "has_whole", "log_persons", "log_speakers", "ends_with_question",
)  # fmt: skip
PRIOR_NAMES = ("log_letters", "log_binding_words")
_PRIOR = [NAMES.index(name) for name in PRIOR_NAMES]


def structure(prompt: str) -> NDArray[np.float64]:
    """The prompt's form as numbers, in the order of NAMES."""
    text = readable(prompt)
    lower = text.lower()
    options = _OPTION.findall(text) if "\n" in text else []
    options = options if len(options) > 1 else []
    first = next(_OPTION.finditer(text), None) if options else None
    body = text[: first.start()] if first and first.start() else text
    found = _WORDS.findall(lower)
    num_chars, num_words = max(len(text), 1), max(len(found), 1)
    lengths = [len(option) for option in options] or [0]
    distinct = len(set(found))
    letters = sum(map(len, found))
    return np.array(
        [
            log1p(len(prompt)), log1p(letters * len(prompt) / num_chars), log1p(len(body)),
            log1p(sum(lengths) / len(lengths)), log1p(max(lengths) - min(lengths)), min(len(options), 10),
            log1p(len(found)), log1p(distinct), distinct / num_words, letters / num_words,
            sum(len(word) > 8 for word in found) / num_words, log1p(len(_BINDING.findall(lower))),
            log1p(len(_SENTENCE.findall(text))), log1p(text.count("\n")),
            sum(map(len, _NUMBER.findall(text))) / num_chars, log1p(len(_NUMBER.findall(text))),
            log1p(len(_NUMBER.findall(body))),
            sum(bool(_NUMBER.search(option)) for option in options) / len(options) if options else 0,
            10 * len(_SIGNS.findall(text)) / num_chars, log1p(len(_CODE.findall(text))),
            5 * sum(map(str.isupper, text)) / num_chars, 10 * text.count(",") / num_chars,
            10 * text.count('"') / num_chars, "?" in body, "__" in body, bool(_HARD.search(body.lower())),
            bool(_ASKING.search(lower)), bool(_WHOLE.search(lower)), log1p(len(_PERSON.findall(lower))),
            log1p(len(_SPEAKER.findall(lower))), body.rstrip().endswith("?"),
        ],
        np.float64,
    )  # fmt: skip


def prior(form: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much a large model may be worth, before any label: how much there is to read, and how much of it binds.

    `form` is one prompt's structure or a row for each; the unit is arbitrary, only the order means something.
    """
    total: NDArray[np.float64] = form[..., _PRIOR].sum(axis=-1)
    return total
