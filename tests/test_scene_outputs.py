"""Boxes and areas in the viewer: their numbers have units, and what lies around them is objects."""

from __future__ import annotations

from guidxmage.outputs import Box, BoxSide
from guidxmage.viewer.scene import scene_of
from tests.test_outputs import X, _detector


def test_a_box_in_the_viewer() -> None:
    found = _detector().explain(X, [Box(0), BoxSide(0, "left")], depth="default")
    scene = scene_of(found, found.regions(), regions_from="auto")
    described = scene.manifest
    assert [one["unit"] for one in described["targets"]] == ["", "px"]
    assert [one["probability"] for one in described["targets"]] == [None, None]
    assert described["classes"] == []
    assert set(described["objects"]["names"].values()) <= {"inside", "near", "elsewhere"}
