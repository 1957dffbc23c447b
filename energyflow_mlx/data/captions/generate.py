"""Built-in sentences: a seeded grammar of everyday scene descriptions.

People, animals, vehicles, things and landscapes are put into sentence patterns of
6 to 14 words, so that a sentence teacher spreads them and a decoder can still learn
them: a few hundred words, combined freely within a scene. The tables are in
``words`` and ``scenes``; this file is the grammar over them.

The one source of chance is ``random.Random(seed).random()``, whose sequence Python
guarantees, so a seed gives the same sentences everywhere.
"""

import functools
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from energyflow_mlx.data.captions import words
from energyflow_mlx.data.captions.inflection import (
    participle,
    pluralize,
    third_person,
    with_article,
)
from energyflow_mlx.data.captions.scenes import SCENES

_T = TypeVar("_T")
_SLOT = re.compile(r"\{([^}]*)\}")
_MIN_WORDS, _MAX_WORDS = 6, 14
# So many repeats in a row mean that the grammar has run dry.
_MAX_REPEATS = 2_000
_ROLE_ADJECTIVES = ("smiling", "tired", "friendly", "cheerful", "busy", "proud")
# Families have one of each: no "five fathers".
_NEVER_SEVERAL = {"mother", "father", "grandmother", "grandfather", "captain"}
_FEMALE = {"woman", "girl", "lady", "mother", "grandmother", "waitress"}
_MALE = {"man", "farmer", "sailor", "fisherman", "father", "grandfather", "captain"}


class _Subject(NamedTuple):
    text: str
    is_plural: bool
    noun: str = ""


class _Activity(NamedTuple):
    verb: str
    objects: tuple[str, ...]


class _Scene(NamedTuple):
    cast: tuple[str, ...]
    places: tuple[str, ...]
    activities: tuple[_Activity, ...]
    times: tuple[str, ...]


class _Kind(NamedTuple):
    nouns: tuple[str, ...]
    plurals: tuple[str, ...]
    adjectives: tuple[str, ...]


def generate_captions(count: int, seed: int) -> list[str]:
    """Distinct scene descriptions, the same for a seed on every machine.

    A longer list begins with the shorter one of the same seed.

    Args:
        count: How many sentences.
        seed: Any integer.

    Returns:
        Capitalized sentences with a full stop, 6 to 14 words each.

    Raises:
        ValueError: ``count`` is negative or more than the grammar can tell apart.
    """
    if count < 0:
        raise ValueError(f"[captions] count must be at least 0, got {count}.")
    grammar = _Grammar(seed)
    seen: dict[str, None] = {}
    repeats = 0
    while len(seen) < count:
        before = len(seen)
        seen[grammar.sentence()] = None
        repeats = repeats + 1 if len(seen) == before else 0
        if repeats == _MAX_REPEATS:
            raise ValueError(
                f"[captions] count must be at most about {before}, got {count}."
            )
    return list(seen)


