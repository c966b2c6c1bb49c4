"""The command line. Nothing heavy is imported before a command needs it: `--help` and `tool` answer at once."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from pixelis.cluster.errors import UsageError, is_users, told

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="""Train and question agents that answer by acting on pixels.

A vision-language policy calls six tools (SEG, ZOOM, TRK, OCR, TEMP, PROP) on images and clips, and learns to do so on Ray:
rollout actors, a replay shard, a learner.

**First steps**

* `pixelis demo` trains the small policy from scratch and writes `runs/demo/report.html`
* `pixelis ask runs/demo photo.jpg "What is the code on the red plate?"`
* `pixelis tool OCR photo.jpg --args '{"on":"img0"}'`
* `pixelis doctor` says what of this machine is missing
""",
)

Set = Annotated[list[str] | None, typer.Option("--set", help="Change one setting, like stop.steps=50; may be repeated.")]
Dashboard = Annotated[bool, typer.Option("--dashboard", help="Start the Ray dashboard too.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard, like http://host:8265. [default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or the Ray "
        "that was started on this machine]"
    ),
]
Follow = Annotated[bool, typer.Option("--follow", help="Print what it says until it ends; Ctrl-C ends the printing only.")]
Job = Annotated[str, typer.Argument(help="A job's id, or a run's name: its newest job.", metavar="ID|RUN")]


@app.callback(invoke_without_command=True)
def root(show_version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    """What stands before any command."""
    if show_version:
        print(f"pixelis {version('pixelis')}")
        raise typer.Exit


@app.command()
def pretrain(seed: Annotated[int, typer.Option(help="Of weights, scenes and batches.")] = 0) -> None:
    """Build the nano policy and train its vision from scratch (minutes; kept in runs/cache by the recipe's hash).

    Example: `pixelis pretrain`
    """
    from pixelis.cluster.pretrain import backbone

    print(backbone(seed))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A file like configs/sft.toml, or sft or rft: these come with pixelis.")],
    sets: Set = None,
    resume: Resume = False,
    dashboard: Dashboard = False,
) -> None:
    """Run one phase: SFT (imitate the teacher) or RFT (learn from own rollouts), as the config says.

    Ctrl-C finishes the step and leaves a checkpoint.

    Examples:

    * `pixelis train configs/sft.toml`
    * `pixelis train configs/rft.toml --set start=runs/sft --set stop.steps=50`
    * `pixelis train sft --resume` (without a checkout: the configs come with the package)
    """
    from pixelis.cluster.config import load
    from pixelis.cluster.run import Interrupted
    from pixelis.cluster.run import train as run

    try:
        folder = run(load(config, sets or []), resume, dashboard)
    except Interrupted as stopped:
        words = ["pixelis", "train", str(config), *(f"--set {one}" for one in sets or []), "--resume"]
        _stopped(stopped, " ".join(words))
    from pixelis.cluster.report import write_report

    print(write_report(folder))


@app.command()
def submit(
    config: Annotated[Path, typer.Argument(help="As for `pixelis train`.")],
    sets: Set = None,
    resume: Resume = False,
    address: Address = None,
    follow: Follow = False,
) -> None:
    """Run one phase as a job of a Ray cluster (`ray start --head`): it goes on when this terminal is closed.

    It is `pixelis train` on the cluster's head node, in the folder where you are: `runs/` is here, and paths mean the same. The
    config is taken as it is now, --set included; later edits change nothing. A cluster of other machines must see this
    folder and this Python at the same paths; the job says so when it does not.

    Examples:

    * `pixelis submit configs/rft.toml --set start=runs/sft --follow`
    * `pixelis submit configs/rft.toml --set start=runs/sft --resume` (after `pixelis stop rft`)
    """
    from pixelis.cluster.submit import submit as run

    raise typer.Exit(run(config, sets or [], resume, address, follow))


@app.command()
def jobs(address: Address = None, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List submitted runs: status, since when, and how far the run is, if its folder can be seen from here."""
    from pixelis.cluster.submit import show

    show(address, as_json)


@app.command()
def logs(
    job: Job,
    follow: Follow = False,
    address: Address = None,
) -> None:
    """Print what a submitted run says.

    Example: `pixelis logs rft --follow`
    """
    from pixelis.cluster.submit import logs as run

    raise typer.Exit(run(job, follow, address))


@app.command()
def stop(job: Job, address: Address = None) -> None:
    """Stop a submitted run as Ctrl-C stops one here: it finishes its step and saves it. Says what is saved and how to go on.

    Example: `pixelis stop rft`
    """
    from pixelis.cluster.submit import stop as run

    run(job, address)


@app.command()
def demo(resume: Resume = False, dashboard: Dashboard = False) -> None:
    """The whole loop, small: pre-train, SFT, CC-RFT, TTRL under another light, report. Under half an hour on two idle cores.

    Writes runs/demo with summary.json, checkpoints, every trajectory, and report.html; runs/demo-stream is what TTRL was asked.
    Without --resume an earlier demo is replaced.
    """
    from pixelis.cluster.demo import demo as run
    from pixelis.cluster.run import Interrupted

    try:
        run(resume, dashboard)
    except Interrupted as stopped:
        _stopped(stopped, "pixelis demo --resume")


@app.command()
def adapt(
    checkpoint: Annotated[Path, typer.Argument(help="A policy folder, a checkpoint, or a run.")],
    stream: Annotated[
        str,
        typer.Argument(help="A file of questions like tasks.jsonl, or a shift of PixelWorld like lighting:0.7 (or two: a,b)."),
    ],
    name: Annotated[str, typer.Option(help="The run: runs/NAME.")] = "adapt",
    config: Annotated[str, typer.Option(help="A file like configs/ttrl.toml, or the name of one that comes along.")] = "ttrl",
    n: Annotated[int, typer.Option("--n", help="Questions of a shifted stream.", min=1)] = 1200,
    sets: Set = None,
    resume: Resume = False,
    dashboard: Dashboard = False,
) -> None:
    """Learn at test time from questions that nobody has the key of (Pixel TTRL).

    Each question is asked several times; the rollouts vote, the winner is the answer, and a clear vote is learned from. Answers
    go to runs/NAME/answers.jsonl before anything is learned from them, and what was decided to runs/NAME/journal.jsonl. What a
    file says of answers is not read; a shift is rendered, and scored at the end, by processes of their own. Then greedy success
    on other scenes, as they are and under the shift, is measured before and after. runs/NAME/report.html shows it all.

    Examples:

    * `pixelis adapt runs/demo lighting:0.7`
    * `pixelis adapt runs/demo my/tasks.jsonl --name mine --set learner.lr=2e-5`
    * `pixelis adapt runs/demo lighting:0.7 --resume`
    """
    from pixelis.cluster.adapt import adapt as run
    from pixelis.cluster.run import Interrupted

    try:
        folder = run(checkpoint, stream, name, config, sets or [], n, resume, dashboard)
    except Interrupted as stopped:
        words = ["pixelis", "adapt", str(checkpoint), stream, "--name", name, "--config", config, "--n", str(n)]
        words += [f"--set {one}" for one in sets or []]
        _stopped(stopped, " ".join([*words, "--resume"]))
    from pixelis.cluster.report import write_report

    print(write_report(folder))


@app.command("stream")
def render_stream(
    shift: Annotated[str, typer.Argument(help="lighting, motion or noise, each with :SEVERITY; commas between several.")],
    folder: Annotated[Path, typer.Argument(help="Where tasks.jsonl and media go.")],
    key: Annotated[Path, typer.Option(help="Where the answers go: not into that folder.")],
    n: Annotated[int, typer.Option("--n", help="Questions.", min=1)] = 800,
    family: Annotated[list[str] | None, typer.Option(help="code, clip or tally; repeatable. [default: code, clip]")] = None,
    seed: Annotated[int | None, typer.Option(help="Which scenes. [default: drawn]", min=0)] = None,
) -> None:
    """Render a stream of PixelWorld's questions under a shift, for test-time training, and apart from it their answers.

    Example: `pixelis stream lighting:0.7 asked --key key.jsonl --n 400`
    """
    import secrets

    from pixelis.cluster.stream import render

    render(shift, folder, key, family or ["code", "clip"], n, secrets.randbelow(2**20) if seed is None else seed)


@app.command("score")
def score_answers(
    answers: Annotated[Path, typer.Argument(help="A file like runs/adapt/answers.jsonl.")],
    key: Annotated[Path, typer.Argument(help="The key of the stream.")],
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON.")] = False,
) -> None:
    """How many answers to a stream are right: all, its first and last quarter, by family and shift, and those given for sure.

    Leaves score.json beside the answers: with it `pixelis report` shows what needs a key.

    Example: `pixelis score runs/adapt/answers.jsonl key.jsonl`
    """
    from pixelis.cluster.stream import command

    command(answers, key, as_json)


@app.command("eval")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A policy folder, a checkpoint, or a run.")],
    suite: Annotated[str, typer.Option(help="Which questions: pixelworld, or a file like tasks.jsonl.")] = "pixelworld",
    n: Annotated[int, typer.Option("--n", help="Questions a family, or lines of the file.", min=1)] = 200,
    split: Annotated[str, typer.Option(help="vision, demo, rft, dev or heldout.")] = "heldout",
    family: Annotated[
        list[str] | None, typer.Option(help="code, clip or tally; may be repeated. [default: code, clip]")
    ] = None,
    shift: Annotated[
        str | None,
        typer.Option(metavar="NAME:SEVERITY", help="Change the pixels: lighting, motion or noise, from 0 (not at all) to 1."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON.")] = False,
) -> None:
    """How good a policy is: success, valid calls, chain length, RaPR and visual fidelity, by family.

    Under a shift also how far the tools themselves carry: what the shortest chain with gold boxes gets right.

    Examples:

    * `pixelis eval runs/demo --suite pixelworld --n 100`
    * `pixelis eval runs/demo --shift noise:0.5 --json`
    * `pixelis eval runs/demo --suite my/tasks.jsonl`
    """
    from pixelis.cluster.evaluate import command

    command(checkpoint, suite, n, split, family or ["code", "clip"], shift, as_json)  # type: ignore[arg-type]  # command checks it


@app.command()
def ask(
    checkpoint: Annotated[Path, typer.Argument(help="A policy folder, a checkpoint, or a run.")],
    file: Annotated[Path, typer.Argument(help="An image or a clip.")],
    question: str,
    save: Annotated[Path | None, typer.Option(help="Draw the evidence: .png or .jpg, or .mp4 for a clip.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The trajectory as JSON.")] = False,
) -> None:
    """Ask a policy about a picture; prints every call, what it found, and the answer.

    Example: `pixelis ask runs/demo scene.jpg "What is the code on the red plate?" --save evidence.png`
    """
    from pixelis.cluster.ask import command

    command(checkpoint, file, question, save, as_json)


@app.command()
def tool(
    op: Annotated[str, typer.Argument(help="SEG, ZOOM, TRK, OCR, TEMP or PROP.")],
    file: Annotated[Path, typer.Argument(help="An image or a clip: its handle is img0.")],
    args: Annotated[str, typer.Option("--args", help="The arguments as JSON.")] = "{}",
    save: Annotated[
        Path | None, typer.Option(help="Draw the result: .png or .jpg (a picture, or frames side by side), .mp4 (a clip).")
    ] = None,
    repeat: Annotated[int, typer.Option(help="Then a load test: make the call so many times more.", min=0)] = 0,
    concurrency: Annotated[int, typer.Option(help="Callers at once in the load test.", min=1)] = 1,
    sam: Annotated[str, typer.Option(help="SEG and TRK on SAM 2: a checkpoint, or a hub id that is in the cache.")] = "",
    easyocr: Annotated[str, typer.Option(help="OCR on EasyOCR: the folder of its weights.")] = "",
    clip: Annotated[str, typer.Option(help="Texts for TEMP and SEG: a CLIP model's folder, or a hub id in the cache.")] = "",
    device: Annotated[str, typer.Option(help="Where learned backends run, like cuda:0.")] = "cpu",
) -> None:
    """Run one tool and print its result as JSON. Coordinates are integers 0..1000 of the picture's width and height.

    Examples:

    * `pixelis tool OCR sign.png --args '{"on":"img0"}'`
    * `pixelis tool SEG truck.jpg --args '{"on":"img0","box":[40,300,900,850]}' --save mask.png`
    * `pixelis tool TRK cups.mp4 --args '{"on":"img0","box":[448,418,573,749],"t0":0,"t1":200}' --save cup.mp4`
    * `pixelis tool OCR sign.png --repeat 200 --concurrency 16` (calls a second, latency, batch sizes; nothing is remembered)
    """
    from pixelis.tools import draw
    from pixelis.tools.backend import Learned, missing, tools
    from pixelis.tools.inspect import run_file, whole_call
    from pixelis.tools.local import Local

    call = whole_call(op, _arguments(args))
    if save is not None:
        draw.check_target(save)
    learned = Learned(sam, easyocr, clip, device)
    for line in missing(learned):
        print(f"pixelis: {line}", file=sys.stderr)
    local = Local(tools(learned))
    result, workspace = run_file(file, op, call.arguments, local)
    print(json.dumps(result.to_dict(), ensure_ascii=False))
    if save is not None and result.ok:
        draw.save(workspace, [(call, result)], save)
    if result.failure is not None:
        failure = result.failure
        print(f"pixelis: {op}: {failure.message or failure.code} ({failure.code})", file=sys.stderr)
        raise typer.Exit(2 if failure.cls == "policy" else 1)
    if repeat:
        from rich.console import Console

        from pixelis.cluster.progress import Bar
        from pixelis.tools.load import load

        with Bar(op, repeat, "calls", Console(stderr=True)) as bar:
            found = load(local, file, call, repeat, concurrency, bar.to)
        print(found)


@app.command()
def replay(
    trajectory: Annotated[Path, typer.Argument(help="A run, its replay folder, an .arrow file, or a trajectory as JSON.")],
    name: Annotated[str | None, typer.Option("--id", help="Only the trajectory with this id.")] = None,
    media: Annotated[Path | None, typer.Option(help="Where its media are; found beside it otherwise.")] = None,
) -> None:
    """Run every call of stored trajectories again and compare it with what was recorded.

    Example: `pixelis replay runs/demo/heldout-rft.arrow`
    """
    from pixelis.cluster.verify import command

    command(trajectory, name, media)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run, like runs/demo.")]) -> None:
    """Write the run's report.html: curves, validity, chain length, tools, test-time training, and single episodes with their
    evidence.
    """
    from pixelis.cluster.report import write_report

    print(write_report(run))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A policy folder, a checkpoint, or a run.")],
    folder: Annotated[Path, typer.Argument(help="Where to write it; made, or empty.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="Only the LoRA adapter, as peft loads it.")] = False,
) -> None:
    """Write a policy as a plain transformers checkpoint, which `from_pretrained` opens without pixelis.

    LoRA adapters are added to its weights; with --adapter they alone are written, for `PeftModel.from_pretrained(base, DIR)`:
    base is the policy that the phase started from, and adapter_config.json names it.

    Examples:

    * `pixelis export runs/demo my-policy`
    * `pixelis export runs/sft_8b my-adapter --adapter`
    """
    from pixelis.cluster.policy import export as write

    write(checkpoint, folder, adapter)
    print(folder)


tasks = typer.Typer(no_args_is_help=True, help="Questions of your own, in a file: one JSON object a line (docs/tasks.md).")
app.add_typer(tasks, name="tasks")


@tasks.command("check")
def check_tasks(file: Annotated[Path, typer.Argument(help="A file like tasks.jsonl; media paths are beside it.")]) -> None:
    """Look at every question of a file: whether the line, its media and its evidence can be used. Exits with 1 if not all can.

    Example: `pixelis tasks check my/tasks.jsonl`
    """
    from pixelis.cluster.tasks import command

    if not command(file):
        raise typer.Exit(1)


traces = typer.Typer(
    no_args_is_help=True,
    help="""Demonstrations in a file, a question with thoughts and calls a line, for SFT (docs/traces.md).

`pixelis traces example demo` writes some, `pixelis traces check` plays them through the real tools, and
`pixelis train traces --set tasks.traces=demo/traces.jsonl` imitates those that pass.
""",
)
app.add_typer(traces, name="traces")


@traces.command("check")
def check_traces(file: Annotated[Path, typer.Argument(help="A file like traces.jsonl; media paths are beside it.")]) -> None:
    """Play every trace through the real tools, and tell of each that must not be learned from: its line, and why.

    A trace passes when every call works (those marked erroneous may fail), recorded observations come again, evidence is
    shown, and the answer is of its type. Exits with 1 if not all pass. Training leaves out the same ones.

    Example: `pixelis traces check my/traces.jsonl`
    """
    from pixelis.cluster.traces import check

    if not check(file):
        raise typer.Exit(1)


@traces.command("import")
def import_traces(
    source: Annotated[Path, typer.Argument(help="A JSON list, or an object a line; media paths are beside it.")],
    out: Annotated[Path, typer.Argument(help="The traces file to write.")],
    layout: Annotated[
        str, typer.Option("--format", help="pixel-reasoner: its published SFT data. chat: messages with tool calls.")
    ],
) -> None:
    """Write another format's demonstrations as traces. What has no counterpart here is told, with its place and why.

    Observations are not taken over: they are made anew by the real tools, when the traces are played.

    Examples:

    * `pixelis traces import PixelReasoner-SFT-Data/release.json traces.jsonl --format pixel-reasoner`
    * `pixelis traces import chats.jsonl traces.jsonl --format chat`
    """
    from pixelis.cluster.traces import take_over

    if not take_over(source, out, layout):
        raise typer.Exit(1)


@traces.command("stats")
def stats_of_traces(file: Annotated[Path, typer.Argument(help="A file like traces.jsonl.")]) -> None:
    """Count what is in a file: traces, calls a trace, operations, answer types, lengths, erroneous steps. Plays nothing.

    Example: `pixelis traces stats my/traces.jsonl`
    """
    from pixelis.cluster.traces import stats

    stats(file)


@traces.command("example")
def example_traces(
    folder: Annotated[Path, typer.Argument(help="A new folder for traces.jsonl and its media.")],
    n: Annotated[int, typer.Option("--n", help="Scenes, of code and clip in turns.", min=1)] = 8,
) -> None:
    """Write some of PixelWorld's own demonstrations as a traces file, to look at and to try the commands on.

    Example: `pixelis traces example demo`
    """
    from pixelis.cluster.traces import example

    print(example(folder, n))


memory = typer.Typer(
    no_args_is_help=True,
    help="""What a run remembers of accepted episodes: questions, chains, answers and keys, never pixels (docs/memory.md).

RUN is a run that is not going on, or its memory folder. `pixelis memory search RUN photo.jpg "..."` shows which episodes
would vote on a question.
""",
)
app.add_typer(memory, name="memory")
Remembering = Annotated[Path, typer.Argument(metavar="RUN", help="A run that is not going on, or its memory folder.")]


@memory.command("stats")
def stats_of_memory(
    run: Remembering, as_json: Annotated[bool, typer.Option("--json", help="The counts as JSON.")] = False
) -> None:
    """Count what each shard holds: episodes, bytes, media, forgotten media; and which weights made the keys.

    Example: `pixelis memory stats runs/ttrl`
    """
    from pixelis.cluster.recall import stats

    stats(run, as_json)


@memory.command("search")
def search_memory(
    run: Remembering,
    file: Annotated[Path, typer.Argument(help="An image or a clip.")],
    question: str,
    kind: Annotated[str, typer.Option(help="What it asks for: text, number or choice.")] = "text",
    count: Annotated[int, typer.Option("-k", "--count", help="Episodes to find.", min=1)] = 8,
    policy: Annotated[
        Path | None, typer.Option(help="Whose towers made the keys: a policy folder. [default: as memory.json says]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The hits as JSON.")] = False,
) -> None:
    """Find the episodes that would vote on a question about a picture, with their similarity s = 0.4 text + 0.6 pixels.

    Episodes on the very same picture are left out, and of near-duplicates all but one.

    Example: `pixelis memory search runs/ttrl photo.jpg "What is the code on the red plate?"`
    """
    from pixelis.cluster.recall import search

    if kind not in ("text", "number", "choice"):
        raise UsageError(f"--kind {kind}: an answer is text, number or choice")
    search(run, file, question, kind, count, policy, as_json)  # type: ignore[arg-type]  # checked above


@memory.command("verify")
def verify_memory(run: Remembering) -> None:
    """Read every record, and ask every index what an exact search finds. Exits with 1 when anything is wrong.

    Example: `pixelis memory verify runs/ttrl`
    """
    from pixelis.cluster.recall import verify

    if not verify(run):
        raise typer.Exit(1)


@memory.command("export")
def export_memory(run: Remembering, out: Annotated[Path, typer.Argument(help="A .jsonl or .arrow file to write.")]) -> None:
    """Write all episodes to a file, without media; an .arrow file has the keys too.

    Example: `pixelis memory export runs/ttrl episodes.jsonl`
    """
    from pixelis.cluster.recall import export

    print(f"{export(run, out)} episodes -> {out}")


@memory.command("forget")
def forget_media(
    run: Remembering, media: Annotated[list[str], typer.Argument(help="Files, or the sha256 of their bytes.")]
) -> None:
    """Forget every episode on some pictures or clips, for good: no file of the memory holds a byte of them afterwards.

    Example: `pixelis memory forget runs/ttrl photo.jpg`
    """
    from pixelis.cluster.recall import forget

    print(f"{forget(run, media)} episodes forgotten")


@app.command()
def audit(run: Annotated[Path, typer.Argument(help="A run that is not going on, like runs/demo.")]) -> None:
    """Prove that every stored trajectory of a run was trained on, dropped with a reason, or is pending: each exactly once.

    Example: `pixelis audit runs/demo`
    """
    from pixelis.cluster.audit import command

    if not command(run):
        raise typer.Exit(1)


@app.command()
def doctor(
    ray: Annotated[bool, typer.Option("--ray", help="Start a Ray, too, and run a task on it (half a minute).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Check that this machine has what pixelis needs, and say how to get what is missing. Nothing is downloaded.

    Exits with 1 when something that is needed is missing; a `note` stops nothing.
    """
    from pixelis.cluster.doctor import command

    command(ray, as_json)


def main() -> None:
    """Entry point: what the user can cause is one line on stderr and exit status 2, a bug is a traceback."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if not is_users(error):
            raise
        print(f"pixelis: {told(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--args is not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise UsageError(f'--args must be a JSON object like {{"on":"img0"}}, not {text}')
    return arguments


def _stopped(stopped: Any, command: str) -> None:
    print(f"\nstopped; checkpoint {stopped.checkpoint}\ncontinue with: {command}", file=sys.stderr)
    raise typer.Exit(130)


if __name__ == "__main__":
    main()
