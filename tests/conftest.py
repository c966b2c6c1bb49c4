"""How all tests run, and a nano policy that has learned nothing."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test may fail because the machine is busy: speed is measured in bench/.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained nano policy folder."""
    from pixelis.actors import nano

    folder = tmp_path_factory.mktemp("nano")
    nano.build(0).save(folder)
    return folder
