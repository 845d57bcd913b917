"""Class names that look like mistakes: nothing is wrong with the files, but perhaps with what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BACKGROUND = ("background", "__background__", "_background_", "bg", "none", "__ignore__", "_background")
RARE = 1000  # a class this many times rarer than the commonest may be a slip


def odd_classes(counts: Mapping[str, int]) -> list[str]:
    """One line for each name with something odd about it; `counts` are the objects of each class."""
    found = []
    most = max(counts.values(), default=0)
    for name, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        near = nearest(name, [other for other in counts if other != name and counts[other] >= count])
        if name.strip().lower() in BACKGROUND:
            found.append(
                f"class {name!r} ({count}): background needs no boxes, label 0 stands for it; rename or leave it out"
            )
        elif near is not None and (counts[near] > count or near > name):
            found.append(f"class {name!r} ({count}) is nearly {near!r} ({counts[near]}): one class, written twice?")
        elif count and count * RARE <= most:
            found.append(f"class {name!r} has {count} objects of {sum(counts.values())}: a slip?")
    return found


def nearest(name: str, others: Sequence[str]) -> str | None:
    """The other name that differs by letter case, by marks, by a plural or by a letter; None if there is none."""
    plain = _plain(name)
    for other in others:
        if _plain(other) == plain:
            return other
    for other in others:
        longer, shorter = sorted((plain, _plain(other)), key=len, reverse=True)
        if len(shorter) >= 3 and not _numbered(plain, _plain(other)) and _one_slip(longer, shorter):
            return other
    return None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _numbered(one: str, other: str) -> bool:
    """Names that differ in a number are meant to: speed30, speed50."""
    digits = [letter for letter in one if letter.isdigit()], [letter for letter in other if letter.isdigit()]
    return digits[0] != digits[1]


def _one_slip(longer: str, shorter: str) -> bool:
    """Whether a letter was added, left out or exchanged with its neighbour; one exchanged for another in long names."""
    if len(longer) == len(shorter):
        differ = [place for place in range(len(longer)) if longer[place] != shorter[place]]
        if len(differ) == 2 and differ[1] == differ[0] + 1:
            first, second = differ
            return longer[first] == shorter[second] and longer[second] == shorter[first]
        return len(differ) == 1 and len(longer) >= 6
    return len(longer) == len(shorter) + 1 and any(
        longer[:place] + longer[place + 1 :] == shorter for place in range(len(longer))
    )


def one_sided(train: Mapping[str, int], test: Mapping[str, int]) -> list[str]:
    """One line for the classes that only one of the two splits has objects of."""
    found = []
    for here, there, side, other in ((train, test, "train", "test"), (test, train, "test", "train")):
        names = [f"{name} ({count})" for name, count in sorted(here.items()) if count and not there.get(name)]
        if names:
            found.append(f"classes with objects in {side} alone, none in {other}: {', '.join(names)}")
    return found
