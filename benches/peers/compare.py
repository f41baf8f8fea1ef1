"""Times works on Diptych and on its peers in turns, and prints one Markdown table of ratios.

    ~/.cache/diptych-peers/venv/bin/python compare.py [--only T1,S] [--peers torch-eager] [--threads 2] [--json OUT]

README.md tells what the figures mean. It needs the environment of setup.sh.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from child import Child, Failed
from contenders import CONTENDERS, OURS, PEERS, REFERENCE, job_of
from works import HOME, ROUNDS, WARM_TOKENS, WORKS, Serving, Training

HERE = Path(__file__).resolve().parent
WARM_STEPS = 2
CHECKED_STEPS = 3
LOSS_TOLERANCE = 1e-3  # nats a token, on losses of 9 to 11
CHECKED_TOKENS = 32
# Another order of additions changes logits by 1e-4; a cache in f16, as llama.cpp has it, by more.
CLEAR_GAP = 5e-2
PAUSE = 0.05  # seconds, so that threads that spin a while after their work are asleep

COLUMNS = [
    "work",
    "threads",
    "contender",
    "format",
    "figure",
    "of rounds",
    "Diptych is faster by",
    "peak MiB",
    "in rounds",
    "Diptych's memory",
    "others' cores",
    "agreement",
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    works, peers = (", ".join(names) for names in ([w.name for w in WORKS], PEERS))
    parser.add_argument("--only", metavar="WORK,...", help=f"works by the beginnings of their names, of {works}")
    parser.add_argument("--peers", metavar="NAME,...", help=f"those beside Diptych, in the same way, of {peers}")
    parser.add_argument("--threads", default="2,1", metavar="N,...", help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed turns of each (default %(default)s)")
    parser.add_argument("--json", metavar="OUT", type=Path, help="a file for all that was measured")
    a = parser.parse_args()
    if a.rounds < 1:
        parser.error(f"--rounds {a.rounds}: at least 1")
    if a.json and not a.json.parent.is_dir():
        parser.error(f"--json {a.json}: there is no folder {a.json.parent}")
    names = a.only.split(",") if a.only else [""]
    a.works = [w for w in WORKS if any(w.name.startswith(name) for name in names)]
    unknown = [name for name in names if not any(w.name.startswith(name) for w in WORKS)]
    peers = a.peers.split(",") if a.peers else PEERS
    unknown += [name for name in peers if not any(p.startswith(name) for p in PEERS)]
    if unknown:
        parser.error(f"no work or peer is called {', '.join(unknown)}; see --help")
    a.contenders = [c for c in CONTENDERS if c.name.startswith(OURS) or any(c.name.startswith(name) for name in peers)]
    try:
        a.threads = [int(n) for n in a.threads.split(",")]
    except ValueError:
        parser.error(f"--threads {a.threads}: give numbers, such as 2,1")
    if min(a.threads) < 1:
        parser.error(f"--threads {min(a.threads)}: at least 1")
    return a


@dataclasses.dataclass
class Result:
    """What a contender did of a work. `figures` are the work's unit, one a round."""

    work: str
    threads: int
    contender: str
    format: str
    version: str
    unit: str
    figures: list
    milliseconds: list
    peak_mib: float
    rounds_mib: float
    others_cpu: float
    agreement: str

    @property
    def figure(self):
        return statistics.median(self.figures)


