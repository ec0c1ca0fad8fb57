"""A SLURM of one node, for the length of a test session: nothing of it is shared with the machine.

The daemons run in the foreground as children of the tests, with configuration, keys, sockets, state
and logs in one directory. The node claims to have more processors than there are, so that an array
runs at once.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

CPUS = 32
KILL_WAIT_S = 10
CGROUP_PLUGINS = ("disabled", "cgroup/v1", "autodetect")
"""Tried in turn: old versions know no ``disabled``, new ones need a systemd for the others."""

ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={directory}/munge.sock,cred_expire=5 # how long a requeued job waits, too
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
TaskProlog={directory}/task-prolog
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait={kill_wait}
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=256000 State=UNKNOWN
PartitionName=all Nodes=node Default=YES MaxTime=INFINITE State=UP
"""

# What many sites do: a directory on the node's own disk for each job.
TASK_PROLOG = """\
#!/bin/sh
if [ -n "$NODE_DISK" ]; then
    mkdir -p "$NODE_DISK/$SLURM_JOB_ID" && echo "export SLURM_TMPDIR=$NODE_DISK/$SLURM_JOB_ID"
fi
"""


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 90.0) -> None:
    """Wait until something holds; fail, saying what was waited for."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.02)


class Cluster:
    """A running SLURM.

    Parameters
    ----------
    directory
        Where all its files go.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs."""
        for name in ("state", "spool"):
            (self.directory / name).mkdir()
        key = self.directory / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        prolog = self.directory / "task-prolog"
        prolog.write_text(TASK_PROLOG)
        prolog.chmod(0o755)
        for plugin in CGROUP_PLUGINS:
            (self.directory / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
            self._start_daemons()
            if self._becomes_idle():
                return
            self._stop_daemons()
        raise RuntimeError(f"SLURM does not start.\n{self.report()}")

    def stop(self) -> None:
        """End all jobs, then the daemons, then whatever a job left running."""
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            if self._daemons:
                self.run("scancel", "--user=root")
                eventually(lambda: not self.run("squeue", "--noheader"), "jobs to end", 15)
        self._stop_daemons()
        for pid in self._strays():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def run(self, *command: str | Path, cwd: Path | None = None, **environment: str) -> str:
        """Run a command of SLURM and return what it prints."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self.environment(environment),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise subprocess.SubprocessError(f"{command}: {done.stderr}{done.stdout}")
        return done.stdout.strip()

    def environment(self, more: Mapping[str, str] = {}) -> dict[str, str]:
        """Return the environment in which SLURM's commands mean this cluster."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        return {**inherited, "SLURM_CONF": str(self.configuration), **more}

    def jobs(self, job: str) -> list[dict[str, str]]:
        """Return the fields of a job, or of each task of an array, as ``scontrol`` shows them."""
        lines = self.run("scontrol", "--oneliner", "show", "job", job).splitlines()
        return [dict(f.split("=", 1) for f in line.split() if "=" in f) for line in lines]

    def wait(self, job: str, timeout_s: float = 120.0) -> list[str]:
        """Wait until a job, or all tasks of an array, have ended; return their states, sorted."""
        states: list[str] = []

        def ended() -> bool:
            states[:] = sorted(fields["JobState"] for fields in self.jobs(job))
            time.sleep(0.1)
            return ENDED.issuperset(states)

        eventually(ended, f"job {job} to end", timeout_s)
        return states

    def reach_time_limit(self, job: str) -> None:
        """Let the time of a running job be up, since none can be under a minute."""
        self.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")

    def report(self, n_lines: int = 25) -> str:
        """Return the ends of all logs, and what the queue holds."""
        parts = []
        for log in sorted(self.directory.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-n_lines:]
            parts.append("\n".join([f"--- {log.name}", *lines]))
        with contextlib.suppress(subprocess.SubprocessError):
            parts.append("--- squeue\n" + self.run("squeue", "--all", "--states=all"))
        return "\n".join(parts)

    def _start_daemons(self) -> None:
        controller_port, node_port = _free_ports(2)
        self.configuration.write_text(
            CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                directory=self.directory,
                controller_port=controller_port,
                node_port=node_port,
                kill_wait=KILL_WAIT_S,
                cpus=CPUS,
            )
        )
        options = {"socket": "sock", "key-file": "key", "log-file": "log", "pid-file": "pid"}
        files = [f"--{k}={self.directory}/munge.{v}" for k, v in options.items()]
        files.append(f"--seed-file={self.directory}/munge.seed")
        self._start("munged", "--foreground", "--force", "--num-threads=2", *files)
        eventually((self.directory / "munge.sock").exists, "munged", 10)
        self._start("slurmctld", "-D", "-f", self.configuration)
        self._start("slurmd", "-D", "-f", self.configuration, "-N", "node")

    def _start(self, *command: str | Path) -> None:
        # Should the tests be killed, the kernel ends the daemons.
        with (self.directory / f"{command[0]}.log").open("ab") as output:
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *command],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
            )
        self._daemons.append(daemon)

    def _becomes_idle(self) -> bool:
        end = time.monotonic() + 20
        while time.monotonic() < end and all(each.poll() is None for each in self._daemons):
            with contextlib.suppress(subprocess.SubprocessError):
                if self.run("sinfo", "--noheader", "--format=%T") == "idle":
                    return True
            time.sleep(0.1)
        return False

    def _stop_daemons(self) -> None:
        while self._daemons:
            daemon = self._daemons.pop()  # the node first, who authenticates last
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _strays(self) -> Iterator[int]:
        """Yield the processes that a job of this cluster left: its name is in their environment."""
        ours = f"SLURM_CONF={self.configuration}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if ours in (process / "environ").read_bytes().split(b"\0"):
                    yield int(process.name)


def _free_ports(n: int) -> Sequence[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
