"""100 MB of weights from one actor into the live parameters of four, through the object store, beside one memcpy.

Wall time from the call that publishes to the last answer of the receivers, in rows of REPEAT; afterwards every weight is
changed and published once more, and the receivers answer with a checksum of what they hold. The learner's parameters live
in the array that is sent, and the receivers' are then the store's memory, so that the one copy made is the store's own.
`memcpy` is `np.copyto` between two arrays that have been touched.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch
from figures import interleaved, keep, ratios, row, spread
from torch import Tensor, nn

from pixelis.memory.weights import FlatWeights, adopt, unflatten

SIZE = 100_000_000
RECEIVERS = 4
WIDTH = 2048
DEADLINE = 120
REPEAT = 5
"""Publications of a run: the store's first ones write into pages that nothing has touched."""


class Net(nn.Module):
    """About SIZE bytes of square matrices and vectors, like the layers of a network."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        layers = SIZE // ((WIDTH * WIDTH + WIDTH) * dtype.itemsize)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, dtype=dtype) for _ in range(layers))
        self.requires_grad_(False)

    def named(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return dict(self.named_parameters())

    def checksum(self) -> float:
        """A number that depends on the first element of every parameter."""
        return sum(float(p.flatten()[0]) for p in self.parameters())


class Publisher:
    """Holds the weights that train."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.set_num_threads(1)
        self.net = Net(dtype)
        self.flat = FlatWeights(self.net.named())

    def plan(self) -> Any:
        """What `weights` holds."""
        return self.flat.plan

    def change(self, value: float) -> float:
        """Other weights; their checksum."""
        for parameter in self.net.parameters():
            parameter.fill_(value)
        return self.net.checksum()

    def weights(self) -> np.ndarray:
        """All of them as bytes, as `LearnerPart.weights` gives them."""
        return self.flat.array()


class Receiver:
    """Holds the weights that act."""

    def __init__(self, dtype: torch.dtype, plan: Any) -> None:
        torch.set_num_threads(1)
        self.net, self.plan = Net(dtype), plan

    def pull(self, ref: tuple[Any]) -> None:
        """Take the weights, as `Runner._pull` does."""
        adopt(self.net.named(), unflatten(ray.get(ref[0], timeout=DEADLINE), self.plan))

    def checksum(self) -> float:
        """Of what is held."""
        return self.net.checksum()


def measure(name: str, dtype: torch.dtype) -> dict[str, object]:
    """One dtype."""
    publisher = ray.remote(num_cpus=0)(Publisher).remote(dtype)
    plan = ray.get(publisher.plan.remote(), timeout=DEADLINE)
    receivers = [ray.remote(num_cpus=0)(Receiver).remote(dtype, plan) for _ in range(RECEIVERS)]
    ray.get([r.checksum.remote() for r in receivers], timeout=DEADLINE)
    size = sum(slot.bytes for slot in plan)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)

    def publish() -> None:
        ref = publisher.weights.remote()
        ray.get([r.pull.remote((ref,)) for r in receivers], timeout=DEADLINE)

    ways: dict[str, Callable[[], object]] = {
        "memcpy": lambda: [np.copyto(target, source) for _ in range(REPEAT)],
        "publish": lambda: [publish() for _ in range(REPEAT)],
    }
    times = interleaved(ways, time.perf_counter)
    wanted = ray.get(publisher.change.remote(2.0), timeout=DEADLINE)
    publish()
    found = ray.get([r.checksum.remote() for r in receivers], timeout=DEADLINE)
    assert found == [wanted] * RECEIVERS, f"{found} received, {wanted} sent"
    result: dict[str, object] = {"bytes": size}
    for way, values in times.items():
        taken = result[f"{way}_ms"] = spread([1000 * t / REPEAT for t in values])
        row(f"{name}: {way}", taken, "ms")
    times_memcpy = result["publish_per_memcpy"] = ratios(times["publish"], times["memcpy"])
    row(f"{name}: publish / memcpy", times_memcpy, "", "<= 5")
    for actor in (publisher, *receivers):
        ray.kill(actor)
    return result


def main() -> None:
    """Runs all of it."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30, logging_level="warning")
    try:
        keep("weights", {name: measure(name, getattr(torch, name)) for name in ("bfloat16", "float32")})
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
