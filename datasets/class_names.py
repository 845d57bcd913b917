"""Class names that look like mistakes. The files are valid, but a name may be wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

BACKGROUND = ("background", "__background__", "_background_", "bg", "none", "__ignore__", "_background")
SHOWN = 10  # number of names in a line
RARE = 1000  # a class this many times rarer than the most frequent class may be a mistake


def odd_classes(counts: Mapping[str, int]) -> list[str]:
    """Return one line for each suspicious class name. `counts` are the objects of each class."""
    found = []
    most = max(counts.values(), default=0)
    alike = _alike(list(counts))
    for name, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        near = nearest(name, [other for other in alike[name] if counts[other] >= count])
        if name.strip().lower() in BACKGROUND:
            found.append(
                f"class {name!r} ({count}): background needs no boxes, it is label 0; rename it or leave it out"
            )
        elif near is not None and (counts[near] > count or near > name):
            found.append(f"class {name!r} ({count}) is nearly {near!r} ({counts[near]}): the same class, misspelt?")
        elif count and count * RARE <= most:
            found.append(f"class {name!r} has {count} objects of {sum(counts.values())}: a mistake?")
    return found


def _alike(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the other names that `nearest` may choose for each name, in order.

    Two such names are equal after at most one letter of each is removed. So 1,200 classes need no million comparisons.
    """
    having: dict[str, list[int]] = defaultdict(list)
    keys = []
    for number, name in enumerate(names):
        plain = _plain(name)
        keys.append({plain, *(plain[:place] + plain[place + 1 :] for place in range(len(plain)))} if plain else set())
        for key in keys[-1]:
            having[key].append(number)
    return {
        name: [names[other] for other in sorted({other for key in keys[number] for other in having[key]} - {number})]
        for number, name in enumerate(names)
    }


def nearest(name: str, others: Sequence[str]) -> str | None:
    """Return another name that differs only in letter case, punctuation, a plural or one letter; None without one."""
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
    """Return True if two names differ in their digits. Such names are different on purpose: speed30, speed50."""
    digits = [letter for letter in one if letter.isdigit()], [letter for letter in other if letter.isdigit()]
    return digits[0] != digits[1]


def _one_slip(longer: str, shorter: str) -> bool:
    """Return True for one letter added, left out or swapped with its neighbour; in long names also for one replaced."""
    if len(longer) == len(shorter):
        differ = [place for place in range(len(longer)) if longer[place] != shorter[place]]
        if len(differ) == 2 and differ[1] == differ[0] + 1:
            first, second = differ
            return longer[first] == shorter[second] and longer[second] == shorter[first]
        return len(differ) == 1 and len(longer) >= 6
    return len(longer) == len(shorter) + 1 and any(
        longer[:place] + longer[place + 1 :] == shorter for place in range(len(longer))
    )


def unused_classes(names: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """Return one line for the classes of a class list that no object has. Roboflow lists the project as a class."""
    unused = [name for name in names if not counts.get(name)]
    shown = ", ".join(unused[:SHOWN]) + (" ..." if len(unused) > SHOWN else "")
    return [f"classes of the class list without objects: {shown}; dataset.classes leaves them out"] if unused else []


def unshared_classes(train: Mapping[str, int], test: Mapping[str, int]) -> list[str]:
    """Return one line for the classes that have objects in only one of the two splits."""
    found = []
    for here, there, side, other in ((train, test, "train", "test"), (test, train, "test", "train")):
        names = [f"{name} ({count})" for name, count in sorted(here.items()) if count and not there.get(name)]
        if names:
            found.append(f"classes with objects in {side} but none in {other}: {', '.join(names)}")
    return found
