"""Writes the table of benchmarks/README.md: the shapes with names, ours by the clock, beside what others published.

    python3 benchmarks/clock/table.py --gdn2 target/release/gdn2

benchmarks/clock/picture.py draws the README's picture from it.
"""

import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGE = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- predicted: benchmarks/clock/table.py -->\n", "<!-- end -->\n"
RULES = ("gdn", "kda", "gdn2")
PASSES = ("forward", "forward-for-backward", "backward", "decode")


def predict(gdn2, *arguments):
    done = subprocess.run([gdn2, "predict", *arguments, "--json"], capture_output=True, text=True, cwd=ROOT)
    if not done.stdout:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def time(micros):
    return f"{micros / 1e3:.3f}" if micros < 1e5 else f"{micros / 1e3:.1f}"


def ours(rows, shape):
    """The fastest schedule of a shape, with what decides it."""
    best = min((row for row in rows if row["shape"] == shape), key=lambda row: row["micros"], default=None)
    if best is None:
        return ""
    schedule = dict(part.split("=") for part in best["schedule"].split(","))
    how = schedule.get("matrix", "mma") + (f", {schedule['segments']} segments" if "segments" in schedule else "")
    if best["pass"] == "backward" and schedule.get("matrix", "mma") != schedule.get("gradients", "mma"):
        how += f", gradients {schedule.get('gradients', 'mma')}"
    how = "" if best["pass"] == "decode" else f" {how}"
    return f"{time(best['micros'])} ({time(best['low'])} to {time(best['high'])}){how}"


def others(published, rule, passing, shape):
    """Who published a time of the shape on an H200, fastest first, with what the clock predicts of it."""
    predicted = {(row["by"], row["shape"]): row["predicted"]["milliseconds"] for row in published["published"]}
    found = []
    for path in (ROOT / "tuning" / "published").glob("*.json"):
        family = json.loads(path.read_text())
        if path.stem == "h200":
            found += [(row["milliseconds"], row["by"].replace(" on H200", ""), None) for row in family
                      if (row["rule"], row["pass"], row["shape"]) == (rule, passing, shape)]
        elif (family.get("rule"), family.get("pass"), family.get("gpu")) == (rule, passing, "h200"):
            found += [(row["milliseconds"], family["by"], predicted.get((family["by"], row["shape"])))
                      for row in family["rows"] if row["shape"] == shape]
    said = (f"{by} {milliseconds:.3f}" + (f" ({ours:.3f})" if ours else "") for milliseconds, by, ours in sorted(found, key=lambda one: one[:2]))
    return "; ".join(said)


def text_of(shape):
    lengths = shape.get("lengths", [])
    sizes = f"B={shape['batch']},T={shape['tokens']},H={shape['key_heads']},HV={shape['value_heads']}"
    return sizes + (f" in {len(lengths)} sequences" if lengths else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gdn2", required=True)
    gdn2 = str(pathlib.Path(parser.parse_args().gdn2).absolute())
    published = predict(gdn2, "--published")
    shapes = json.loads((ROOT / "tuning" / "shapes.json").read_text())
    lines = ["| shape | pass | rule | ours | others |", "|---|---|---|---|---|"]
    for passing in PASSES:
        for shape in (shape for shape in shapes if passing in shape["passes"]):
            rows = predict(gdn2, *(f"rules/{rule}.gdn2" for rule in RULES), "--pass", passing, "--shape", shape["name"])["rows"]
            sizes = f"{shape['name']}: {text_of(shape)}"
            sizes += f", D={shape['head_dim']}" if shape["head_dim"] != 128 else ""
            for rule in RULES:
                mine = ours([row for row in rows if row["rule"] == rule], text_of(shape))
                peers = others(published, rule, passing, text_of(shape)) if shape["head_dim"] == 128 else ""
                lines.append(f"| {sizes} | {passing} | {rule} | {mine} | {peers} |")
                print(lines[-1], flush=True)
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
