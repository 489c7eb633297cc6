"""Launchers, and two hosts: network namespaces with a link between them, where the machine lets a test make them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY
from launch import cpu_environment, free_port, losses, train

SETTINGS = (*TINY, "model.depth=1", "training.steps=4")
BIN = Path(sys.executable).parent
TWO_HOSTS = """
ip link set lo up
unshare --net sleep 600 &
other=$!
trap 'kill $other' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done
inside="nsenter --target $other --net"
ip link add link0 type veth peer name link0 netns $other
ip address add 10.77.0.1/24 dev link0
$inside ip address add 10.77.0.2/24 dev link0
ip link set link0 up
$inside ip link set lo up
$inside ip link set link0 up
export GLOO_SOCKET_IFNAME=link0
"""
"""Both ends of the link have the same name, as have the cards of equal machines."""


@pytest.fixture(scope="module")
def reference(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    run = tmp_path_factory.mktemp("reference")
    train(1, "--data", tiny_shards, "--run", run, *SETTINGS)
    return losses(run)


def run_to_end(*command: object) -> None:
    environment = cpu_environment({"OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"})
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


def run_on_two_hosts(script: str, *arguments: object) -> None:
    """Runs a script for bash in namespaces of its own, which end with it; `$inside COMMAND` runs on the second host."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs unshare and ip")
    new_host = ["unshare", "--net", "--map-root-user", "bash", "-eu", "-c"]
    tried = subprocess.run([*new_host, TWO_HOSTS], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this machine lets nobody make network namespaces: {tried.stderr.strip()}")
    run_to_end(*new_host, TWO_HOSTS + script, "bash", REPOSITORY / "scripts/train.py", *arguments)


@pytest.mark.slow
@pytest.mark.distributed
def test_torchrun_on_one_machine(reference: list[float], tiny_shards: Path, tmp_path: Path) -> None:
    arguments = ("--data", tiny_shards, "--run", tmp_path, *SETTINGS)
    port = ("--master-port", free_port())
    run_to_end("torchrun", "--nproc-per-node", 2, *port, "--", REPOSITORY / "scripts/train.py", *arguments)
    assert losses(tmp_path) == pytest.approx(reference, abs=1e-4)


SRUN = """#!/bin/bash
[ "$2" = --cpus-per-task=3 ] || exit 1
shift 2
export SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@"
wait $!
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_slurm_s_script(
    reference: list[float], tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for srun and scontrol."""
    for name, script in {"srun": SRUN, "scontrol": "#!/bin/bash\necho 127.0.0.1\n"}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.chdir(REPOSITORY)
    run_to_end("bash", "scripts/train.sbatch", "--data", tiny_shards, "--run", tmp_path / "run", *SETTINGS)
    assert losses(tmp_path / "run") == pytest.approx(reference, abs=1e-4)


TORCHRUN = """
start="torchrun --nnodes 2 --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29500"
$inside $start --node-rank 1 -- "$@" &
$start --node-rank 0 -- "$@"
wait $!
"""
DEEPSPEED = """
start="deepspeed --hostfile $HOSTFILE --no_ssh --master_addr 10.77.0.1 --master_port 29500"
$inside $start --node_rank 1 "$@" &
$start --node_rank 0 "$@"
wait $!
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("script", [TORCHRUN, DEEPSPEED], ids=["torchrun", "deepspeed"])
def test_two_hosts_train_as_one(
    script: str, reference: list[float], tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("10.77.0.1 slots=1\n10.77.0.2 slots=1\n")
    monkeypatch.setenv("HOSTFILE", str(hostfile))
    run_on_two_hosts(script, "--data", tiny_shards, "--run", tmp_path / "run", *SETTINGS)
    assert losses(tmp_path / "run") == pytest.approx(reference, abs=1e-4)
