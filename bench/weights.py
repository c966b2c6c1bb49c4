"""100 MB of weights from one actor into the live parameters of four, through the object store, beside one memcpy.

Wall time from the call that publishes to the last answer of the receivers; each publication changes every weight, and
the receivers answer with a checksum of what they hold. The old array is released before the next is put, so that the
store writes into pages that it has used before. `copies` takes the same way with a copy of every tensor on the way, and
`one memcpy` is `np.copyto` between two arrays that have been touched.
"""

import time
from collections.abc import Callable
from functools import partial
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

    def pull(self, ref: tuple[Any], copies: bool) -> None:
        """Take the weights, as `Runner._pull` does; `copies`: with a copy of each tensor first."""
        state = unflatten(ray.get(ref[0], timeout=DEADLINE), self.plan)
        adopt(self.net.named(), {k: v.clone() for k, v in state.items()} if copies else state)

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

    def publish(copies: bool) -> None:
        ref = publisher.weights.remote()
        ray.get([r.pull.remote((ref,), copies) for r in receivers], timeout=DEADLINE)

    ways: dict[str, Callable[[], object]] = {
        "memcpy": partial(np.copyto, target, source),
        "publish": partial(publish, False),
        "copies": partial(publish, True),
    }
    times = interleaved(ways, time.perf_counter)
    for copies in (False, True):
        wanted = ray.get(publisher.change.remote(2.0 + copies), timeout=DEADLINE)
        publish(copies)
        found = ray.get([r.checksum.remote() for r in receivers], timeout=DEADLINE)
        assert found == [wanted] * RECEIVERS, f"{found} received, {wanted} sent"
    result: dict[str, object] = {"bytes": size}
    for way, values in times.items():
        taken = result[f"{way}_ms"] = spread([1000 * t for t in values])
        row(f"{name}: {way}", taken, "ms")
    for way, bar in (("publish", "<= 5"), ("copies", "")):
        times_memcpy = result[f"{way}_per_memcpy"] = ratios(times[way], times["memcpy"])
        row(f"{name}: {way} / memcpy", times_memcpy, "", bar)
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
