"""Prompts for the draft model's lessons: instructions by template, questions of tasks' training splits, and editing of
what the model itself wrote before. None is a prompt of speculation.py, which the draft model is measured on."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.intents_data import load_intents

__all__ = ["editing_prompts", "first_prompts"]

TOPICS = (
    "a rainy day in a small town", "the water cycle", "training a dog", "the history of bread", "electric cars",
    "a lost key", "healthy breakfasts", "how airplanes fly", "learning the piano", "the planets", "saving money",
    "a garden in spring", "working from home", "volcanoes", "a first day at school", "the human heart", "recycling",
    "an old library", "playing chess", "the invention of paper", "swimming", "a night train", "good sleep",
    "the deep sea", "writing a diary", "coffee", "wind power", "a market in the morning", "bees", "photography",
    "moving to another city", "the printing press", "a broken bicycle chain", "making friends", "the moon landing",
    "vegetable soup", "ants", "a long winter", "public transport", "the stock market", "clouds", "a surprise party",
    "learning to code", "glaciers", "the violin", "camping", "time management", "a mysterious stranger", "tea",
    "bridges",
)  # fmt: skip
FORMS = (
    "Write a short story about {}.", "Explain {} to a child.", "Give five facts about {}.",
    "Write a poem about {}.", "What should everyone know about {}?", "Write an e-mail to a friend about {}.",
    "List three advantages and three disadvantages of {}.", "Write a dialogue between two people about {}.",
    "Give me some tips on {}.", "Why is {} important?", "Write a short blog post about {}.",
    "Describe {} in one paragraph.", "What questions could I ask an expert on {}?", "Write a review about {}.",
    "Make a table of contents for a book about {}.", "Tell me about {}.", "Summarize what is known about {}.",
    "Write a speech about {} for a class.", "Create a quiz with answers about {}.", "How did {} change the world?",
)  # fmt: skip
ASKS = (
    "Write a Python function that {}.", "Show me how to write a program in JavaScript that {}.",
    "Explain step by step how a program {}.",
)  # fmt: skip
CODE = (
    "reverses the words of a sentence", "counts the vowels of a text", "finds the largest number of a list",
    "checks whether a word is a palindrome", "sorts a list of names", "reads a file and counts its lines",
    "computes the factorial of a number", "removes duplicates from a list", "converts Celsius to Fahrenheit",
    "merges two sorted lists", "finds the prime numbers up to 100", "reads a CSV file and sums a column",
    "draws a triangle of stars", "counts how often each word occurs", "rounds prices to two decimals",
)  # fmt: skip
EDITS = (
    "Summarize this text in two sentences:\n\n{}", "Correct the mistakes in this text and give it back:\n\n{}",
    "Rewrite this text in simpler words:\n\n{}", "List the main points of this text:\n\n{}",
    "Repeat this text and put each sentence on its own line:\n\n{}", "Which names and numbers occur here?\n\n{}",
    "Turn this text into bullet points:\n\n{}", "Continue this text:\n\n{}", "Copy this text word by word:\n\n{}",
    "Give this text a title and repeat it below:\n\n{}", "Make this text formal:\n\n{}",
    "Which sentence of this text is the most important? Quote it.\n\n{}",
)  # fmt: skip


def first_prompts(tasks: Path | None, seed: int = 0) -> list[str]:
    """In an order drawn by the seed. tasks: the folder with GSM8K and the intents, whose training rows are taken."""
    prompts = [form.format(topic) for form in FORMS for topic in TOPICS]
    prompts += [form.format(code) for form in ASKS for code in CODE]
    if tasks is not None:
        rows = (tasks / "gsm8k" / "train.jsonl").read_text().splitlines()
        prompts += [json.loads(row)["question"] for row in rows[:400]]
        for name in ("banking77", "clinc150"):
            texts = load_intents(tasks, name).train.texts
            prompts += list(texts[:: len(texts) // 150])
    order = np.random.default_rng(seed).permutation(len(prompts))
    return [prompts[i] for i in order]


def editing_prompts(answers: Sequence[str], seed: int = 1) -> list[str]:
    """An instruction before a part of each answer that has some length."""
    draw = np.random.default_rng(seed)
    texts = [answer[: int(draw.integers(200, 700))] for answer in answers if len(answer) > 150]
    return [EDITS[int(draw.integers(len(EDITS)))].format(text) for text in texts]
