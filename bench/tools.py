"""How good the tools are, on PixelWorld and on real media: prints a table and writes it into docs/tools.md.

Usage: python bench/tools.py [MEDIA_FOLDER]   (default ../shared/data/media beside the repository)

Real media are left out, and said to be, where the folder is absent. Beside each figure stands the one that the first
version of the classical tools had on the same references (bench/reference/first.json).
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import cv2
import gold
import real
from figures import keep
from real import Row

ROOT = Path(__file__).resolve().parent
PAGE = ROOT.parent / "docs" / "tools.md"
FIRST = ROOT / "reference" / "first.json"
MARKS = "<!-- make bench-tools writes from here -->\n", "<!-- to here -->\n"


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    first = json.loads(FIRST.read_text()) if FIRST.is_file() else {}
    lines = ["| tool | on | what | n | first | now | bar | ms a call |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        before = first.get(key(row))
        ms = "" if row.ms is None else f"{row.ms:.3g}"
        was = "" if before is None else f"{before:.3f}"
        cells = [row.tool, row.on, row.measure, str(row.n), was, f"{row.value:.3f}", row.bar, ms]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def key(row: Row) -> str:
    """What a figure is called in first.json."""
    return f"{row.tool}, {row.on}: {row.measure}"


def written(page: str, text: str) -> str:
    """The page with the text between its two marks; ValueError when it lacks them."""
    head, _, rest = page.partition(MARKS[0])
    _, mark, tail = rest.partition(MARKS[1])
    if not mark:
        raise ValueError(f"{PAGE.name} lacks the lines {MARKS[0].strip()} and {MARKS[1].strip()}")
    return head + MARKS[0] + text + MARKS[1] + tail


def main() -> None:
    """Runs all of it."""
    cv2.setNumThreads(1)
    media = Path(sys.argv[1]) if len(sys.argv) > 1 else real.MEDIA
    rows = list(gold.rows())
    if media.is_dir():
        rows += real.rows(media)
    text = table(rows)
    print(text)
    keep("tools", {key(row): asdict(row) for row in rows})
    if not media.is_dir():
        raise SystemExit(f"no real media in {media}: name the folder; docs/tools.md stays as it is")
    PAGE.write_text(written(PAGE.read_text(), text))


if __name__ == "__main__":
    main()
