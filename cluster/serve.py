"""The tools as a Ray Serve deployment: Serve keeps and scales the replicas, servers and client are the pool's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from pixelis.cluster.grant import PoolSettings, grant
from pixelis.cluster.tool_actor import CALLS, Make, ToolActor
from pixelis.cluster.watchdog import tell
from pixelis.tools.call import Failure
from pixelis.tools.server import Busy
from pixelis.tools.tool import Answer, Ask


class ServedTools(ToolActor):
    """A tool actor that Serve made."""

    async def ids(self) -> Mapping[str, str]:
        """The tools' ids by op."""
        return self.server.ids

    async def check_health(self) -> None:
        """Asked by Serve, which replaces a replica whose answer is an error."""
        if self.server.overdue > 10:
            raise RuntimeError(f"a model works {self.server.overdue:.0f} s beyond its deadline")


class ServeReplica:
    """A deployment as a client's one replica: Serve itself chooses among what stands behind it."""

    name = "serve"

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def ask(self, asked: Sequence[tuple[Ask, float]], media: Mapping[str, Any]) -> list[Answer]:
        """One request. A replica that died is a failure to be tried again: the next request goes to another."""
        try:
            found: list[Answer] = await self.handle.ask.remote(asked, tuple(media), *media.values())
        except BackPressureError as error:
            raise Busy(str(error)) from error
        except (RayActorError, RayServeException) as error:
            died = Answer(Failure("infra", "died", str(error).splitlines()[0]))
            return [died] * len(asked)
        return found

    async def probe(self) -> None:
        """Serve watches its replicas itself; this says that one answers."""
        await self.handle.probe.remote()

    async def ids(self) -> Mapping[str, str]:
        """The tools' ids by op."""
        found: Mapping[str, str] = await self.handle.ids.remote()
        return found


def start_served(make: Make, settings: PoolSettings, name: str, spoken_for: float = 0.0) -> DeploymentHandle:
    """Deploys the tools as an application of their own; arguments as for `keeper.start_keeper`."""
    free = ray.available_resources()
    granted = grant(settings, free | {"CPU": free.get("CPU", 0.0) - spoken_for})
    if granted.told:
        tell(granted.told)
    actor = {"num_cpus": granted.cpus, "num_gpus": granted.gpus}
    scale = {"min_replicas": granted.replicas, "max_replicas": granted.limit, "target_ongoing_requests": 2}
    made: Any = serve.deployment(
        ServedTools, name=name, ray_actor_options=actor, max_ongoing_requests=CALLS, autoscaling_config=scale
    )
    serve.start(proxy_location="Disabled")
    return serve.run(made.bind(make, granted.gpus), name=name, route_prefix=None)


def stop_served(name: str) -> None:
    """Ends the application."""
    serve.delete(name)
