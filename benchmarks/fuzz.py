"""Read damaged DICOM folders: every one must end in a result or in an error of the contract.

    python benchmarks/fuzz.py --json out/fuzz.json [--files 5000] [--seed 0] [--case N --keep DIR]

Good series, multi-frame objects, segmentations and structure sets in a dozen transfer syntaxes are damaged
(bits, ranges, lengths, values of elements, pixel streams) and read as the commands read them: indexed,
chosen, decoded, label maps too; what comes of every third is written as NIfTI, SEG and RTSTRUCT, read back,
and its files de-identified. Each in a forked process that may take 10 s and 4 GiB. A crash, a hang,
another exception than medseg's, output, or a patient's identifier in a message is a failure. Which damage a
case gets depends on the seed and its number alone; `--case` repeats one, and `--keep` leaves its files.

Exit: 0 no failure, 1 failures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.dicom_fuzz import SECONDS, Outcome, damage_folder, fuzz
from tests.dicom_seeds import make_seeds

FAILURES = ("crash", "hang", "memory", "exception", "printed")


def main() -> int:
    """Fuzz, write the JSON and say whether nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--files", type=int, default=5000, help="damaged folders (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the files of --case there")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="at a time (default: all cores)"
    )
    parser.add_argument(
        "--wait", type=float, default=SECONDS, help="by the clock, where other programs run (default: 10 s)"
    )
    options = parser.parse_args()
    seeds = make_seeds()
    numbers = range(options.files) if options.case is None else range(options.case, options.case + 1)
    if options.keep and options.case is not None:
        options.keep.mkdir(parents=True)
        damage_folder(seeds, options.seed, options.case, options.keep)
    started = time.monotonic()
    outcomes = []
    for outcome in fuzz(seeds, options.seed, numbers, jobs=options.jobs, wait_s=options.wait):
        outcomes.append(outcome)
        if outcome.failure:
            print(f"case {outcome.number}: {outcome.failure}\n{outcome.detail}", file=sys.stderr, flush=True)
    result = summarise(outcomes)
    result["seconds"] = round(time.monotonic() - started, 1)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["ratio"]))
    return 0 if result["ok"] else 1


def summarise(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the document: a row a seed with its ends, the failures, and how many of each."""
    by_seed: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in sorted(outcomes, key=lambda outcome: outcome.number):
        by_seed[outcome.seed].append(outcome)
    rows = [
        {
            "seed": seed,
            "folders": len(own),
            "ends": dict(Counter(end for outcome in own for end in outcome.ends).most_common()),
            "slowest_s": round(max(outcome.seconds for outcome in own), 2),
            "peak_mb": round(max(outcome.peak_mb for outcome in own), 1),
            "failures": [asdict(outcome) for outcome in own if outcome.failure],
        }
        for seed, own in sorted(by_seed.items())
    ]
    failures = Counter(outcome.failure for outcome in outcomes)
    counts = {name: failures[name] for name in FAILURES}
    return {
        "name": "fuzz",
        "rows": rows,
        "ratio": counts,
        "target": dict.fromkeys(FAILURES, 0),
        "ok": bool(outcomes) and not any(counts.values()),
    }


if __name__ == "__main__":
    sys.exit(main())
