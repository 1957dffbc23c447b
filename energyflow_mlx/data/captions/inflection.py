"""English word forms the caption grammar needs: plurals, verb endings, articles."""

_IRREGULAR_PLURALS = {
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "wolf": "wolves",
    "calf": "calves",
    "loaf": "loaves",
    "knife": "knives",
    "leaf": "leaves",
    "shelf": "shelves",
    "scarf": "scarves",
    "sheep": "sheep",
    "deer": "deer",
    "fish": "fish",
}
_O_TAKES_ES = {"potato", "tomato"}
_DOUBLED = {
    "chop",
    "clap",
    "cut",
    "dig",
    "hit",
    "hop",
    "hug",
    "jog",
    "knit",
    "mop",
    "nap",
    "nod",
    "pet",
    "plan",
    "put",
    "run",
    "set",
    "shop",
    "sit",
    "skip",
    "spin",
    "stir",
    "swim",
    "trim",
    "trot",
    "wag",
    "win",
    "wrap",
}
_VOWELS = "aeiou"
# Words whose first letter misleads: "a uniform", "an hour".
_CONSONANT_SOUND = ("uni", "use", "one", "eu")
_VOWEL_SOUND = ("hour", "honest")


def pluralize(noun: str) -> str:
    """Plural of a noun; of a compound, the plural of its last word."""
    head, _, last = noun.rpartition(" ")
    prefix = f"{head} " if head else ""
    if last in _IRREGULAR_PLURALS:
        return prefix + _IRREGULAR_PLURALS[last]
    if last.endswith("man"):
        return f"{prefix}{last[:-3]}men"
    return prefix + (last + "es" if last in _O_TAKES_ES else _add_s(last))


def third_person(verb: str) -> str:
    """``watch over`` becomes ``watches over``: the first word is the verb."""
    first, _, rest = verb.partition(" ")
    word = "is" if first == "be" else _add_s(first)
    return f"{word} {rest}" if rest else word


def participle(verb: str) -> str:
    """``cut up`` becomes ``cutting up``: the first word is the verb."""
    first, _, rest = verb.partition(" ")
    if first in _DOUBLED:
        word = first + first[-1] + "ing"
    elif first.endswith("ie"):
        word = first[:-2] + "ying"
    elif first.endswith("e") and not first.endswith(("ee", "oe", "ye")):
        word = first[:-1] + "ing"
    else:
        word = first + "ing"
    return f"{word} {rest}" if rest else word


def with_article(phrase: str) -> str:
    """Put ``a`` or ``an`` before a noun phrase, by the sound of its first word."""
    starts_with_vowel = phrase[0] in _VOWELS and not phrase.startswith(_CONSONANT_SOUND)
    if starts_with_vowel or phrase.startswith(_VOWEL_SOUND):
        return f"an {phrase}"
    return f"a {phrase}"


def _add_s(word: str) -> str:
    if word.endswith(("s", "sh", "ch", "x", "z")) or word in {"go", "do"}:
        return word + "es"
    if word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "ies"
    return word + "s"
