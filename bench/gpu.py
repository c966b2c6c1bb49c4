"""One SFT step and one RFT iteration of Qwen3-VL-8B at its true shape on a GPU: tokens/s, MFU, bandwidth, memory.

The weights are random and built on the device: nothing is downloaded. It needs a checkout and a Python with PACKAGES, and
neither Ray nor a tool backend: `python3 bench/gpu.py`, or `make bench-gpu`, which builds no environment either. It takes some
minutes and writes docs/results/gpu.md and bench/results/gpu.json. `--toy` goes the same way at toy width on the CPU, where
figures mean nothing.
"""

import argparse
import datetime
import importlib.util
import os
import platform
import sys
import types
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "gpu.md"
PACKAGES = {  # module: what pip calls it
    "torch": "torch", "transformers": "transformers", "tokenizers": "tokenizers", "peft": "peft", "safetensors": "safetensors",
    "numpy": "numpy", "cv2": "opencv-python-headless", "PIL": "pillow", "pydantic": "pydantic", "pyarrow": "pyarrow",
}  # fmt: skip
PEAKS = {  # a part of the card's name: bf16 FLOP/s without sparsity and bytes/s, of its maker's data sheet
    "H100 PCIe": (756e12, 2.0e12), "H100 NVL": (835e12, 3.9e12), "H100": (989e12, 3.35e12), "H200": (989e12, 4.8e12),
    "B200": (2250e12, 8.0e12), "A100-SXM4-40GB": (312e12, 1.555e12), "A100": (312e12, 2.039e12), "L40S": (362e12, 0.864e12),
}  # fmt: skip
NONE = "no GPU that torch {torch} can use: nothing measured; --toy (make bench-gpu ARGS=--toy) goes the same way on the CPU"


def missing() -> list[str]:
    """Packages that are not here, as pip calls them."""
    return [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]


def find_pixelis() -> None:
    """Let `import pixelis` find this checkout where it is not installed."""
    if importlib.util.find_spec("pixelis") is None:
        made = types.ModuleType("pixelis")
        made.__path__ = [str(ROOT)]
        sys.modules["pixelis"] = made


def share(found: float, card: str, which: int) -> str:
    """A rate in percent of what the card's maker promises."""
    peak = next((peaks[which] for name, peaks in PEAKS.items() if name in card), None)
    return "?" if peak is None else f"{100 * found / peak:.1f} %"


def page(found: Mapping[str, Any], card: str) -> str:
    """The table."""
    rows = [*_sft(found["sft"], found["work"], card), *_rft(found["rft"], found["work"], card)]
    lines = [f"| {name} | {value} | {note} |" for name, value, note in rows]
    head = [
        f"# Qwen3-VL-{found['shape'].upper()} on {card}",
        "",
        f"Written by `make bench-gpu` on {found['date']}: {found['versions']}.",
        "Random weights, made-up episodes (`bench/iteration.py`); bfloat16, with float32 adapters on text, mergers and vision.",
        "The SFT step is the best of two after one that is not counted, the RFT iteration the second. Shares are of what the",
        "card's data sheet promises (bf16 without sparsity).",
        "",
        "| what | value | |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *lines]) + "\n"


def _sft(sft: Mapping[str, Any], work: Mapping[str, Any], card: str) -> list[tuple[str, str, str]]:
    batch = f"{sft['trajectories']} demonstrations, {sft['tokens']} tokens a step"
    return [
        ("SFT: tokens/s", f"{sft['tokens_per_s']:.0f}", batch),
        ("SFT: seconds a step", f"{sft['step_s']:.2f}", f"packed, {work['micro_tokens']} tokens at a time, checkpointed"),
        ("SFT: MFU", share(sft["flops_per_s"], card, 0), f"{sft['flops'] / 1e12:.4g} TFLOP a step, recomputing not counted"),
        ("SFT: peak memory", _memory(sft), "learner alone"),
    ]


def _rft(rft: Mapping[str, Any], work: Mapping[str, Any], card: str) -> list[tuple[str, str, str]]:
    batch = f"{rft['trajectories']} rollouts, {rft['tokens']} tokens an iteration"
    read = f"{rft['bytes_per_s'] / 1e9:.4g} GB/s of weights, keys and values"
    return [
        ("RFT: tokens/s", f"{rft['tokens_per_s']:.0f}", batch),
        ("RFT: seconds an iteration", f"{rft['iteration_s']:.2f}", "rollouts, update and publication, one after another"),
        ("RFT: seconds of rollouts", f"{rft['rollout_s']:.2f}", f"{rft['sampled_per_s']:.0f} sampled tokens/s"),
        ("RFT: seconds of the update", f"{rft['update_s']:.2f}", "with the reference's reading and the probes"),
        ("RFT: seconds of publication", f"{rft['publish_s']:.3f}", f"adapters of rank {work['rank']}, by way of the CPU"),
        ("RFT: ms to read the questions", f"{1000 * rft['prefill_s']:.0f}", f"{rft['rows']:.0f} rows, each question once"),
        ("RFT: ms of a token", f"{1000 * rft['decode_step_s']:.1f}", f"{rft['rows']:.0f} rows together"),
        ("RFT: memory bandwidth, decoding", share(rft["bytes_per_s"], card, 1), read),
        ("RFT: peak memory", _memory(rft), "learner and engine, each with a network of its own"),
    ]


def _memory(found: Mapping[str, Any]) -> str:
    return f"{found['peak_bytes'] / 2**30:.1f} GiB" if "peak_bytes" in found else "-"


def main() -> None:
    """Measures, prints, and on a GPU writes down."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--toy", action="store_true", help="the same path at toy width on the CPU; writes nothing")
    toy = ask.parse_args().toy
    if lacking := missing():
        sys.exit(f"{sys.executable} has no {', '.join(lacking)}: pip install --target F {' '.join(lacking)}, and PYTHONPATH=F")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    import torch

    if not toy and not torch.cuda.is_available():
        print(NONE.format(torch=torch.__version__))
        return
    find_pixelis()
    from iteration import measure

    card = "the CPU (toy width: these figures mean nothing)" if toy else torch.cuda.get_device_name()
    told = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))]
    told += [] if toy else [f"CUDA {torch.version.cuda}"]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = {**measure("toy" if toy else "8b", not toy), "card": card, "versions": ", ".join(told), "date": date}
    text = page(found, card)
    print(text)
    if not toy:
        from figures import keep

        PAGE.write_text(text)
        keep("gpu", found)
        print(f"-> {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
