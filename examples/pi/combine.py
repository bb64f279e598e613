"""Average the estimates that `provision collect` brought home: combine.py FOLDER.

The folder holds TASK/out/estimate.json for each task. Prints one line; exits with 1 when there is no estimate.
"""

import json
import math
import sys
from pathlib import Path


def combine(folder: Path) -> str:
    """Combine every estimate in the folder, weighted by its darts."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/out/estimate.json"))]
    if not found:
        sys.exit(f"No TASK/out/estimate.json in {folder}; collect the job first.")
    darts = sum(each["darts"] for each in found)
    estimate = 4 * sum(each["inside"] for each in found) / darts
    error = math.sqrt(estimate * (4 - estimate) / darts)  # the standard error of 4 times a share
    return (
        f"{len(found)} tasks, {darts} darts: pi is {estimate:.5f} ± {error:.5f} (off by {abs(estimate - math.pi):.5f})"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and its folder
        sys.exit("usage: combine.py FOLDER")
    print(combine(Path(sys.argv[1])))
