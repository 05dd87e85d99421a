"""Pages looked at by a real browser: headless Chromium, if there is one here."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "headless_shell")

CHECK = r"""
const inspected = (frame) => {
const page = frame.contentDocument, view = frame.contentWindow;
const numbers = (text) => (text.match(/[\d.]+/g) || []).map(Number);
const light = (rgb) => {
  const [r, g, b] = rgb.map((v) => { const c = v / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const c = numbers(view.getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c.slice(0, 3);
  }
  return [255, 255, 255];
};
const faint = [], wide = [];
for (const e of page.body.querySelectorAll("*")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const [a, b] = [light(numbers(view.getComputedStyle(e).color).slice(0, 3)), light(ground(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (own && ratio < 4.5) faint.push(`${e.tagName} ${e.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  if (!e.closest(".wide, pre") && e.getBoundingClientRect().right > view.innerWidth + 1) wide.push(`${e.tagName}.${e.className}`);
}
const images = [...page.images];
return {
  width: view.innerWidth, scroll: page.documentElement.scrollWidth, wide, faint,
  images: images.length, broken: images.filter((i) => !i.naturalWidth).length,
  nameless: images.filter((i) => !i.alt.trim()).length, headings: [...page.querySelectorAll("h1")].length,
  language: page.documentElement.lang, text: page.body.innerText.length,
};
};
const found = [...document.querySelectorAll("iframe")].map(inspected);
document.body.textContent = "RESULT" + JSON.stringify(found) + "END";
"""


def chromium() -> str | None:
    """The browser's program; None where none is installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def look(pages: Sequence[str], width: int, folder: Path) -> list[dict[str, Any]]:
    """What a browser sees of pages of this width: overflow, images without words, faint text, what its console says.

    The console is that of all pages together.
    """
    program = chromium()
    assert program is not None
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{{}}"></iframe>'
    frames = "".join(frame.format(html.escape(page)) for page in pages)
    file = folder / f"harness-{width}.html"
    script = f'<script>addEventListener("load", () => {{{CHECK}}});</script>'
    file.write_text(f"<!doctype html><html><body>{frames}{script}</body></html>", encoding="utf-8")
    run = subprocess.run(
        [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=4000", "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    found = re.search(r"RESULT(\[.*\])END", run.stdout, re.DOTALL)
    assert found, f"the browser showed nothing: {run.stderr[-800:]}"
    results: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    return [{**result, "console": console} for result in results]
