"""The configuration files of a test cluster on one machine."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

CLUSTER = "testing"
ACCOUNT = "research"
NODES = 2
GPUS = 8
# Claimed, not there: `SlurmdParameters=config_overrides`.
CPUS = 64
_MEMORY = 65536
# Every cluster has a network namespace to itself, so that these are always free.
_CONTROLLER, _ACCOUNTING, DATABASE, _FIRST_NODE = 16817, 16819, 16820, 16830


@dataclass(frozen=True)
class Layout:
    """Where the files of one cluster are. `root` is short: a socket's path has 107 characters at most."""

    root: Path

    @property
    def conf(self) -> Path:
        return self.root / "slurm.conf"

    @property
    def munge(self) -> Path:
        return self.root / "munge" / "run" / "socket"

    @property
    def munge_key(self) -> Path:
        return self.root / "munge" / "etc" / "key"

    @property
    def database(self) -> Path:
        return self.root / "database"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def devices(self) -> Path:
        return self.root / "dev"

    @property
    def plugin(self) -> Path:
        return self.root / "container_stub.so"

    def write(self) -> None:
        """Write every file but keys and devices."""
        for name in ("state", "spool", "logs", "dev", "munge/run", "munge/etc", "munge/lib", "database"):
            (self.root / name).mkdir(parents=True)
        (self.root / "munge" / "etc").chmod(0o700)
        self.conf.write_text(_slurm_conf(self))
        (self.root / "gres.conf").write_text(
            f"NodeName=n[1-{NODES}] Name=gpu File={self.devices}/gpu[0-{GPUS - 1}]\n"
        )
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self.root / "plugstack.conf").write_text(f"required {self.plugin}\n")
        accounting = self.root / "slurmdbd.conf"
        accounting.write_text(_slurmdbd_conf(self))
        accounting.chmod(0o600)


def _slurm_conf(at: Layout) -> str:
    host = socket.gethostname()
    ports = f"[{_FIRST_NODE}-{_FIRST_NODE + NODES - 1}]"
    return f"""
ClusterName={CLUSTER}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_CONTROLLER}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job starts when its credential has expired: 5 s, not 2 minutes.
AuthInfo=socket={at.munge},cred_expire=5
CredType=cred/munge
StateSaveLocation={at.root}/state
SlurmdSpoolDir={at.root}/spool/%n
SlurmctldPidFile={at.root}/slurmctld.pid
SlurmdPidFile={at.root}/slurmd-%n.pid
SlurmctldLogFile={at.logs}/slurmctld.log
SlurmdLogFile={at.logs}/slurmd-%n.log
PlugStackConfig={at.root}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
KillWait=5
CompleteWait=0
MinJobAge=600
SlurmdTimeout=30
SlurmctldTimeout=30
UnkillableStepTimeout=10
JobRequeue=1
MailProg=/bin/true
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={_ACCOUNTING}
# Without it slurmctld and sacctmgr look for a socket of the machine's own munge, and hang.
AccountingStoragePass={at.munge}
AccountingStorageTRES=gres/gpu
# What a site may well do: whatever is in a job's script or environment is kept.
AccountingStoreFlags=job_comment,job_script,job_env
GresTypes=gpu
NodeName=n[1-{NODES}] NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs={CPUS} Boards=1 \\
    SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={_MEMORY} Gres=gpu:{GPUS} \\
    State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
PartitionName=interactive Nodes=ALL MaxTime=60 State=UP
PartitionName=down Nodes=ALL MaxTime=60 State=DOWN
""".replace("\\\n   ", "")


def _slurmdbd_conf(at: Layout) -> str:
    return f"""
AuthType=auth/munge
AuthInfo=socket={at.munge}
DbdHost={socket.gethostname()}
DbdAddr=127.0.0.1
DbdPort={_ACCOUNTING}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={DATABASE}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
LogFile={at.logs}/slurmdbd.log
PidFile={at.root}/slurmdbd.pid
"""