def compare(work, threads, contenders, rounds, failures):
    """The results of one work, the contenders having their turns one after the other in each round."""
    children = {}
    logs = HOME / "logs"
    logs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        for contender, form in ((c, form) for c in contenders for form in c.formats(work)):
            name = f"{contender.name} {form}"
            log = logs / f"{work.name}-{threads}-{contender.name}-{form}.log"
            try:
                cores = threads if contender.pinned else None
                job = job_of(work, contender, form, threads, most_tokens(work, rounds))
                child = Child(name, contender.command, contender.environment(threads), cores, job, log)
            except (Failed, OSError) as problem:
                failures.append(f"{work.name}, {threads} threads: {problem}")
                continue
            stack.callback(child.end)
            children[contender, form] = child
        measure = measure_training if isinstance(work, Training) else measure_serving
        try:
            measured = measure(work, children, rounds, failures)
        except Failed as problem:
            failures.append(f"{work.name}, {threads} threads: {problem}")
            return []
        return [
            Result(
                work.name,
                threads,
                contender.name,
                form,
                child.version,
                work.unit,
                figures=[figure(work, ms) for ms in milliseconds],
                milliseconds=milliseconds,
                peak_mib=round(child.peak_mib(), 1),
                rounds_mib=round(child.resident_mib(), 1),
                others_cpu=round(child.others_cpu(), 2),
                agreement=agreement,
            )
            for (contender, form), child in children.items()
            if (contender, form) in measured
            for milliseconds, agreement in [measured[contender, form]]
        ]


def most_tokens(work, rounds):
    """How many tokens follow a prompt at most, the one that its last logits give among them."""
    return 1 + max(WARM_TOKENS + rounds * work.new, CHECKED_TOKENS) if isinstance(work, Serving) else 0


def figure(work, milliseconds):
    """A round's time in the work's unit."""
    if isinstance(work, Training):
        return milliseconds
    return 1e3 * work.batch * (work.new or work.prompt) / milliseconds


def turns(children, rounds, act, failures, work):
    """Calls `act(key, child)` in turns, `rounds` times each; whoever fails has no more turns."""
    alive = dict(children)
    for number in range(rounds):
        keys = list(alive)
        if not keys:
            break
        for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
            time.sleep(PAUSE)
            try:
                act(key, alive[key])
            except Failed as problem:
                failures.append(f"{work.name}: {problem}")
                del alive[key]
    return alive


def measure_training(work, children, rounds, failures):
    losses = {key: [] for key in children}
    times = {key: [] for key in children}

    def step(key, child):
        answer = child.ask("step")
        losses[key].append(answer["loss"])
        times[key].append(answer["milliseconds"])

    alive = turns(children, WARM_STEPS, step, failures, work)
    for child in alive.values():
        child.begin_rounds()
    alive = turns(alive, max(rounds, CHECKED_STEPS - WARM_STEPS), step, failures, work)
    expected = next((losses[key] for key in alive if key[0].name == REFERENCE), None)
    measured = {}
    for key in alive:
        agreement = "not checked"
        if expected:
            most = max(abs(a - b) for a, b in zip(losses[key][:CHECKED_STEPS], expected))
            agreement = f"losses within {most:.0e}" if most else "same losses"
            if not most <= LOSS_TOLERANCE:
                agreement = f"LOSSES DIFFER BY {most:.2g}"
                failures.append(f"{work.name}: {key[0].name}: losses {losses[key]}, not {expected}")
        measured[key] = times[key][WARM_STEPS:], agreement
    return measured


def measure_serving(work, children, rounds, failures):
    expected = reference = None
    for (contender, form), child in children.items():
        if contender.name == REFERENCE and form == "F32":
            expected = child.ask("reference", count=CHECKED_TOKENS if work.new else 0)
            reference = child.ask("logits")["logits"]
    texts = {key: [] for key in children}
    times = {key: [] for key in children}

    def start(key, child):
        answer = child.ask("start")
        texts[key] = answer["tokens"]
        times[key].append(answer["milliseconds"])

    def decode(key, child, count=work.new):
        answer = child.ask("decode", count=count)
        texts[key] = [old + new for old, new in zip(texts[key], answer["tokens"])]
        times[key].append(answer["milliseconds"])

    def warm(key, child):
        decode(key, child, WARM_TOKENS)

    alive = turns(children, 1, start, failures, work)
    logits = {key: child.ask("logits").get("logits") for key, child in alive.items()}
    act = start
    if work.new:
        act = decode
        alive = turns(alive, 1, warm, failures, work)
    times = {key: [] for key in alive}
    for child in alive.values():
        child.begin_rounds()
    alive = turns(alive, rounds, act, failures, work)
    measured = {}
    for key in alive:
        contender, form = key
        agreement = "not checked"
        if expected:
            agreement, agrees = agree(texts[key], logits[key], expected, reference)
            if form == "F32" and not agrees:
                agreement = agreement.upper()
                failures.append(f"{work.name}: {contender.name} {form}: {agreement}")
        measured[key] = times[key], agreement
    return measured


