"""Personal data that has a form: found by rule, so that traffic with it teaches no model.

Rules find what looks like an address of mail, a number of a phone, card or account, a key or a token. They do not know
names, places or illnesses: who stores traffic of people must still ask what is in it.
"""

import re
from collections.abc import Callable, Iterator

__all__ = ["personal_data"]

_DIGITS = re.compile(r"\D")
_IBAN_LETTERS = {chr(ord("A") + i): str(10 + i) for i in range(26)}


def _is_card(found: str) -> bool:
    """Luhn's checksum, of 13 to 19 digits."""
    digits = [int(digit) for digit in _DIGITS.sub("", found)]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(found: str) -> bool:
    """ISO 13616: the number made of its letters and digits leaves 1 when divided by 97."""
    text = found.replace(" ", "").upper()
    if not 15 <= len(text) <= 34:
        return False
    return int("".join(_IBAN_LETTERS.get(letter, letter) for letter in text[4:] + text[:4])) % 97 == 1


def _is_phone(found: str) -> bool:
    """With a plus, or written as a phone number is: in groups, at least nine digits."""
    num_digits = len(_DIGITS.sub("", found))
    if found.startswith(("+", "00")):
        return 8 <= num_digits <= 15
    return 9 <= num_digits <= 13 and bool(re.search(r"\d[\s().-]+\d", found))


def _is_ip(found: str) -> bool:
    return all(int(part) <= 255 for part in found.split("."))


def _always(_: str) -> bool:
    return True


# Kind, form, and what has to be true of a text of that form. The order matters: what one rule took, none after it sees.
_RULES: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", re.compile(r"(?<![\w.+-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])"), _always),
    (
        "secret",
        re.compile(
            r"\b(?:sk-[\w-]{16,}|gh[opsur]_\w{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}"
            r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^\s/:@]+:[^\s/@]+@"
        ),
        _always,
    ),
    ("iban", re.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?\b"), _is_iban),
    ("card", re.compile(r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d-])"), _is_card),
    ("ssn", re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"), _always),
    ("ip", re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])"), _is_ip),
    ("phone", re.compile(r"(?<![\w.,])(?:\+|\(?\d)[\d\s().-]{6,22}\d(?![\w-])"), _is_phone),
)


def personal_data(text: str) -> tuple[str, ...]:
    """The kinds of personal data that a text holds, each once: email, secret, iban, card, ssn, ip, phone."""
    return tuple(_found(text))


def _found(text: str) -> Iterator[str]:
    left = text
    for kind, form, is_meant in _RULES:
        spans = [match.span() for match in form.finditer(left) if is_meant(match[0])]
        if spans:
            yield kind
        for first, end in spans:
            left = left[:first] + "\n" * (end - first) + left[end:]