class _Grammar:
    """Draws sentences; every method consumes the one random sequence."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random
        self._patterns: tuple[tuple[float, Callable[[], str]], ...] = (
            (0.38, self._scene),
            (0.05, self._fronted_scene),
            (0.04, self._existential_scene),
            (0.06, self._compound_scene),
            (0.09, self._meeting),
            (0.14, self._animal),
            (0.06, self._petting),
            (0.07, self._traffic),
            (0.07, self._still_life),
            (0.04, self._view),
        )

    def sentence(self) -> str:
        """One sentence of allowed length."""
        while True:
            text = self._pattern()()
            if _MIN_WORDS <= text.count(" ") + 1 <= _MAX_WORDS:
                return f"{text[0].upper()}{text[1:]}."

    def _pattern(self) -> Callable[[], str]:
        draw = self._random()
        for share, pattern in self._patterns[:-1]:
            draw -= share
            if draw < 0:
                return pattern
        return self._patterns[-1][1]

    # Sentence patterns -----------------------------------------------------

    def _scene(self) -> str:
        scene = self._pick(_scenes())
        clause = self._clause(self._person(scene.cast), self._action(scene))
        if self._chance(0.85):
            clause = f"{clause} {self._fill(self._pick(scene.places))}"
        return self._timed(clause, scene.times)

    def _fronted_scene(self) -> str:
        scene = self._pick(_scenes())
        place = self._fill(self._pick(scene.places))
        clause = self._clause(self._person(scene.cast), self._action(scene))
        return f"{place}, {clause}"

    def _existential_scene(self) -> str:
        scene = self._pick(_scenes())
        who = self._person(scene.cast, allow_definite=False)
        be = "are" if who.is_plural else "is"
        action = participle(self._action(scene))
        return f"there {be} {who.text} {action} {self._fill(self._pick(scene.places))}"

    def _compound_scene(self) -> str:
        scene = self._pick(_scenes())
        who, first, second = (
            self._person(scene.cast),
            self._action(scene),
            self._action(scene),
        )
        if " " not in first or " " not in second or first[:4] == second[:4]:
            return ""
        if self._chance(0.5):
            other = self._person(scene.cast)
            verb = self._progressive(other, second)
            clause = self._progressive(who, first)
            return f"{who.text} {clause} while {other.text} {verb}"
        return f"{who.text} {self._progressive(who, first)} and {participle(second)}"

    def _meeting(self) -> str:
        scene = self._pick(_scenes())
        who, other = self._person(scene.cast), self._person(scene.cast)
        if who.noun == other.noun:
            return ""
        clause = self._clause(who, f"{self._pick(_split(words.MEETINGS))} {other.text}")
        return f"{clause} {self._fill(self._pick(scene.places))}"

    def _animal(self) -> str:
        kind, places, activities = self._pick(_animals())
        who = self._creature(kind)
        clause = self._clause(who, self._act(self._pick(activities)))
        if self._chance(0.9):
            clause = f"{clause} {self._fill(self._pick(places))}"
        return self._timed(clause, _split(words.OUTDOOR_TIMES))

    def _petting(self) -> str:
        kind, places, _ = self._pick(_animals())
        if kind not in words.PETTING:
            return ""
        verb = self._pick(_split(words.PETTING[kind]))
        who = self._person(("{adult}", "{kid}", "{kid}", "{adult}"))
        clause = self._clause(who, f"{verb} {self._creature(kind).text}")
        return f"{clause} {self._fill(self._pick(places))}"

    def _traffic(self) -> str:
        subjects, moves = self._pick(words.TRAFFIC)
        thing = self._fill(self._pick(_split(subjects)))
        verbs, ways = self._pick(moves)
        who = _Subject(thing, _is_plural(thing))
        clause = self._clause(who, self._pick(_split(verbs)))
        clause = f"{clause} {self._fill(self._pick(_split(ways)))}"
        return self._timed(clause, _split(words.OUTDOOR_TIMES))

    def _still_life(self) -> str:
        things, postures, spots = self._pick(words.STILL_LIFES)
        template = self._pick(_split(things))
        who = _Subject(self._fill(template), _is_plural(template))
        spot = self._fill(self._pick(_split(spots)))
        if self._chance(0.2):
            return f"there {'are' if who.is_plural else 'is'} {who.text} {spot}"
        return f"{self._clause(who, self._pick(_split(postures)))} {spot}"

    def _view(self) -> str:
        subjects, predicates = self._pick(words.VIEWS)
        template = self._pick(_split(subjects))
        who = _Subject(self._fill(template), _is_plural(template))
        predicate = self._fill(self._pick(_split(predicates)))
        clause = f"{who.text} {predicate if who.is_plural else third_person(predicate)}"
        return self._timed(clause, _split(words.OUTDOOR_TIMES))

    # Phrases ---------------------------------------------------------------

    def _clause(self, who: _Subject, action: str) -> str:
        """Subject and verb phrase, more often "is cutting" than "cuts"."""
        if action == "be":
            return f"{who.text} {'are' if who.is_plural else 'is'}"
        if who.is_plural or self._chance(0.75):
            return f"{who.text} {self._progressive(who, action)}"
        return f"{who.text} {third_person(action)}"

    @staticmethod
    def _progressive(who: _Subject, action: str) -> str:
        return f"{'are' if who.is_plural else 'is'} {participle(action)}"

    def _action(self, scene: _Scene) -> str:
        return self._act(self._pick(scene.activities))

    def _act(self, activity: _Activity) -> str:
        if not activity.objects:
            return activity.verb
        return f"{activity.verb} {self._fill(self._pick(activity.objects))}"

    def _timed(self, clause: str, times: Sequence[str]) -> str:
        if self._chance(0.85):
            return clause
        time = self._pick(times)
        # "in the snow" must not be said twice.
        return clause if time.split(" ")[-1] in clause else f"{clause} {time}"

    def _person(self, cast: Sequence[str], *, allow_definite: bool = True) -> _Subject:
        role = self._pick(cast)
        kind = _kinds().get(role[1:-1])
        noun = self._pick(kind.nouns) if kind else role
        adjectives = kind.adjectives if kind else _ROLE_ADJECTIVES
        described = f"{self._pick(adjectives)} {noun}" if self._chance(0.45) else noun
        draw = self._random() if noun not in _NEVER_SEVERAL else 1.0
        if draw < 0.14:
            number = self._pick(_split(words.NUMBERS))
            return _Subject(f"{number} {pluralize(described)}", True, noun)
        if draw < 0.19:
            return _Subject(f"a group of {pluralize(described)}", False, noun)
        if draw < 0.25:
            other = self._pick(_kinds()["kid" if role == "{adult}" else "adult"].nouns)
            return _Subject(f"{with_article(noun)} and {with_article(other)}", True)
        is_definite = allow_definite and self._chance(0.12)
        text = f"the {described}" if is_definite else with_article(described)
        if self._chance(0.3):
            text = f"{text} {self._looks(noun)}"
        return _Subject(text, False, noun)

    def _looks(self, noun: str) -> str:
        """Clothes or another mark: "in a red coat", "with glasses"."""
        draw = self._random()
        if draw < 0.2:
            return f"in {self._pick(_split(words.PLURAL_CLOTHES))}"
        if draw < 0.4 or (draw < 0.5 and noun in _MALE):
            own = (
                words.MALE_FEATURES if noun in _MALE and draw > 0.3 else words.FEATURES
            )
            return f"with {self._pick(_split(own))}"
        clothes = _split(words.CLOTHES)
        if noun in _FEMALE and self._chance(0.5):
            clothes = _split(words.WOMENS_CLOTHES)
        look = f"{self._pick(_split(words.CLOTHES_COLORS))} {self._pick(clothes)}"
        return f"in {with_article(look)}"

    def _creature(self, kind_name: str) -> _Subject:
        kind = _kinds()[kind_name]
        draw = self._random()
        if draw < 0.25:
            return _Subject(self._several(kind), True)
        if draw < 0.31 and kind_name in words.PACKS:
            pack = words.PACKS[kind_name]
            return _Subject(f"a {pack} of {self._pick(kind.plurals)}", False)
        return _Subject(self._one(kind), False)

    def _one(self, kind: _Kind) -> str:
        noun = self._pick(kind.nouns)
        if self._chance(0.5):
            noun = f"{self._pick(kind.adjectives)} {noun}"
        return with_article(noun)

    def _several(self, kind: _Kind) -> str:
        if self._chance(0.5):
            return f"{self._pick(_split(words.NUMBERS))} {self._pick(kind.plurals)}"
        return self._bare_plural(kind)

    def _bare_plural(self, kind: _Kind) -> str:
        noun = self._pick(kind.plurals)
        return f"{self._pick(kind.adjectives)} {noun}" if self._chance(0.6) else noun

    def _fill(self, template: str) -> str:
        """Replace each ``{kind}``, ``{kind+}`` and ``{kind*}`` by a noun phrase."""
        parts = _SLOT.split(template)
        for place in range(1, len(parts), 2):
            slot = parts[place]
            if slot.startswith("color"):
                noun = f"{self._pick(_split(words.COLORS))} {slot.partition(' ')[2]}"
                is_one = slot.startswith("color ")
                parts[place] = with_article(noun) if is_one else pluralize(noun)
            elif slot.endswith("+"):
                parts[place] = self._several(_kinds()[slot[:-1]])
            elif slot.endswith("*"):
                parts[place] = self._bare_plural(_kinds()[slot[:-1]])
            else:
                parts[place] = self._one(_kinds()[slot])
        return "".join(parts)

    # Chance ----------------------------------------------------------------

    def _chance(self, share: float) -> bool:
        return self._random() < share

    def _pick(self, choices: Sequence[_T]) -> _T:
        return choices[int(self._random() * len(choices))]


@functools.cache
def _split(listing: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in listing.split(";"))


@functools.cache
def _kinds() -> dict[str, _Kind]:
    kinds = {}
    for name, (nouns, adjectives) in words.KINDS.items():
        plurals = tuple(pluralize(noun) for noun in _split(nouns))
        kinds[name] = _Kind(_split(nouns), plurals, _split(adjectives))
    return kinds


@functools.cache
def _scenes() -> tuple[_Scene, ...]:
    return tuple(
        _Scene(
            _split(cast),
            _split(places),
            _activities(activities),
            _split(words.OUTDOOR_TIMES if is_outdoors else words.INDOOR_TIMES),
        )
        for cast, places, activities, is_outdoors in SCENES
    )


@functools.cache
def _animals() -> tuple[tuple[str, tuple[str, ...], tuple[_Activity, ...]], ...]:
    return tuple(
        (kind, _split(places), _activities(activities))
        for kind, places, activities in words.ANIMALS
    )


def _activities(table: str) -> tuple[_Activity, ...]:
    """Parse ``verb: object; object`` lines; a line of bare verbs has no colon."""
    activities: list[_Activity] = []
    for line in table.splitlines():
        verb, colon, objects = line.partition(":")
        if colon:
            activities.append(_Activity(verb.strip(), _split(objects)))
        else:
            activities.extend(_Activity(bare, ()) for bare in _split(line))
    return tuple(activities)


def _is_plural(template: str) -> bool:
    """Whether a subject takes "are": several of a kind, or a bare plural noun."""
    if template.startswith("{"):
        return template.endswith("+}")
    return not template.startswith(("a ", "an ", "the ")) and template.endswith("s")
