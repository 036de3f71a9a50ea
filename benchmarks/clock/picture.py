"""Draws docs/predicted.svg from the table of benchmarks/README.md: ours as the clock predicts it, others as they published.

    python3 benchmarks/clock/picture.py            # --check: whether it is drawn from the table as it is
"""

import argparse
import html
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGE, PICTURE = ROOT / "benchmarks" / "README.md", ROOT / "docs" / "predicted.svg"
PASSES = ("forward", "backward")
NAMES = {"gdn": "Gated DeltaNet", "kda": "Kimi Delta Attention", "gdn2": "Gated DeltaNet-2"}
OURS = re.compile(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)")
OTHER = re.compile(r"^(?P<by>.*?) (?P<ms>[\d.]+)(?: \([\d.]+\))?$")
LEFT, WIDTH, BAR, GAP = 250, 420, 16, 10
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f } .head { font-weight: 600 } .small { fill: #57606a }
  .ours { fill: #1a7f37 } .range { fill: #1a7f37; opacity: .35 } .other { fill: #8c959f }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .ours, .range { fill: #3fb950 } .other { fill: #6e7681 }
  }"""


def groups():
    """Calls that others published a time of: what they are, ours with its range, theirs."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or cells[1] not in PASSES or not cells[4] or not (ours := OURS.match(cells[3])):
            continue
        others = [OTHER.match(part) for part in cells[4].split("; ")]
        shape = cells[0].split(": ", 1)[1].replace(",", " ")
        yield (f"{NAMES[cells[2]]}, {cells[1]}, {shape}", [float(x) for x in ours.groups()],
               [(found["by"], float(found["ms"])) for found in others])  # fmt: skip


def picture():
    calls = list(groups())
    if not calls:
        sys.exit(f"{PAGE}: no call that others published a time of")
    body, y = [], 44
    for title, (middle, low, high), others in calls:
        most = max(high, *(ms for _, ms in others))
        scale = WIDTH / most
        body.append(f'<text class="head" x="8" y="{y + 12}">{html.escape(title)}</text>')
        y += BAR + 6
        body.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">gdn2, predicted</text>')
        body.append(f'<rect class="range" x="{LEFT}" y="{y}" width="{high * scale:.1f}" height="{BAR}"/>')
        body.append(f'<rect class="ours" x="{LEFT}" y="{y}" width="{low * scale:.1f}" height="{BAR}"/>')
        body.append(f'<text x="{LEFT + high * scale + 6:.1f}" y="{y + 12}">{low:.2f} to {high:.2f} ms</text>')
        for by, ms in others:
            y += BAR + 4
            body.append(f'<text class="small" x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{html.escape(by)}, published</text>')
            body.append(f'<rect class="other" x="{LEFT}" y="{y}" width="{ms * scale:.1f}" height="{BAR}"/>')
            body.append(f'<text class="small" x="{LEFT + ms * scale + 6:.1f}" y="{y + 12}">{ms:.2f} ms</text>')
        y += BAR + GAP
    what = "Milliseconds on an H200 unless said, K = V = 128, bf16. Ours are the clock's predictions; nothing was measured by us."
    head = f'<text class="small" x="8" y="24">{what}</text>'
    width = LEFT + WIDTH + 110
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img" '
            f'aria-label="Predicted and published times">\n<style>{STYLE}\n</style>\n' + "\n".join([head, *body]) + "\n</svg>\n")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true")
    drawn = picture()
    if not arguments.parse_args().check:
        PICTURE.write_text(drawn, encoding="utf-8")
    elif PICTURE.read_text(encoding="utf-8") != drawn:
        sys.exit(f"{PICTURE} is not what the table gives: run benchmarks/clock/picture.py")


if __name__ == "__main__":
    main()
