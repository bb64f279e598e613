"""Estimate pi: the share of random points of a square that lie in its circle is pi/4.

Reads DARTS (how many points; default 400000) and FREEPOST_TASK (which task of the array this is; also the seed, so that
tasks differ and each can be repeated). Writes out/estimate.json. Standard library only, Python 3.6 or later.
"""

import json
import os
import random

task = int(os.environ.get("FREEPOST_TASK", "0"))
darts = int(os.environ.get("DARTS", "400000"))

throw = random.Random(task).random  # noqa: S311 - darts, not secrets
inside = sum(throw() ** 2 + throw() ** 2 <= 1 for _ in range(darts))
result = {"task": task, "darts": darts, "inside": inside, "pi": 4 * inside / darts}

os.makedirs("out", exist_ok=True)  # noqa: PTH103 - plain on every Python
with open("out/estimate.json", "w") as file:  # noqa: PTH123
    json.dump(result, file)
print("task {task}: {inside} of {darts} darts inside, pi is about {pi:.6f}".format(**result))
