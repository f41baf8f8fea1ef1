"""A contender's side of the protocol: JSON lines on standard input and output, so that what is measured stays loaded
and warm while others have their turns.

The first line in is the job. The first line out is `{"ready": VERSION}`. Then each line in names an action and its
arguments, and each line out is the action's answer and the milliseconds that it took.
"""

import json
import os
import sys
import time


def contend(load):
    """Answers requests until standard input ends. `load(job)` gives an object with a `version` and, as methods that
    return dictionaries, its actions; an answer that has `milliseconds` already keeps its own."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What libraries print must not stand among the answers.
    contender = load(json.loads(sys.stdin.readline()))
    print(json.dumps({"ready": contender.version}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        action = getattr(contender, request.pop("do"))
        start = time.perf_counter()
        answer = action(**request)
        milliseconds = 1e3 * (time.perf_counter() - start)
        print(json.dumps({"milliseconds": milliseconds} | answer), file=answers)
