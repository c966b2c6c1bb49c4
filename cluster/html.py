"""Pieces of a page that opens offline: escaped text, pictures and plots inside the file, one style sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

import numpy as np
from PIL import Image

STYLE = """
:root { --ink:#1c2430; --soft:#5d6b7e; --line:#dfe4ea; --ground:#f5f7f9; --card:#fff; --good:#12754a; --bad:#b3261e; --blue:#2456b3; }
* { box-sizing:border-box; }
body { margin:0; background:var(--ground); color:var(--ink); font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif; }
main { max-width:1120px; margin:0 auto; padding:24px 20px 80px; }
h1 { font-size:28px; line-height:1.2; margin:0 0 6px; }
h2 { font-size:21px; margin:44px 0 10px; }
h3 { font-size:16px; margin:24px 0 8px; color:var(--soft); font-weight:600; }
p { margin:0 0 12px; max-width:76ch; }
a { color:var(--blue); }
.soft, figcaption, .note { color:var(--soft); font-size:14px; }
figcaption { line-height:1.35; margin-top:3px; }
.card { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:16px 18px; margin:0 0 16px; }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:12px; margin:18px 0; }
.tile { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:12px 14px; }
.tile b { display:block; font-size:25px; line-height:1.25; font-variant-numeric:tabular-nums; }
.tile span { color:var(--soft); font-size:14px; }
.wide { overflow-x:auto; }
table { border-collapse:collapse; width:100%; font-size:15px; font-variant-numeric:tabular-nums; }
th, td { text-align:right; padding:6px 10px; border-bottom:1px solid var(--line); white-space:nowrap; }
th { color:var(--soft); font-weight:600; font-size:14px; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align:left; }
tr.all td { font-weight:600; }
tr.all td { border-top:2px solid var(--line); }
.plots { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr)); gap:14px; }
.plots.two { grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr)); }
.plots figure { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:8px; }
figure { margin:0; }
figure img { display:block; width:100%; height:auto; }
.crisp { image-rendering:crisp-edges; image-rendering:pixelated; }
nav ul { columns:2; gap:24px; padding-left:18px; margin:8px 0; font-size:15px; }
nav li { break-inside:avoid; }
.badge { display:inline-block; border-radius:20px; padding:1px 11px; font-size:14px; font-weight:600; color:#fff; background:var(--good); }
.badge.bad { background:var(--bad); }
.tag { display:inline-block; border:1px solid var(--line); border-radius:20px; padding:0 10px; font-size:14px; color:var(--soft); }
.question { font-size:19px; font-weight:600; margin:8px 0 4px; }
.seen { display:flex; flex-wrap:wrap; gap:16px; align-items:flex-start; margin:14px 0 4px; }
.frames { display:grid; grid-template-columns:repeat(4,minmax(0,110px)); gap:6px; }
.frames figcaption { font-size:12px; text-align:center; }
.frames .gold img { outline:3px solid var(--good); outline-offset:-3px; }
ol.turns { list-style:none; padding:0; margin:12px 0 0; }
ol.turns > li { border-top:1px solid var(--line); padding:14px 0; display:grid; grid-template-columns:minmax(0,1fr) minmax(0,1.15fr); gap:20px; }
.step { font-weight:600; margin-bottom:4px; }
.thought { margin:0 0 6px; padding-left:10px; border-left:3px solid var(--line); color:var(--soft); font-style:italic; }
pre { margin:0 0 6px; padding:8px 10px; background:var(--ground); border:1px solid var(--line); border-radius:8px; font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace; white-space:pre-wrap; overflow-wrap:anywhere; }
pre.fail { border-color:var(--bad); color:var(--bad); }
.note.bad { color:var(--bad); }
.label { color:var(--soft); font-size:13px; margin:0 0 2px; }
.pictures { display:flex; flex-wrap:wrap; gap:12px; align-items:flex-start; }
.answer { font-size:17px; }
.answer code, .pair code { font:600 17px ui-monospace,Menlo,"DejaVu Sans Mono",monospace; }
.back { font-size:14px; float:right; }
@media (max-width:700px) {
  main { padding:16px 12px 60px; }
  h1 { font-size:24px; }
  nav ul { columns:1; }
  ol.turns > li { grid-template-columns:minmax(0,1fr); gap:10px; }
  .card { padding:14px 12px; }
  th, td { padding:6px 7px; font-size:14px; }
}
@media print { .card { break-inside:avoid; } }
"""  # noqa: E501


def page(title: str, body: str) -> str:
    """A whole document, nothing outside it."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def tag(name: str, content: str, cls: str = "", **attributes: str) -> str:
    """An element around HTML."""
    named = ({"class": cls} if cls else {}) | attributes
    told = "".join(f' {key}="{escape(value)}"' for key, value in named.items())
    return f"<{name}{told}>{content}</{name}>"


def text(name: str, content: object, cls: str = "") -> str:
    """An element around plain text."""
    return tag(name, escape(str(content)), cls)


def row(kind: str, cells: Iterable[object], cls: str = "") -> str:
    """A line of a table; `kind` of its cells is th or td.

    Example:
        >>> row("td", ["all", 3])
        '<tr><td>all</td><td>3</td></tr>'
    """
    return tag("tr", "".join(text(kind, cell) for cell in cells), cls)


def table(rows: Iterable[str]) -> str:
    """Lines that `row` made, on a card that scrolls where it is too wide."""
    return tag("div", tag("table", "".join(rows)), "card wide")


def tiles(told: Iterable[tuple[str, str]]) -> str:
    """The few figures that tell most, each with what it is."""
    return tag("div", "".join(tag("div", text("b", value) + text("span", what), "tile") for value, what in told), "tiles")


def figure(source: str, caption: str, width: int = 0, crisp: bool = False, cls: str = "") -> str:
    """A picture with its caption; `source` is a data URI, `width` in CSS pixels at most, `crisp` keeps pixels square."""
    attributes = {"style": f"width:{width}px;max-width:100%"} if width else {}
    image = f'<img src="{source}" alt="{escape(caption)}"' + (' class="crisp">' if crisp else ">")
    return tag("figure", image + text("figcaption", caption), cls, **attributes)


def png(pixels: np.ndarray) -> str:
    """HxWx3 uint8 as a data URI, lossless."""
    return _uri(Image.fromarray(pixels), "PNG")


def jpeg(image: Image.Image, side: int) -> str:
    """A picture as a data URI, its longer side at most `side` pixels."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return _uri(small, "JPEG")


def svg(data: bytes) -> str:
    """A drawing as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(data).decode()


def _uri(image: Image.Image, kind: str) -> str:
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"
