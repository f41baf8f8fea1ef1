"""A contender as compare.py sees it: a process that stays loaded and warm, is asked one thing at a time, and stands
still while others have their turns. It needs the standard library alone."""

import contextlib
import json
import os
import signal
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A contender that does not start, ends early or answers what is no answer."""


class Child:
    """A process in a session of its own. Where the kernel groups processes by session (`sched_autogroup_enabled`), the
    niceness of others counts only within their group, so a niced build elsewhere would otherwise take half a core."""

    def __init__(self, name, command, environment, cores, job, log):
        self.name, self.log = name, log
        kept = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        with open(log, "w") as errors:
            self.process = subprocess.Popen(
                command,
                env=kept | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        with contextlib.suppress(OSError), open(f"/proc/{self.process.pid}/autogroup", "w") as group:
            group.write("-20")  # Only root may; without it, the group has the weight of any other.
        if cores:
            os.sched_setaffinity(self.process.pid, range(cores))
        self.others_seconds = self.seconds = self.peak_before_mib = 0.0
        self._send(job)
        self.version = self._receive()["ready"]
        self._stop()

    def ask(self, do, **arguments):
        """The answer to a request. What other processes took of the CPU meanwhile is counted."""
        self._signal(signal.SIGCONT)
        start, machine, own = time.perf_counter(), machine_seconds(), self._cpu_seconds()
        self._send({"do": do, **arguments})
        answer = self._receive()
        own = self._cpu_seconds() - own
        self.others_seconds += max(0.0, machine_seconds() - machine - own)
        self.seconds += time.perf_counter() - start
        self._stop()
        return answer

    def begin_rounds(self):
        """Begins anew to count what others take, and how much memory is resident."""
        self.others_seconds = self.seconds = 0.0
        self.peak_before_mib = self.resident_mib()
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as reset:
            reset.write("5")  # the peak is what is resident now

    def others_cpu(self):
        """Cores that other processes took while this one was asked, on average."""
        return self.others_seconds / self.seconds if self.seconds else 0.0

    def peak_mib(self):
        """The most memory that the process has had resident, loading and warm-up among it."""
        return max(self.peak_before_mib, self.resident_mib())

    def resident_mib(self):
        """The most memory that has been resident in rounds; before them, ever."""
        with open(f"/proc/{self.process.pid}/status") as status:
            peak = next(line for line in status if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            self._signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def _send(self, value):
        try:
            self.process.stdin.write(json.dumps(value) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("it has ended") from None

    def _receive(self):
        line = self.process.stdout.readline()
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            raise self._failed(f"it answered {line!r}") from None

    def _failed(self, problem):
        self.end()
        with open(self.log) as log:
            last = "".join(log.readlines()[-8:])
        return Failed(f"{self.name}: {problem}; the end of {self.log}:\n{last}")

    def _cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def _stop(self):
        self._signal(signal.SIGSTOP)

    def _signal(self, number):
        os.killpg(self.process.pid, number)


def machine_seconds():
    """CPU seconds that all processes have taken so far."""
    with open("/proc/stat") as stat:
        ticks = [int(t) for t in stat.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICK
