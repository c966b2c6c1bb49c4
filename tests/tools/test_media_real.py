"""The bars on real media, against references marked by eye; skipped where the media folder is absent."""

from pathlib import Path

import pytest

from bench import real

pytestmark = pytest.mark.skipif(not real.MEDIA.is_dir(), reason="no real media here")
MEDIA: Path = real.MEDIA


def test_a_picture_of_text_is_read() -> None:
    assert real.ocr_english(MEDIA)["cer"] <= 0.05


@pytest.mark.slow
def test_a_sign_is_read_through_zoom_and_not_in_the_shrunk_picture() -> None:
    figures = real.zoom_sign(MEDIA)
    for sign in range(3):
        assert figures[f"sign{sign}_zoomed_cer"] == 0 < figures[f"sign{sign}_shrunk_cer"]


def test_the_truck_is_cut_out_from_one_box() -> None:
    assert real.seg_truck(MEDIA)["iou"] >= 0.85


@pytest.mark.slow
def test_what_left_the_picture_is_found_again() -> None:
    figures = real.trk_things(MEDIA, "yellow ball")["yellow ball"]
    assert figures["back"] == figures["gaps"] == 1 and figures["success"] >= 0.9


def test_a_turned_page_is_read() -> None:
    assert real.ocr_english(MEDIA, 180)["cer"] <= 0.05


@pytest.mark.slow
def test_a_cup_is_kept_for_sixty_frames() -> None:
    assert real.trk_cups(MEDIA)["right"] >= 0.6
