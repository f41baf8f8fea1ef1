#!/usr/bin/env python3
"""Whether one commit is slower than another: both are built, each in a worktree and a target directory of its own, and
do the same works in turns. Works: T1 (a training step of llama-15m, 8 x 256 tokens), S1 (a token of llama-135m after 16
to 143 others), and the families of kernels of benches/families.rs where both commits have them.

    benches/compare_commits.py BEFORE [AFTER] [--works T1,S1,families] [--rounds 7] [--threshold 5] [--threads 2]
                               [--families REGEX] [--run-with 'chrt -f 20'] [--json FILE]

A work is slower if three quarters of its rounds are slower by more than the threshold, in percent: noise of single
rounds is no regression. Exit status: 0, 1 if something is slower, 2 if something cannot be run. What is not committed is
not measured. Worktrees and builds stay in $XDG_CACHE_HOME/diptych-compare (else ~/.cache) for the next time. It needs
the standard library, git and cargo."""

import argparse
import hashlib
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diptych-compare"
WORKS = ["T1", "S1", "families"]


class Failed(Exception):
    """What cannot be measured, for the user."""


def output(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-12:])
        raise Failed(f"`{shlex.join(map(str, command))}` failed:\n{last}")
    return done.stdout


def git(*arguments, folder=HERE):
    return output(["git", "-C", str(folder), *arguments]).strip()


class Side:
    """One of the two commits, checked out and built."""

    def __init__(self, place, name, works):
        try:
            self.commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except Failed:
            raise Failed(f"there is no commit `{name}` here") from None
        self.title = f"{name} ({git('log', '-1', '--format=%h %s', self.commit)})"
        # One clone's worktrees are of no use to another.
        clone = hashlib.sha256(git("rev-parse", "--path-format=absolute", "--git-common-dir").encode()).hexdigest()
        folder = CACHE / clone[:12] / place
        self.source, self.target = folder / "source", folder / "target"
        self._check_out()
        self.programs = {}
        if "T1" in works:
            self.programs["T1"] = self._build("-p", "diptych-runtime", "--example", "train_speed")
        if "S1" in works:
            self.programs["S1"] = self._build("-p", "diptych-cost", "--example", "decode_speed")
        if "families" in works and (self.source / "benches" / "families.rs").exists():
            self.programs["families"] = self._build("-p", "diptych", "--bench", "families")

    def _check_out(self):
        self.source.parent.mkdir(parents=True, exist_ok=True)
        git("worktree", "prune")
        if (self.source / ".git").exists():
            git("checkout", "--quiet", "--detach", "--force", self.commit, folder=self.source)
        else:
            git("worktree", "add", "--quiet", "--force", "--detach", str(self.source), self.commit)

    def _build(self, *what):
        print(f"building {what[-1]} of {self.title}", file=sys.stderr)
        environment = os.environ | {"CARGO_TARGET_DIR": str(self.target)}
        command = ["cargo", "build", "--release", "--quiet", "--message-format", "json", *what]
        found = None
        for line in output(command, cwd=self.source, env=environment).splitlines():
            message = json.loads(line)
            if message.get("executable") and message["target"]["name"] == what[-1]:
                found = message["executable"]
        if found is None:
            raise Failed(f"cargo built no `{what[-1]}` of {self.title}")
        return found

    def measure(self, work, options):
        """Milliseconds of each thing that the work times."""
        start = [*options.run_with, self.programs[work]]
        threads = ["--threads", str(options.threads)]
        if work == "T1":
            sizes = ["--model", "llama-15m", "--batch", "8", "--time", "256", "--steps", str(options.steps + 1)]
            return {"T1": last_json(output([*start, *sizes, *threads], cwd=self.source))["median_ms"]}
        if work == "S1":
            sizes = ["--model", "llama-135m", "--prompt", "16", "--tokens", "128"]
            return {"S1": last_json(output([*start, *sizes, *threads], cwd=self.source))["median_ms"]}
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"CRITERION_HOME": folder}
            brief = ["--bench", "--sample-size", "10", "--warm-up-time", "0.1", "--measurement-time", "0.5"]
            chosen = [options.families] if options.families else []
            output([*start, *brief, *chosen], cwd=self.source, env=environment)
            found = {}
            for estimates in Path(folder).glob("**/new/estimates.json"):
                name = json.loads((estimates.parent / "benchmark.json").read_text())["full_id"]
                nanoseconds = json.loads(estimates.read_text())["median"]["point_estimate"]
                found[name] = nanoseconds / 1e6
            return found


