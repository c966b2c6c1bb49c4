"""`pixelis submit`, `jobs`, `logs` and `stop`: runs as Ray jobs, which go on when the terminal is closed.

A job is `pixelis train` on the cluster's head node, in the folder it was submitted from, with the interpreter that submitted
it, and with its config as it was then: `runs/NAME/jobs/ID.toml`. That folder and that interpreter are paths: a cluster of
several machines must see them on a file system that they share, and the job says so when it does not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import requests  # type: ignore[import-untyped]
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobStatus, JobSubmissionClient
from rich.console import Console
from rich.table import Table

from pixelis.cluster.errors import UsageError
from pixelis.cluster.track import last_step, read_summary

PATIENCE = 60.0
"""Seconds for one answer of a cluster, for a job to begin, and for Ray to notice that one has ended."""
TICK = 0.5
"""Seconds between looks at a job."""
CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.services",
          "ray._private.authentication.authentication_token_setup")  # fmt: skip
"""Loggers that tell how an address was found."""


class ClusterError(RuntimeError):
    """No cluster answers, or it does not do what it was asked for; the message says what to do."""


class Client(JobSubmissionClient):
    """Seam: Ray's own client, whose every request passes here and gets a deadline."""

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> requests.Response:
        try:
            return super()._do_request(method, endpoint, timeout=PATIENCE, **kwargs)
        except requests.RequestException as error:
            raise ClusterError(f"no Ray cluster answers at {self._address}") from error
        except AuthenticationError as error:
            why = str(error).splitlines()[0]
            raise ClusterError(f"{self._address}: {why}; set RAY_AUTH_TOKEN to what `ray get-auth-token` says there") from error


@dataclass(frozen=True, slots=True)
class Submission:
    """A run as a Ray job. All but `id`, `status` and `since` travels as the job's metadata.

    Example: ``Submission("sft-2", "sft", "sft", "/home/me", 1200, 600, "pixelis submit sft", "RUNNING", 1.7e9)``
    """

    id: str
    run: str
    phase: str
    folder: str
    """Where it was submitted, and works: `runs/` is there."""
    steps: int
    """At which it ends."""
    grace: int
    """Seconds that it has for its checkpoint once it is asked to stop."""
    command: str
    """That submits it again, in `folder`."""
    status: str = "PENDING"
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED, as Ray calls them."""
    since: float = 0.0
    """When it was submitted, in seconds since 1970."""

    @property
    def root(self) -> Path:
        """The run's folder."""
        return Path(self.folder) / "runs" / self.run

    @property
    def config(self) -> Path:
        """What it runs, as it was submitted."""
        return self.root / "jobs" / f"{self.id}.toml"

    @property
    def ended(self) -> bool:
        """Whether it does nothing any more."""
        return JobStatus(self.status).is_terminal()

    @property
    def step(self) -> int | None:
        """How far its run is; None when its folder is out of reach, or before the first step."""
        return last_step(self.root, self.phase)

    def metadata(self) -> dict[str, str]:
        """What Ray keeps of it, and the dashboard shows."""
        kept = {key: str(value) for key, value in asdict(self).items() if key not in ("id", "status", "since")}
        return {"pixelis": version("pixelis"), **kept}

    @classmethod
    def of(cls, job: Any) -> Submission:
        """From Ray's JobDetails of one of our jobs."""
        told: dict[str, Any] = job.metadata
        kept = {key: told[key] for key in ("run", "phase", "folder", "command")}
        kept |= {key: int(told[key]) for key in ("steps", "grace")}
        return cls(job.submission_id, **kept, status=job.status.value, since=(job.start_time or 0) / 1000)


def connect(address: str | None, start: str = "ray start --head") -> Client:
    """The Jobs API of the cluster at `address`; without one, as Ray's own commands find it. ClusterError when there is none.

    That is RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or the Ray that was started on this machine.
    """
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    if address:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray's client takes the environment's before the one it is given
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as `ray.init` does when it joins a cluster
    try:
        return Client()
    except ClusterError as error:
        told = str(error)
    except (ConnectionError, ValueError, RuntimeError, requests.RequestException, RayError) as error:
        told = f"no Ray cluster with a Jobs API is at hand ({_last(str(error))})"
    raise ClusterError(f"{told}; start one with `{start}`, or name one with --address http://HOST:8265 or RAY_ADDRESS")


def submissions(client: JobSubmissionClient) -> list[Submission]:
    """Our jobs of a cluster, oldest first."""
    ours = [Submission.of(job) for job in client.list_jobs() if "pixelis" in (job.metadata or {})]
    return sorted(ours, key=lambda one: one.since)


