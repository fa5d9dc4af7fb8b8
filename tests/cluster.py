"""Two machines on one: Linux namespaces with a network between them, and a Slurm that runs on both."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
ADDRESSES = {"alpha": "10.77.0.1", "beta": "10.77.0.2"}
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"}
"""With flywheel's environment active."""

UNSHARE = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc")
# It ends, and the kernel with it all processes of the host, when the test closes its standard input or dies.
INIT = """
echo "$0" > /proc/sys/kernel/hostname
mount --bind "$1" /etc/hosts
ip link set lo up
echo up
read -r
"""


class Host:
    """A machine with its own name, network, processes and mounts; the files are everybody's."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {host}\n" for host, ip in ADDRESSES.items()))
        self._holder = subprocess.Popen(
            [*UNSHARE, "bash", "-c", INIT, name, str(hosts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert self._holder.stdout and self._holder.stdout.readline() == b"up\n", "namespaces need root"
        self.pid = int(Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text())

    def command(self, *command: str | Path, cwd: Path = ROOT) -> list[str]:
        enter = ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", "--pid"]
        return [*enter, "env", f"--chdir={cwd}", *map(str, command)]

    def start(self, *command: str | Path, log: Path, **variables: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                self.command(*command), stdout=out, stderr=subprocess.STDOUT, env={**ENVIRONMENT, **variables}
            )

    def tell(self, *command: str | Path, **variables: str) -> str:
        """The output of a short command that must succeed."""
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=60, env={**ENVIRONMENT, **variables}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def down(self) -> None:
        """As if the power failed."""
        assert self._holder.stdin
        self._holder.stdin.close()
        self._holder.wait(10)


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Hosts "alpha" and "beta", which reach each other and nothing else."""
    alpha, beta = Host("alpha", folder), Host("beta", folder)
    try:
        cable = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(beta.pid)]
        subprocess.run(["nsenter", "--target", str(alpha.pid), "--net", *cable], check=True, env=ENVIRONMENT)
        for host in (alpha, beta):
            host.tell("ip", "addr", "add", f"{ADDRESSES[host.name]}/24", "dev", "eth0")
            host.tell("ip", "link", "set", "eth0", "up")
        yield alpha, beta
    finally:
        alpha.down()
        beta.down()


def await_that(ready: Callable[[], bool], what: str, limit: float, tell: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + limit
    while not ready():
        assert time.monotonic() < deadline, f"waited {limit:.0f} s for {what}\n{tell()}"
        time.sleep(0.1)


# Jobs in "spot" are preempted at once by jobs in "urgent", those in "graced" have a minute to end. It needs nothing of
# the machine: no munge, no accounting, no cgroups (with a mount point of its own slurmd does not look for them).
SLURM_CONF = """
ClusterName=two
SlurmctldHost=alpha
SlurmUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=alpha,beta CPUs=1
PartitionName=spot Nodes=ALL Default=YES PriorityTier=1
PartitionName=graced Nodes=ALL PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupMountpoint={folder}/no-cgroups\n"


class Slurm:
    """Debian's Slurm: the controller on alpha, a node on each host."""

    def __init__(self, folder: Path, alpha: Host, beta: Host) -> None:
        self.folder, self.alpha = folder, alpha
        (folder / "state").mkdir(parents=True)
        (folder / "slurm.conf").write_text(SLURM_CONF.format(folder=folder))
        (folder / "cgroup.conf").write_text(CGROUP_CONF.format(folder=folder))
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}
        for host, daemon in ((alpha, "slurmctld"), (alpha, "slurmd"), (beta, "slurmd")):
            host.start(daemon, "-D", log=folder / f"{daemon}.{host.name}.out", **self.variables)
        await_that(lambda: self._idle() == 2, "two idle nodes", 60, self.logs)

    def _idle(self) -> int:
        asked = self.alpha.command("sinfo", "--noheader", "--partition=spot", "--states=idle", "--format=%D")
        told = subprocess.run(asked, capture_output=True, text=True, env={**ENVIRONMENT, **self.variables}, timeout=60)
        return int(told.stdout.strip() or 0)

    def logs(self) -> str:
        return "".join(f"--- {file.name}\n{file.read_text()[-2000:]}\n" for file in self.folder.glob("slurm*.log"))

    def tell(self, *command: str | Path, **variables: str) -> str:
        return self.alpha.tell(*command, **self.variables, **variables)

    def submit(self, *arguments: str | Path, **variables: str) -> Job:
        return Job(self, int(self.tell("sbatch", "--parsable", *arguments, **variables)))


ALIVE = ("PENDING", "RUNNING", "SIGNALING", "COMPLETING")


class Job:
    """A submitted batch job."""

    def __init__(self, slurm: Slurm, number: int) -> None:
        self.slurm, self.number = slurm, number

    def facts(self) -> dict[str, str]:
        """What ``scontrol show job`` tells, such as JobState and Restarts."""
        words = self.slurm.tell("scontrol", "show", "job", "--oneliner", str(self.number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def output(self) -> str:
        file = Path(self.facts()["StdOut"])
        return file.read_text() if file.exists() else "no output yet\n"

    def everything(self) -> str:
        return f"{self.facts()}\n{self.output()}\n{self.slurm.logs()}"

    def await_end(self, state: str, limit: float = 60) -> dict[str, str]:
        """Wait until the job has ended, in this state and no other."""
        await_that(lambda: self.facts()["JobState"] not in ALIVE, f"job {self.number}", limit, self.everything)
        assert self.facts()["JobState"] == state, self.everything()
        return self.facts()

    def await_restart(self, number: int, limit: float = 60) -> None:
        """Wait until the job is back in the queue for the so-manieth time."""

        def waits() -> bool:
            facts = self.facts()
            assert facts["JobState"] in ALIVE, self.everything()
            return facts["JobState"] == "PENDING" and facts["Restarts"] == str(number)

        await_that(waits, f"job {self.number} to be requeued", limit, self.everything)

    def await_that(self, ready: Callable[[], bool], what: str, limit: float) -> None:
        """Wait for something that the job is to do while it runs."""
        await_that(lambda: ready() or self.facts()["JobState"] not in ALIVE, what, limit, self.everything)
        assert ready(), f"{what} did not come:\n{self.everything()}"

    def start_soon(self, **settings: str) -> None:
        """Slurm lets a job that was put back wait for two minutes, in which its old credential expires; be quicker."""
        changes = [f"{key}={value}" for key, value in {"StartTime": "now+3", **settings}.items()]
        self.slurm.tell("scontrol", "update", f"JobId={self.number}", *changes)
