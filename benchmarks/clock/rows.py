"""Makes the simulated half of tuning/published/fla_*.json anew: what the clock makes of flash-linear-attention's kernels.

    python3 benchmarks/clock/rows.py fla_gdn --gdn2 target/release/gdn2 --work DIR

Published times stay as the file has them. Kernels are compiled by triton_kernels.py, which says what it needs. Which
configuration the autotuner takes on the published GPU is not published: for each kernel the clock's fastest at one shape
stands for every row.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PUBLISHED = HERE.parent.parent / "tuning" / "published"

# File: pipeline, shape that configurations are chosen at, kernels of a call that are not compiled here.
FAMILIES = {
    "fla_gdn": ("gdn", (1, 8192, 16, 16), ()),
    "fla_gdn_backward": ("gdn_backward", (1, 8192, 8, 16), ()),
    "fla_kda_h200": ("kda", (1, 8192, 64, 64), ("l2norm_fwd q", "l2norm_fwd k")),
    "fla_kda_h100": ("kda", (1, 8192, 64, 64), ()),
    "fla_gdn2_h100": ("gdn2", (1, 8192, 64, 64), ()),
}


def compile_launches(pipeline, shape, out, *more):
    if not (out / "launches.json").exists():
        command = [sys.executable, str(HERE / "triton_kernels.py"), pipeline, "--shape", ",".join(map(str, shape))]
        subprocess.run([*command, "--out", str(out), *more], check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "launches.json").read_text())


def predict(gdn2, gpu, folder, launches, *more):
    command = [gdn2, "predict", "--target", gpu, "--json", *more]
    for launch in launches:
        stem = folder / launch["files"]
        command += ["--launch", f"{stem}.json", "--cubin", f"{stem}.cubin", "--bytes", str(launch["bytes"])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def choose(gdn2, gpu, pipeline, shape, work):
    """The clock's fastest configuration of each kernel."""
    kept = work / f"{pipeline}-choices.json"
    if kept.exists():
        return kept, json.loads(kept.read_text())
    folder = work / f"{pipeline}-every"
    times = collections.defaultdict(dict)
    for launch in compile_launches(pipeline, shape, folder, "--every"):
        try:
            times[launch["kernel"]][launch["config"]] = predict(gdn2, gpu, folder, [launch])["launches"][0]["micros"]
        except RuntimeError as error:
            print(launch["kernel"], launch["config"], error)
    for kernel, configs in times.items():
        for config, micros in sorted(configs.items(), key=lambda item: item[1])[:3]:
            print(f"{kernel}: {micros:.1f} us  {config}", flush=True)
    choices = {kernel: min(configs, key=configs.get) for kernel, configs in times.items()}
    kept.write_text(json.dumps(choices))
    return kept, choices


def short(config):
    """A configuration without what Triton adds to each."""
    return config.replace(", num_ctas: 1", "").replace(", maxnreg: None", "")


def simulated(row, gdn2, gpu, pipeline, choices, more, work):
    sizes = dict(part.split("=") for part in row["shape"].split(","))
    shape = [int(sizes[name]) for name in ("B", "T", "H", "HV")]
    folder = work / "-".join([pipeline, *map(str, shape)])
    launches = compile_launches(pipeline, shape, folder, "--choices", str(choices))
    said = predict(gdn2, gpu, folder, launches, "--strengths")
    found = [launch["published"] for launch in said["launches"]]
    elements = shape[0] * shape[1] * shape[2] * 128
    # In and out, two bytes each.
    found += [{"kernel": name, "data_sheet": 0, "bytes": 4 * elements, "pattern": "once"} for name in more]
    total = sum(launch["micros"] for launch in said["launches"]) / 1e3
    print(row["shape"], f"published {row['milliseconds']} predicted {total:.3f}", flush=True)
    return found, said["constants"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--gdn2", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, help="another file than that of the family")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pipeline, shape, more = FAMILIES[args.family]
    path = PUBLISHED / f"{args.family}.json"
    family = json.loads(path.read_text())
    kept, choices = choose(args.gdn2, family["gpu"], pipeline, shape, args.work)
    for row in family["rows"]:
        row["launches"], constants = simulated(row, args.gdn2, family["gpu"], pipeline, kept, more, args.work)
    chosen = "; ".join(f"{kernel}: {short(config)}" for kernel, config in choices.items() if config)
    at = ",".join(map(str, shape))
    family["kernels"] = f"fla 0.6.0 by Triton 3.6.0; configurations that are simulated fastest at B,T,H,HV={at}: {chosen}"
    family["simulated_by"] = f"gdn2 predict --strengths, constants {constants}"
    write(args.out or path, family)


def write(path, family):
    rows = family.pop("rows")
    head = json.dumps(family, indent=1)[:-2]
    body = ",\n".join("  " + json.dumps(row) for row in rows)
    path.write_text(f'{head},\n "rows": [\n{body}\n ]\n}}\n')


if __name__ == "__main__":
    main()
