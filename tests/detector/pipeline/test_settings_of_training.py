"""Settings that train, but rarely as meant, give a warning."""

import logging

import pytest

from detector.configs.compose import load_config
from detector.pipeline.training import check_anchors


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["proposals=rpn_fpn"], "meant for the maps of neck=fpn"),
        (["neck=fpn", "proposals=rpn"], "sides of up to 2048 pixels"),
        (["proposals=rpn"], None),
        (["neck=fpn", "proposals=rpn_fpn"], None),
        (["neck=fpn", "proposals=rpn", "proposals.scales=[4,6]"], None),
        (["neck=fpn", "proposals=grid"], None),
    ],
)
def test_anchors_of_another_number_of_maps_give_a_warning(
    words: list[str], part: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="detector"):
        check_anchors(load_config(["head=rfcn", *words]))
    assert len(caplog.messages) == (part is not None)
    assert part is None or part in caplog.messages[0]