def agree(texts, logits, expected, reference):
    """In words, how far texts and logits are from the reference's, and whether that is only what the order of
    additions may do: the first token that differs must be one that the reference was not clear about."""
    words = []
    if logits:
        words.append(f"logits within {max(abs(a - b) for a, b in zip(logits, reference)):.1g}")
    same = total = 0
    clear = True
    for text, wanted, gaps in zip(texts, expected["tokens"], expected["gaps"]):
        compared = min(len(text), len(wanted))
        first = next((at for at in range(compared) if text[at] != wanted[at]), compared)
        same, total = same + first, total + compared
        if first < compared and gaps[first] >= CLEAR_GAP:
            clear = False
    words.append(f"{same} of {total} tokens")
    return ", ".join(words), clear


def table(results):
    """Markdown. A ratio above 1 says how many times as fast as the contender Diptych is, of the median of rounds in
    which both had their turn, with the least and the greatest of a round."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    ours = {(r.work, r.threads, r.format): r for r in results if r.contender == OURS}
    for r in results:
        ratio = memory = "–"
        own = ours.get((r.work, r.threads, r.format))
        if own is not None and own is not r:
            ratios = [theirs / mine for theirs, mine in zip(r.milliseconds, own.milliseconds)]
            ratio = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
            memory = f"{own.peak_mib / r.peak_mib:.2f}"
        digits = 0 if r.figure >= 100 else 1
        spread = f"{min(r.figures):.{digits}f} to {max(r.figures):.{digits}f}"
        told = [r.work, r.threads, r.contender, r.format, f"{r.figure:.{digits}f} {r.unit}", spread, ratio]
        told += [f"{r.peak_mib:.0f}", f"{r.rounds_mib:.0f}", memory, f"{r.others_cpu:.2f}", r.agreement]
        lines.append(f"| {' | '.join(map(str, told))} |")
    return "\n".join(lines)


def write_json(path, results):
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps([dataclasses.asdict(r) for r in results], indent=1) + "\n")
    unfinished.replace(path)


def main():
    a = arguments()
    start = time.monotonic()
    root = HERE.parents[1]
    build = ["cargo", "build", "--release", "--quiet", "-p", "diptych-cost", "--example", "peer_work"]
    for command in (build, [HOME / "venv/bin/python", HERE / "prepare.py"]):
        try:
            subprocess.run(command, cwd=root, check=True)
        except (OSError, subprocess.CalledProcessError) as problem:
            sys.exit(f"compare.py: {problem}; run setup.sh first")
    if not (HOME / "works/prompt.json").exists() and any(isinstance(w, Serving) for w in a.works):
        sys.exit("compare.py: the model that is served is not there: run setup.sh, or say --only T")
    results, failures = [], []
    for threads in a.threads:
        for work in (w for w in a.works if threads > 1 or w.on_one or a.only):
            print(f"{time.monotonic() - start:5.0f} s: {work.name}, {threads} threads", file=sys.stderr, flush=True)
            results += compare(work, threads, a.contenders, a.rounds, failures)
            if a.json:
                write_json(a.json, results)
    print(table(results))
    for failure in failures:
        print(f"compare.py: {failure}", file=sys.stderr)
    print(f"{time.monotonic() - start:5.0f} s in all", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
