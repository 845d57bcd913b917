"""Class names that look like mistakes are reported with their counts. Intentionally different names are not."""

from __future__ import annotations

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