def next_id(run: str, taken: Iterable[str]) -> str:
    """The id of a run's next job: Ray takes each only once.

    Example:
        >>> next_id("my run", ["my_run-1", "my_run-9", "other-12"])
        'my_run-10'
    """
    name = re.sub(r"[^\w.-]", "_", run, flags=re.ASCII)
    attempts = [re.fullmatch(rf"{re.escape(name)}-(\d+)", one) for one in taken]
    return f"{name}-{max((int(found[1]) for found in attempts if found), default=0) + 1}"


def find(jobs: Sequence[Submission], word: str) -> Submission:
    """The job with this id, or the newest of the run with this name. UsageError when there is none, or several go on."""
    named = [one for one in jobs if one.id == word] or [one for one in jobs if one.run == word]
    if not named:
        known = ", ".join(one.id for one in jobs[-10:]) or "none"
        raise UsageError(f"{word}: no job or run of this cluster; its newest jobs: {known}")
    going = [one for one in named if not one.ended]
    if len(going) > 1:
        raise UsageError(f"{word}: {', '.join(f'{one.id} in {one.folder}' for one in going)} go on; name one of them")
    return (going or named)[-1]


def script(job: Submission, python: str, resume: bool) -> str:
    """The shell line that Ray runs on the head node. Whatever is not there is told in one line, status 2.

    `exec`, so that Ray's signals reach Python itself, and no shell that ends before it.
    """
    folder, config, interpreter = (shlex.quote(str(one)) for one in (job.folder, job.config, python))
    unseen = f"does not see {job.config}: submit from a folder on a file system that all machines of the cluster share"
    no_python = f"has no {python}: pixelis must be installed there at the same path as where it was submitted"
    return (
        f"cd {folder} 2>/dev/null && test -r {config} || {_refuse(unseen)}; test -x {interpreter} || {_refuse(no_python)}; "
        f'echo {job.id} "runs on $(uname -n)" {shlex.quote(f"in {job.folder}")}; '
        f"exec {interpreter} -m pixelis.cluster.cli train {config}{' --resume' * resume}"
    )


def _refuse(why: str) -> str:
    return f'{{ echo "pixelis: $(uname -n)" {shlex.quote(why)} >&2; exit 2; }}'


def submit(config: Path, sets: Sequence[str], resume: bool, address: str | None, follow: bool) -> int:
    """`pixelis submit`: sends a job, and says so once it runs; with `follow` prints what it says. Returns an exit status.

    What is wrong with the config is raised as by `train`, before anything is sent; ClusterError when the job does not begin.
    """
    from pixelis.cluster.config import dump, load
    from pixelis.cluster.run import looked_over, slots
    from pixelis.memory.log import replace_file

    run = looked_over(load(config, sets), resume)
    client = connect(address, f"ray start --head --num-cpus={max(os.cpu_count() or 1, slots(run))}")
    jobs, here = submissions(client), str(Path.cwd())
    again = shlex.join(["pixelis", "submit", str(config), *(word for one in sets for word in ("--set", one))])
    name = next_id(run.name, [one.id for one in jobs])
    job = Submission(name, run.name, run.phase, here, run.stop.steps, int(run.deadline), again)
    for one in jobs:
        if one.root == job.root and not one.ended:
            raise UsageError(
                f"run {run.name} goes on as job {one.id}: end it with `pixelis stop {one.id}`, or take another --set name=..."
            )
    job.config.parent.mkdir(parents=True, exist_ok=True)
    replace_file(job.config, dump(run).encode())
    # A run may need as long for its last step as it gives its parts; Ray would kill it after 3 s.
    environment = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(job.grace)}}
    line = script(job, sys.executable, resume)
    try:
        client.submit_job(entrypoint=line, submission_id=job.id, runtime_env=environment, metadata=job.metadata())
    except RuntimeError as error:
        raise ClusterError(f"{client.get_address()} does not take {job.id}: {_last(str(error))}") from error
    print(_begun(client, job))
    print(f"pixelis logs {job.id} --follow  |  pixelis stop {job.id}  |  {client.get_address()}/#/jobs/{job.id}", flush=True)
    return _follow(client, job) if follow else 0


def show(address: str | None, as_json: bool) -> None:
    """`pixelis jobs`: a table of our jobs, oldest first."""
    jobs = submissions(connect(address))
    if as_json:
        print(json.dumps([{**asdict(one), "step": one.step} for one in jobs]))
        return
    table = Table("id", "run", "phase", "status", "since", "step")
    for one in jobs:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.since))
        step = "-" if one.step is None else f"{one.step}/{one.steps}"
        table.add_row(one.id, one.run, one.phase, one.status, since, step)
    Console().print(table if jobs else "no jobs yet: pixelis submit CONFIG")


