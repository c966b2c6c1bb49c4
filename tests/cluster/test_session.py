"""A Ray session that does not come up: one clear line where the machine is busy, Ray's own error for anything else. No Ray."""

import pytest
import ray

from pixelis.cluster.config import load
from pixelis.cluster.errors import is_users, told
from pixelis.cluster.run import ray_session

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.mark.parametrize(("said", "users"), [(LATE, True), ("Can't find a `node_ip_address.json` file", False)])
def test_a_busy_machine_is_told_of_in_one_line(said: str, users: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise Exception(said)

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Exception) as caught, ray_session([load("tiny_sft")], dashboard=False):
        pass
    assert is_users(caught.value) == users
    assert told(caught.value).startswith("Ray did not come up") == users
