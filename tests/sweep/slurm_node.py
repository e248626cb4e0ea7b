"""A SLURM of one node on this machine, for as long as tests need it: its own configuration, keys, ports and files, nothing outside of them.

    python tests/sweep/slurm_node.py FOLDER

starts one in FOLDER, to try things out; Ctrl-C ends it. Needs root, and Debian's packages `slurm-wlm` and `munge`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HANG_SECONDS = 1800

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={port_of_node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
"""The node is called localhost, because JAX finds process 0 by the name of its node."""

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue")


class SlurmNode:
    """A SLURM that is running."""

    def __init__(self, folder: Path) -> None:
        """Start it in `folder`; raises `RuntimeError` if it does not come up."""
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise RuntimeError(f"no {', '.join(missing)}: apt-get install slurm-wlm munge (CONTRIBUTING)")
        self._folder = folder
        for part in (folder, folder / "state", folder / "spool"):
            part.mkdir(mode=0o755, parents=True, exist_ok=True)
        host, (port, port_of_node) = socket.gethostname().partition(".")[0], _free_ports(2)
        configuration = folder / "slurm.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder, host=host, port=port, port_of_node=port_of_node))
        self.environment = {**os.environ, "SLURM_CONF": str(configuration)}
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "seed"}
        # By force, since it does not like folders that others may write to, such as /tmp.
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start("munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items()))
        while not (folder / "munge.socket").exists():
            time.sleep(0.05)
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", "localhost")
        for _ in range(HANG_SECONDS):
            if "idle" in self.ask("sinfo", "--noheader", "--format=%T"):
                return
            time.sleep(1)
        logs = "\n".join((folder / name).read_text()[-2000:] for name in ("slurmctld.log", "slurmd.log") if (folder / name).exists())
        self.close()
        raise RuntimeError(f"SLURM did not come up: {logs}")

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def close(self) -> None:
        """End it, and all its jobs."""
        self.ask("scancel", "--me")
        for _ in range(HANG_SECONDS):
            if not self.ask("squeue", "--noheader").strip():
                break
            time.sleep(1)
        for process in reversed(self._processes):
            process.terminate()
            process.wait()

    def _start(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out").open("wb") as output:
            self._processes.append(subprocess.Popen(command, env=self.environment, stdout=output, stderr=output, start_new_session=True))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    node = SlurmNode(Path(sys.argv[1]).absolute())
    print(f"export SLURM_CONF={node.environment['SLURM_CONF']}", flush=True)
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    signal.sigwait(ends)
    node.close()
