import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.tools.measure import anls, box_iou, cer, exact, mask_iou, t_iou

RECTANGLE = st.tuples(*[st.integers(0, 50)] * 4).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def test_golden_values() -> None:
    assert box_iou((0, 0, 50, 50), (20, 20, 70, 70)) == pytest.approx(0.2195, abs=5e-5)
    assert anls("12.450", "12,450") == pytest.approx(0.8333, abs=5e-5)
    assert anls("dog", "cat") == 0
    assert t_iou((2, 9), (4, 12)) == 0.5
    assert cer("K7P", "K7P") == 0 and cer("K7", "K7P") == pytest.approx(1 / 3) and cer("abcdef", "ab") == 2


def test_windows_apart_do_not_overlap() -> None:
    assert t_iou((0, 2), (4, 6)) == 0 and t_iou((3, 3), (3, 3)) == 0


def test_empty_things() -> None:
    assert box_iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0
    assert mask_iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0
    assert cer("", "") == 0 and cer("x", "") == 1 and anls("", "") == 1
    with pytest.raises(ValueError, match="shape"):
        mask_iou(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


def test_answers() -> None:
    assert anls("Cat ", ["dog", "cat"]) == 1
    assert exact(" the  Cat", "The cat") and not exact("cat", "cats")


@given(RECTANGLE, RECTANGLE)
def test_boxes_agree_with_masks(a: tuple, b: tuple) -> None:
    def mask(box: tuple) -> np.ndarray:
        array = np.zeros((100, 100), bool)
        array[box[1] : box[3], box[0] : box[2]] = True
        return array

    assert box_iou(a, b) == pytest.approx(mask_iou(mask(a), mask(b)))
    assert box_iou(a, b) == box_iou(b, a)
