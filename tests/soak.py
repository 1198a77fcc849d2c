"""Complete runs, one after the other on a cluster of three hosts, with a random fault a minute; what the
cluster holds between two of them.

A fault kills the command, an engine, a training worker or the driver actor, interrupts the command,
takes a worker's power or its network away, or the storage's network; the same command then resumes.
"""

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter

import psutil
from host_cluster import TO_STORAGE, run

from benchmarks.heads import children

VICTIMS = {
    "engine killed": "EngineWorker",
    "training worker killed": "RayTrainWorker",
    "driver actor killed": "IterationDriver",
}
COMMAND_FAULTS = {"command killed": signal.SIGKILL, "command interrupted": signal.SIGINT}
AWAY_S = 20

# How a command ends that is to be given again: killed, interrupted (at once, or once it listens), or
# with one line (a training whose workers were killed too often, a storage that is away).
GO_ON = {-signal.SIGKILL, -signal.SIGINT, 128 + signal.SIGINT, 2}
END_S = 20  # within which all that a command started ends with it

ACTORS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8265/api/v0/actors?limit=10000").read().decode())
"""


class Soak:
    """A ``HostCluster`` that is up, the runs on it, and what was done to them."""

    def __init__(self, cluster, seed):
        self.cluster, self.rng = cluster, random.Random(seed)
        self.faults, self.harmed_at = Counter(), 0.0
        self.ends = []

    def run(self, name, every_s, over):
        """A run to its end, whatever happens to it; then what the cluster holds at rest."""
        next_fault, code = time.time() + every_s * self.rng.random(), None
        while code != 0:
            with self.cluster.psr_ray(*run(name=name)) as command:
                while (code := command.poll()) is None:
                    if next_fault < time.time() < over:
                        self.harm(command)
                        next_fault = time.time() + every_s
                    self.mend()
                    time.sleep(0.5)
            harmed = time.time() < self.harmed_at + 2 * END_S + 2 * AWAY_S
            assert code == 0 or (code in GO_ON and harmed), (code, self.cluster.log)
        expected, found = self.cluster.items(name)
        lost, doubled = len(set(expected) - set(found)), len(found) - len(set(found))
        return {"items": len(expected), "lost": lost, "doubled": doubled} | self.rest()

    def harm(self, command):
        """A random fault among those that are possible now."""
        found = {name: self.processes(mark) for name, mark in VICTIMS.items()}
        others = (*COMMAND_FAULTS, "node switched off", f"node deaf to the head for {AWAY_S} s")
        possible = [name for name in found if found[name]]
        fault = self.rng.choice([*possible, *others, f"storage away for {AWAY_S} s"])
        self.faults[fault] += 1
        self.harmed_at = time.time() + AWAY_S
        worker = self.rng.choice(self.cluster.workers)
        if fault in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.rng.choice(found[fault]).kill()
        elif fault in COMMAND_FAULTS:
            self.stop(command, fault)
        elif fault == "node switched off":
            worker.off()
        elif fault.startswith("node"):
            with worker.dropping(("INPUT", "-s", self.cluster.head.address)):
                time.sleep(AWAY_S)
        else:
            with self.cluster.storage.dropping(TO_STORAGE):
                time.sleep(AWAY_S)

    def stop(self, command, fault):
        """Send the command a signal; what it started ends within ``END_S``."""
        began = time.time()
        for process in children(command.pid, "psr-ray run"):
            process.send_signal(COMMAND_FAULTS[fault])
        command.wait(END_S)
        while left := self.processes(*VICTIMS.values()):
            assert time.time() < began + END_S, (fault, [each.cmdline() for each in left])
            time.sleep(0.2)
        self.ends.append(round(time.time() - began, 1))

    def mend(self):
        """What an operator or a cloud does: a host without power, or whose Ray has ended, comes back."""
        for worker in self.cluster.workers:
            if self.cluster.worker_processes[worker.name].poll() is not None:
                if worker.process.poll() is not None:
                    worker.start()
                self.cluster.start_worker(worker)

    def processes(self, *marks):
        """The cluster's processes whose command lines hold one of the marks."""
        hosts = [self.cluster.head, *self.cluster.workers]
        alive = [host for host in hosts if host.process.poll() is None]
        return [each for host in alive for each in host.processes(*marks)]

    def rest(self):
        """Held between two runs: live actors; unshared memory, in all and of the head's programs, and
        file handles (a worker's processes are new where it was switched off)."""
        self.mend()
        self.cluster.await_nodes(1 + len(self.cluster.workers))
        time.sleep(10)  # Ray ends what nobody uses
        said = self.cluster.head.run("python", "-c", ACTORS).stdout
        actors = json.loads(said)["data"]["result"]["result"]
        alive = Counter(actor["class_name"] for actor in actors if actor["state"] != "DEAD")
        at_head = set(self.cluster.head.processes(""))
        mb, programs, handles = 0.0, Counter(), 0
        for process in self.processes(""):
            with contextlib.suppress(psutil.Error):
                held = process.memory_full_info().uss / 1e6
                mb += held
                if process in at_head:
                    programs[program(process)] += held
                    handles += process.num_fds()
        return {
            "actors": alive.total(),
            "classes": dict(alive),
            "mb": round(mb),
            "handles": handles,
            "programs": {name: round(held) for name, held in programs.most_common()},
        }


def program(process):
    """What a process runs; of a Python script, its folder and name."""
    line = process.cmdline() or [process.name()]
    if os.path.basename(line[0]).startswith("python"):
        line = [part for part in line if part.endswith(".py")] or line
    return "/".join(line[0].split()[0].split("/")[-2:])