def last_json(text):
    return json.loads([line for line in text.splitlines() if line.startswith("{")][-1])


def quartiles(values):
    if len(values) == 1:
        return [values[0]] * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def judge(before, after, threshold):
    """The ratios of rounds as quartiles, and a word on them."""
    ratios = quartiles([b / a for a, b in zip(before, after)])
    limit = threshold / 100
    if ratios[0] > 1 + limit:
        return ratios, "SLOWER"
    return ratios, "faster" if ratios[2] < 1 / (1 + limit) else "same"


def parse():
    summary, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=more, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="training steps of a round of T1")
    parser.add_argument("--threads", type=int, default=2, help="of T1 and S1; families take all cores")
    parser.add_argument("--threshold", type=float, default=5.0)
    parser.add_argument("--families", default="", metavar="REGEX")
    parser.add_argument("--run-with", type=shlex.split, default=[], metavar="COMMAND")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    options.works = options.works.split(",")
    if unknown := [work for work in options.works if work not in WORKS]:
        parser.error(f"no work `{unknown[0]}`; there are {', '.join(WORKS)}")
    if min(options.rounds, options.steps, options.threads) < 1 or options.threshold < 0:
        parser.error("--rounds, --steps and --threads must be at least 1, and --threshold at least 0")
    try:
        re.compile(options.families)
    except re.error as error:
        parser.error(f"--families is no regular expression: {error}")
    if options.json and options.json.exists():
        parser.error(f"{options.json} exists; name another file")
    return options


def run(options):
    sides = [Side("before", options.before, options.works), Side("after", options.after, options.works)]
    times = {}
    for work in options.works:
        if any(work not in side.programs for side in sides):
            print(f"{work} is left out: not both commits have it", file=sys.stderr)
            continue
        for number in range(options.rounds):
            # They take turns in being first: what comes second finds caches and clocks as the first left them.
            for at in (0, 1) if number % 2 == 0 else (1, 0):
                side = sides[at]
                print(f"{work}, round {number + 1} of {options.rounds}: {['before', 'after'][at]}", file=sys.stderr)
                for name, milliseconds in side.measure(work, options).items():
                    times.setdefault(name, ([], []))[at].append(milliseconds)
    print(f"before: {sides[0].title}\nafter:  {sides[1].title}")
    print(f"{'':38} {'before ms':>10} {'after ms':>10} {'ratio':>7}   quartiles")
    slower, kept = [], {}
    for name, (before, after) in times.items():
        if len(before) != len(after):
            print(f"{name:38} is not of both")
            continue
        (low, middle, high), word = judge(before, after, options.threshold)
        medians = [statistics.median(before), statistics.median(after)]
        print(f"{name:38} {medians[0]:10.3f} {medians[1]:10.3f} {middle:7.3f}   {low:.3f} to {high:.3f}  {word}")
        kept[name] = dict(before_ms=before, after_ms=after, ratio_quartiles=[low, middle, high], judgement=word)
        if word == "SLOWER":
            slower.append(name)
    if options.json:
        commits = dict(before=sides[0].commit, after=sides[1].commit)
        options.json.write_text(json.dumps(dict(**commits, works=kept), indent=2) + "\n")
    if not kept:
        raise Failed("nothing was measured")
    if slower:
        print(f"slower by more than {options.threshold:g}%: {', '.join(slower)}")
    return 1 if slower else 0


def main():
    options = parse()
    try:
        return run(options)
    except (Failed, OSError, ValueError, LookupError) as failure:
        print(f"compare_commits: {failure}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