def logs(word: str, follow: bool, address: str | None) -> int:
    """`pixelis logs`: what a job has said so far; with `follow` also what it says until it ends. Returns as `submit`."""
    client = connect(address)
    job = find(submissions(client), word)
    if follow:
        return _follow(client, job)
    print(client.get_job_logs(job.id), end="")
    return 0


def stop(word: str, address: str | None) -> None:
    """`pixelis stop`: as Ctrl-C, and told what is saved. ClusterError when the job has not ended after its grace."""
    client = connect(address)
    job = find(submissions(client), word)
    if job.ended or not client.stop_job(job.id):
        print(f"{job.id} has ended before: {client.get_job_status(job.id).value}")
        return
    print(f"{job.id} finishes its step and saves it (then it ends; at the latest in {job.grace} s)", flush=True)
    ended = _wait(job.grace + PATIENCE, lambda: client.get_job_status(job.id).is_terminal())
    if not ended:
        raise ClusterError(f"{job.id} has not ended within {job.grace + PATIENCE:g} s; look at `pixelis logs {job.id}`")
    print(saved(job, client.get_job_logs(job.id)))


def saved(job: Submission, said: str) -> str:
    """What of a stopped job is on disk, as far as can be seen from here, and how to go on. `said`: its log."""
    from pixelis.memory.checkpoint import latest

    where = "" if str(Path.cwd()) == job.folder else f" (in {job.folder})"
    onwards = f"continue with: {job.command} --resume{where}"
    if not job.root.is_dir():
        return f"stopped; its checkpoints are on the cluster, in {job.root}\n{onwards}"
    if job.phase in read_summary(job.root)["phases"]:
        return f"stopped after the end of {job.phase}: {job.root / 'policy' / job.phase}"
    newest = latest(job.root / "checkpoints" / job.phase)
    if newest is None:
        return f"stopped before anything was saved\nagain: {job.command}{where}"
    if f"stopped; checkpoint {newest.relative_to(job.folder)}" in said:
        return f"stopped; checkpoint {newest}\n{onwards}"
    return f"stopped, but not at a checkpoint; what came after {newest} is done again\n{onwards}"


def _begun(client: JobSubmissionClient, job: Submission) -> str:
    """The line with which a job begins. ClusterError with the job's own last line when it ends before."""
    found: list[str] = []

    def look() -> bool:
        status = client.get_job_status(job.id)
        lines = client.get_job_logs(job.id).splitlines() if status != JobStatus.PENDING else []
        found[:] = [line for line in lines if line.startswith(f"{job.id} runs on ")]
        if not found and status.is_terminal():
            raise ClusterError(f"{job.id} {status.value.lower()}: {_reason(lines, client.get_job_info(job.id).message)}")
        return bool(found)

    if _wait(PATIENCE, look):
        return found[0]
    return f"{job.id} is submitted, and has not begun within {PATIENCE:g} s: {_reason([], client.get_job_info(job.id).message)}"


def _reason(lines: Sequence[str], message: str | None) -> str:
    """Why a job ended: our own last line in its log, or else the last of what Ray says."""
    ours = [line.removeprefix("pixelis: ") for line in lines if line.startswith("pixelis: ")]
    return ours[-1] if ours else _last(message or "no reason is known")


def _follow(client: JobSubmissionClient, job: Submission) -> int:
    """Prints what a job says until it ends; Ctrl-C ends the printing only. The exit status that tells how it ended."""

    async def tail() -> None:
        async for lines in client.tail_job_logs(job.id):
            print(lines, end="", flush=True)

    try:
        asyncio.run(tail())
    except KeyboardInterrupt:
        print(f"\n{job.id} goes on; `pixelis stop {job.id}` stops it", file=sys.stderr)
        return 130
    except (RuntimeError, aiohttp.ClientError) as error:
        raise ClusterError(f"lost the cluster ({_last(str(error))}); {job.id} may go on: `pixelis jobs`") from error
    info = client.get_job_info(job.id)
    print(f"{job.id} {info.status.value}", file=sys.stderr)
    return {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 130}.get(info.status, info.driver_exit_code or 1)


def _wait(seconds: float, done: Callable[[], bool]) -> bool:
    """Whether it is done within some seconds."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(TICK)
    return True


def _last(text: str) -> str:
    """A text in one line: of a traceback, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1:] if "Traceback" in text else lines)
