import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.tools.measure import anls, box_iou, cer, exact, found_again, hota, mask_iou, mra, success, t_iou

RECTANGLE = st.tuples(*[st.integers(0, 50)] * 4).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def test_golden_values() -> None:
    assert box_iou((0, 0, 50, 50), (20, 20, 70, 70)) == pytest.approx(0.2195, abs=5e-5)
    assert anls("12.450", "12,450") == pytest.approx(0.8333, abs=5e-5)
    assert anls("dog", "cat") == 0
    assert mra(9, 10) == 0.8 and mra(10, 10) == 1 and mra(5, 10) == mra(1, 0) == 0  # an error on a bound is not below it
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


WHOLE, HALF, AWAY = (0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60)  # IoU with WHOLE: 1, 0.5, 0


def test_hota_by_hand() -> None:
    assert hota([WHOLE] * 4, [WHOLE] * 4) == 1
    assert hota([AWAY] * 4, [WHOLE] * 4) == 0 and hota([None], [None]) == 0 and hota([None], [WHOLE]) == 0
    assert hota([HALF] * 4, [WHOLE] * 4) == pytest.approx(10 / 19)  # right at .05 ... .5
    # three of four frames right at any threshold: DetA = AssA = 3 / (3 + 1 missed + 1 beside) = 0.6
    assert hota([WHOLE, WHOLE, WHOLE, AWAY], [WHOLE] * 4) == pytest.approx(0.6)
    # one frame missed: 3 / 4; one shown while out of sight: 3 / 4
    assert hota([WHOLE, WHOLE, WHOLE, None], [WHOLE] * 4) == pytest.approx(0.75)
    assert hota([WHOLE] * 4, [WHOLE, WHOLE, WHOLE, None]) == pytest.approx(0.75)


@given(st.lists(st.tuples(st.none() | RECTANGLE, st.none() | RECTANGLE), min_size=1, max_size=12))
def test_hota_is_the_paper_formula(pairs: list) -> None:
    """Against the sums of the paper written out: DetA from counts, AssA averaged over the matches."""
    found, gold = [f for f, _ in pairs], [g for _, g in pairs]
    values = []
    for alpha in [0.05 * i for i in range(1, 20)]:
        matched = [f is not None and g is not None and box_iou(f, g) >= alpha - 1e-9 for f, g in pairs]
        tp = sum(matched)
        fn, fp = sum(g is not None for g in gold) - tp, sum(f is not None for f in found) - tp
        det = tp / max(1, tp + fn + fp)
        ass = np.mean([tp / (tp + fn + fp) for m in matched if m]) if tp else 0.0  # TPA, FNA, FPA of one pair of tracks
        values.append(np.sqrt(det * ass))
    assert hota(found, gold) == pytest.approx(np.mean(values))
    assert hota(found, gold) == pytest.approx(hota(gold, found)) and 0 <= success(found, gold) <= 1


def test_success_counts_what_is_rightly_called_out_of_sight() -> None:
    assert success([WHOLE, HALF, AWAY, None, None, WHOLE], [WHOLE, WHOLE, WHOLE, None, WHOLE, None]) == pytest.approx(0.5)
    with pytest.raises(ValueError):
        success([WHOLE], [])


def test_found_again_is_asked_once_a_gap() -> None:
    gold = [WHOLE, None, WHOLE, WHOLE, None, None, WHOLE, WHOLE, WHOLE]
    assert found_again(gold, gold) == (2, 2)
    assert found_again([WHOLE, None, AWAY, HALF, None, None, WHOLE, AWAY, None], gold) == (1, 2)
    assert found_again([None] * 3, [None, None, WHOLE]) == (0, 0)  # never seen before: no gap
