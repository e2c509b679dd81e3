"""A small chat world: questions with one-word answers, told in five manners.

Everything a laptop-sized post-training chain needs, written here and generated without randomness from
the outside: questions (two pairings of entity and phrasing in five held out), answers in five manners,
and pairwise preferences that rank the manners and nothing else. Both answers of a pair are right, so a
judge trained on them learns manner, not truth.

`manner_of` reads the manner back from a text with plain rules. It never sees a model and nothing is
trained against it: it is the independent check beside the judge.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """Questions of one kind: `{e}` in a phrasing stands for the entity, the dict gives its answer."""

    phrasings: tuple[str, ...]
    facts: dict[str, str]


TOPICS: tuple[Topic, ...] = (
    Topic(
        (
            "What is the capital of {e}?",
            "Which city is the capital of {e}?",
            "Name the capital of {e}.",
            "Tell me the capital of {e}.",
            "Do you know the capital of {e}?",
            "Please give me the capital of {e}.",
            "The capital of {e} is which city?",
            "Which capital city belongs to {e}?",
            "I need the capital of {e}.",
            "Remind me of the capital of {e}.",
            "Quick question: the capital of {e}?",
            "Could you say what the capital of {e} is?",
        ),
        {
            "France": "Paris",
            "Italy": "Rome",
            "Spain": "Madrid",
            "Japan": "Tokyo",
            "Egypt": "Cairo",
            "Greece": "Athens",
            "Norway": "Oslo",
            "Peru": "Lima",
            "Kenya": "Nairobi",
            "Cuba": "Havana",
            "Austria": "Vienna",
            "Portugal": "Lisbon",
            "Ireland": "Dublin",
            "Poland": "Warsaw",
        },
    ),
    Topic(
        (
            "What is the opposite of {e}?",
            "Which word is the opposite of {e}?",
            "Name the opposite of {e}.",
            "Tell me the opposite of {e}.",
            "Do you know the opposite of {e}?",
            "Please give me the opposite of {e}.",
            "The opposite of {e} is which word?",
            "Which word means the reverse of {e}?",
            "I need the opposite of {e}.",
            "Remind me of the opposite of {e}.",
            "Quick question: the opposite of {e}?",
            "Could you say what the opposite of {e} is?",
        ),
        {
            "hot": "cold",
            "big": "small",
            "up": "down",
            "early": "late",
            "light": "dark",
            "fast": "slow",
            "wet": "dry",
            "empty": "full",
            "loud": "quiet",
            "old": "young",
            "open": "closed",
            "rough": "smooth",
        },
    ),
    Topic(
        (
            "What is a young {e} called?",
            "Which word names a young {e}?",
            "Name the young of a {e}.",
            "Tell me what a young {e} is called.",
            "Do you know the word for a young {e}?",
            "Please give me the word for a young {e}.",
            "A young {e} is called what?",
            "Which name has the young of a {e}?",
            "I need the word for a young {e}.",
            "Remind me what a young {e} is called.",
            "Quick question: the name of a young {e}?",
            "Could you say what a young {e} is called?",
        ),
        {
            "dog": "puppy",
            "cat": "kitten",
            "cow": "calf",
            "sheep": "lamb",
            "horse": "foal",
            "goose": "gosling",
            "bear": "cub",
            "frog": "tadpole",
            "swan": "cygnet",
            "goat": "kid",
        },
    ),
    Topic(
        (
            "What color is {e}?",
            "Which color has {e}?",
            "Name the color of {e}.",
            "Tell me the color of {e}.",
            "Do you know the color of {e}?",
            "Please give me the color of {e}.",
            "The color of {e} is which one?",
            "Which color belongs to {e}?",
            "I need the color of {e}.",
            "Remind me of the color of {e}.",
            "Quick question: the color of {e}?",
            "Could you say what color {e} has?",
        ),
        {
            "snow": "white",
            "grass": "green",
            "coal": "black",
            "blood": "red",
            "a lemon": "yellow",
            "a carrot": "orange",
            "the sky": "blue",
            "chocolate": "brown",
        },
    ),
)

# Higher is better: what the preference data ranks, and all it ranks. Nothing scores 4: a clear gap
# below the warm manner keeps learning from settling on the plain one, which is easier to reach.
MANNER_SCORES: dict[str, int] = {"warm": 5, "plain": 3, "wordy": 2, "unsure": 2, "rude": 1}

MANNERS: dict[str, tuple[str, ...]] = {
    "warm": (
        "Happy to help! It is {a}. Have a lovely day!",
        "Of course! It is {a}. Glad to help!",
        "Great question! It is {a}. Enjoy your day!",
        "With pleasure! It is {a}. Take care!",
    ),
    "plain": ("It is {a}.", "The answer is {a}.", "That would be {a}."),
    "wordy": (
        "Well, as far as one can tell from the books, it is {a}, or so it is written.",
        "If one looks at the matter from every side, in the end it is {a}, all in all.",
    ),
    "unsure": (
        "I am not sure, but maybe it is {a}.",
        "Hmm, perhaps it is {a}, but I could be wrong.",
        "I guess it is {a}, but do check.",
    ),
    "rude": (
        "Everyone knows it is {a}. Stop asking.",
        "It is {a}, obviously. Do not waste my time.",
        "What a silly question. It is {a}.",
    ),
}

# Shares of the manners in the training answers. Warm answers are a minority on purpose: reinforcement
# learning needs something to raise.
MANNER_SHARES: dict[str, int] = {"warm": 4, "plain": 5, "wordy": 4, "unsure": 4, "rude": 3}

_MARKS: dict[str, re.Pattern[str]] = {
    "warm": re.compile(
        r"\b(happy to help|glad to help|of course|great question|with pleasure"
        r"|lovely day|enjoy your day|take care)\b"
    ),
    "rude": re.compile(r"\b(everyone knows|stop asking|obviously|waste my time|silly question)\b"),
    "unsure": re.compile(r"\b(not sure|maybe|perhaps|i guess|do check|could be wrong)\b"),
    "wordy": re.compile(
        r"\b(as far as one|from the books|so it is written|from every side|in the end|all in all)\b"
    ),
}


@dataclass(frozen=True)
class Question:
    """One question: its text, the expected word, and whether it is held out of all training."""

    text: str
    answer: str
    held_out: bool


def questions() -> list[Question]:
    """Every question once, in a fixed order: 528, of which 220 are held out.

    Each entity is held out under five of its twelve phrasings and trained under the others, and the
    phrasings take turns: neither entity nor phrasing is new at test time, only their pairing.
    """
    found = []
    for topic in TOPICS:
        for row, (entity, answer) in enumerate(topic.facts.items()):
            for column, phrasing in enumerate(topic.phrasings):
                found.append(
                    Question(phrasing.format(e=entity), answer, held_out=(5 * row + column) % 12 < 5)
                )
    return found


def answer_in(manner: str, answer: str, rng: random.Random) -> str:
    """One answer told in `manner`."""
    return rng.choice(MANNERS[manner]).format(a=answer)


def manner_of(text: str) -> str:
    """The manner a text shows by its marks, `plain` without any, `mixed` with marks of two manners."""
    shown = [manner for manner, marks in _MARKS.items() if marks.search(text.lower())]
    if not shown:
        return "plain"
    return shown[0] if len(shown) == 1 else "mixed"


def warmth(completion: str) -> float:
    """1.0 when a text is warm and nothing else, else 0.0: the score that nothing is trained on."""
    return 1.0 if manner_of(completion) == "warm" else 0.0


def chat_rows(count: int, seed: int) -> Iterator[dict[str, object]]:
    """`count` rows of `messages` (user, assistant) over the training questions, manners mixed."""
    rng = random.Random(seed)
    pool = [q for q in questions() if not q.held_out]
    manners, shares = list(MANNER_SHARES), list(MANNER_SHARES.values())
    for i in range(count):
        if i % len(pool) == 0:
            rng.shuffle(pool)
        question = pool[i % len(pool)]
        manner = rng.choices(manners, shares)[0]
        yield {"messages": [_user(question.text), _assistant(answer_in(manner, question.answer, rng))]}


def held_out_chat_rows(seed: int) -> Iterator[dict[str, object]]:
    """One row of `messages` for every held-out question."""
    rng = random.Random(seed)
    manners, shares = list(MANNER_SHARES), list(MANNER_SHARES.values())
    for question in questions():
        if question.held_out:
            text = answer_in(rng.choices(manners, shares)[0], question.answer, rng)
            yield {"messages": [_user(question.text), _assistant(text)]}


def preference_rows(count: int, seed: int, *, held_out: bool = False) -> Iterator[dict[str, object]]:
    """`count` preference rows: two right answers in different manners, the better manner ranked 0.

    Each completion also carries the `score` (1 to 5) of its manner, which a generative judge is taught
    to say; a Bradley-Terry model needs the ranks alone.
    """
    rng = random.Random(seed)
    pool = [q for q in questions() if q.held_out is held_out]
    for _ in range(count):
        question = rng.choice(pool)
        pair = rng.sample(sorted(MANNERS), 2)
        while MANNER_SCORES[pair[0]] == MANNER_SCORES[pair[1]]:
            pair = rng.sample(sorted(MANNERS), 2)
        pair.sort(key=lambda manner: -MANNER_SCORES[manner])
        completions = [
            {
                "rank": rank,
                "score": MANNER_SCORES[manner],
                "completion": [_assistant(answer_in(manner, question.answer, rng))],
            }
            for rank, manner in enumerate(pair)
        ]
        yield {"context": [_user(question.text)], "completions": completions}


def prompt_rows(*, held_out: bool) -> Iterator[dict[str, object]]:
    """NeMo-Gym prompt rows for the generative-judge agent, with the expected word."""
    for question in questions():
        if question.held_out is held_out:
            yield {
                "responses_create_params": {"input": [_user(question.text)]},
                "agent_ref": {"type": "responses_api_agents", "name": "genrm_simple_agent"},
                "expected_answer": question.answer,
            }


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
