"""A painted occluder in a real window, and the gallery of variants: Blender's own brush, editors that come back.

Screenshots stay in build/test/occluder-*/ and gallery-*/ for people to look at.
"""

from __future__ import annotations

import pytest

import build
from tests.real_blender import debian_blender, window

DRAWN_BYTES = 50_000  # an empty window packs into less


@pytest.fixture(scope="module", params=sorted(debian_blender.SUITES))
def painted(request: pytest.FixtureRequest, archive) -> dict:
    """What the driver saw in this Blender, and the `folder` with its screenshots."""
    folder = build.BUILD / "test" / f"occluder-{request.param}"
    return {**window.drive(request.param, folder, archive, "occluder"), "folder": folder}


@pytest.fixture(scope="module")
def gallery(archive) -> dict:
    """What the driver saw in Blender 4.3, and the `folder` with its screenshot."""
    folder = build.BUILD / "test" / "gallery"
    return {**window.drive("4.3", folder, archive, "gallery"), "folder": folder}


def test_every_step_went_through(painted: dict):
    assert "failure" not in painted, painted["failure"]
    # Debian leaves Blender's brushes out, and Blender's own panel says so with a traceback.
    assert painted["finished"] and "blender_addon" not in painted["printed"], painted["printed"]


def test_the_brush_paints_over_the_photo(painted: dict):
    assert painted["painting"]["editor"] == "IMAGE_EDITOR" and painted["painting"]["mode"] == "PAINT"
    assert painted["painting"]["image"] == [512, 512]
    # Debian's 4.3 comes without the files of Blender's brushes; there the whole mask is put in by the driver.
    assert painted["painting"]["brush"] or painted["version"].startswith("4.3")
    assert (painted["painting"]["stroke"] > 100) == painted["painting"]["brush"]
    assert (painted["folder"] / "occluder_paint.png").stat().st_size > DRAWN_BYTES


def test_done_brings_the_editors_back_and_keeps_what_is_painted(painted: dict):
    assert painted["after"] == painted["editors"] and "VIEW_3D" in painted["after"]
    assert painted["painted"] == painted["saved"] > 20_000


def test_what_is_hidden_is_completed(painted: dict):
    assert painted["job"]["state"] == "done" and painted["job"]["inputs"] == ["image", "occluder"], painted["job"]
    assert painted["job"]["mask_iou"] > 0.8 and painted["made"] == ["truck_behind_barrel"]
    assert (painted["folder"] / "occluder.png").stat().st_size > DRAWN_BYTES


def test_a_click_in_the_gallery_takes_another_variant_and_can_be_undone(gallery: dict):
    assert "failure" not in gallery, gallery["failure"]
    assert gallery["finished"] and "Traceback" not in gallery["printed"], gallery["printed"]
    assert len(gallery["job"]["variants"]) >= 3 and all(gallery["job"]["icons"]), gallery["job"]
    assert len(gallery["after"]) == 1 and gallery["after"][0]["name"] == gallery["before"]["name"]
    assert gallery["after"][0]["vertices"] != gallery["before"]["vertices"]
    assert gallery["undone"] == [gallery["before"]] and gallery["icons_after"] == 0
    assert (gallery["folder"] / "gallery.png").stat().st_size > DRAWN_BYTES
