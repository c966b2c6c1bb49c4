"""The load test: every call is made, computed and counted."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.tools.call import ToolCall, ToolFailure
from pixelis.tools.load import Load, load
from pixelis.tools.local import Local
from tests.fakes_media import plate, png


def test_every_call_is_made_and_none_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "plate.png"
    path.write_bytes(png(plate("K7P")))
    found = load(Local(), path, ToolCall("SEG", {"on": "img0", "point": [400, 450]}), repeat=10, concurrency=4)
    assert len(found.ms) == 10 == sum(size * count for size, count in found.batches.items())
    assert found.ends == {"ok": 10} and found.seconds * 1000 >= max(found.ms) > 0
    assert "10 calls" in str(found) and "p99" in str(found)
    with pytest.raises(ToolFailure, match="dangling_handle"):
        load(Local(), path, ToolCall("SEG", {"on": "img7", "point": [400, 450]}), repeat=2, concurrency=1)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_a_latency_that_so_many_keep(ms: list[float], share: float) -> None:
    found = Load(tuple(ms), 1.0, {}, {}).percentile(share)
    assert found in ms and sum(one <= found for one in ms) >= share * len(ms) - 1e-9
    assert sum(one < found for one in ms) < share * len(ms) + 1e-9
