"""How all tests run."""

from hypothesis import HealthCheck, settings

# No test may fail because the machine is busy: speed is measured in bench/.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
