"""Class names that look like mistakes are reported with their counts. Intentionally different names are not."""

from __future__ import annotations

import random

import pytest

from detector.datasets.class_names import nearest, odd_classes, unshared_classes


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Cat", "cat"),
        ("cats", "cat"),
        ("catt", "cat"),
        ("traffic light", "traffic_light"),
        ("bicylce", "bicycle"),
        ("aeroplan", "aeroplane"),
        ("bottel", "bottle"),
        (" dog", "dog"),
    ],
)
def test_a_similar_name_is_found(name: str, other: str) -> None:
    assert nearest(name, ["zebra", other]) == other


@pytest.mark.parametrize(
    ("name", "other"),
    [("cat", "cow"), ("speed30", "speed50"), ("nine", "ten"), ("RBC", "WBC"), ("bus", "bug"), ("a", "b"), ("A1", "A2")],
)
def test_intentionally_different_names_are_not_similar(name: str, other: str) -> None:
    assert nearest(name, [other]) is None


def test_each_suspicious_name_has_one_line_with_its_count() -> None:
    lines = odd_classes({"cat": 5000, "catt": 1, "dog": 4000, "newt": 2, "__background__": 7, "Dog": 4000})
    assert lines == [
        "class 'catt' (1) is nearly 'cat' (5000): the same class, misspelt?",
        "class 'newt' has 2 objects of 13010: a mistake?",
        "class '__background__' (7): background needs no boxes, it is label 0; rename it or leave it out",
        "class 'Dog' (4000) is nearly 'dog' (4000): the same class, misspelt?",
    ]


def test_near_names_are_found_among_many() -> None:
    """The search by common keys finds the same names as a comparison of all pairs."""
    rng = random.Random(1)
    names = sorted(
        {"".join(rng.choice("abC1 ") for _ in range(rng.randrange(1, 7))).strip() or "x" for _ in range(200)}
    )
    near = {name: nearest(name, [other for other in names if other != name]) for name in names}
    lines = odd_classes(dict.fromkeys(names, 5))
    expected = [f"class {name!r} (5) is nearly {other!r}" for name, other in near.items() if other and other > name]
    assert expected
    assert [line.partition(" (5):")[0] for line in lines] == [line.removesuffix(" (5)") for line in expected]


def test_names_without_letters_are_not_similar() -> None:
    assert odd_classes({"+": 5, "-": 5, "?": 5}) == []


def test_voc_classes_are_not_suspicious() -> None:
    from detector.datasets.voc import VOC_CLASSES

    assert odd_classes(dict.fromkeys(VOC_CLASSES, 100)) == []
    assert odd_classes({}) == []


def test_classes_of_only_one_split_are_reported() -> None:
    assert unshared_classes({"cat": 3, "dog": 1}, {"cat": 2, "dog": 0, "cow": 4}) == [
        "classes with objects in train but none in test: dog (1)",
        "classes with objects in test but none in train: cow (4)",
    ]
    assert unshared_classes({"cat": 3}, {"cat": 1}) == []
