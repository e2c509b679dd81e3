# ruff: noqa: E501  (lines as the frameworks write them)
"""The first cause of a failure, out of logs as the frameworks write them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from textwrap import dedent

import pytest

from nemotron.job.causes.first_cause import first_cause

OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total of 79.11 GiB"
)
NCCL = (
    "[rank{r}]:[E1121 15:{m}:42.123456 ProcessGroupNCCL.cpp:616] [Rank {r}] Watchdog caught collective operation"
    " timeout: WorkNCCL(SeqNum=77, OpType=ALLREDUCE, NumelIn=1, Timeout(ms)=600000) ran for 600029 milliseconds"
)

# Log, and what the cause has to be: part of `what`, part of `where` and the node (None: any).
ALONE = {
    "out of memory on a GPU": (
        f"""
        Traceback (most recent call last):
          File "/opt/nemo-rl/examples/run_sft.py", line 200, in main
            train()
          File "/opt/nemo-rl/nemo_rl/models/policy/worker.py", line 900, in train
            loss.backward()
            ^^^^^^^^^^^^^^^
        {OOM}
        [rank1]:[W1121 15:37:42.1 ProcessGroupNCCL.cpp:1250] Warning: destroy_process_group() was not called
        """,
        OOM,
        "worker.py:900 in train",
        None,
    ),
    "a missing module": (
        """
        Traceback (most recent call last):
          File "train.py", line 3, in <module>
            import flash_attn
        ModuleNotFoundError: No module named 'flash_attn'
        srun: error: n1: task 0: Exited with exit code 1
        """,
        "ModuleNotFoundError: No module named 'flash_attn'",
        "train.py:3",
        None,
    ),
    "a full disk while saving": (
        """
        Traceback (most recent call last):
          File "/x/torch/serialization.py", line 944, in save
            _save(obj)
        OSError: [Errno 28] No space left on device

        The above exception was the direct cause of the following exception:

        Traceback (most recent call last):
          File "/x/checkpoint.py", line 12, in save_checkpoint
            save(state)
        RuntimeError: PytorchStreamWriter failed writing file data/12: file write failed
        """,
        "No space left on device",
        "serialization.py:944",
        None,
    ),
    "a handler that says it better": (
        """
        Traceback (most recent call last):
          File "/x/auto.py", line 1, in from_pretrained
            c = MAP[kind]
        KeyError: 'nemotron_h'

        During handling of the above exception, another exception occurred:

        Traceback (most recent call last):
          File "/x/auto.py", line 3, in from_pretrained
            raise ValueError(text)
        ValueError: The checkpoint has model type `nemotron_h`, which this version does not know
        """,
        "which this version does not know",
        "auto.py:3",
        None,
    ),
    "clean-up that fails too": (
        """
        Traceback (most recent call last):
          File "/x/train.py", line 10, in step
            forward()
        ValueError: logits are not finite at step 12

        During handling of the above exception, another exception occurred:

        Traceback (most recent call last):
          File "/x/dist.py", line 3, in barrier
            wait()
        torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2251, remote process exited
        """,
        "logits are not finite",
        "train.py:10",
        None,
    ),
    "an actor of Ray on another node": (
        """
        (raylet, ip=10.0.0.9) something harmless
        2026-11-21 15:37:42,123\tERROR worker.py:409 -- Unhandled error (suppress with RAY_IGNORE=1)
        Traceback (most recent call last):
          File "/opt/nemo-rl/examples/run_grpo.py", line 210, in <module>
            main()
          File "/opt/ray/worker.py", line 900, in get_objects
            raise value.as_instanceof_cause()
        ray.exceptions.RayTaskError(OutOfMemoryError): \x1b[36mray::MegatronPolicyWorker.train()\x1b[39m (pid=4021, ip=10.0.0.7, actor_id=ab12, repr=MegatronPolicyWorker[rank=9])
          File "/opt/nemo-rl/nemo_rl/models/policy/megatron_policy_worker.py", line 950, in train
            out = self.model(x)
        torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB.
        """,
        "torch.OutOfMemoryError: CUDA out of memory",
        "megatron_policy_worker.py:950",
        "10.0.0.7",
    ),
    "an actor that died while it was made": (
        """
        Traceback (most recent call last):
          File "/opt/run_grpo.py", line 1, in <module>
            main()
        ray.exceptions.ActorDiedError: The actor died because of an error raised in its creation task, ray::VllmGenerationWorker.__init__() (pid=77, ip=10.0.0.3, actor_id=1)
          File "/opt/nemo_rl/models/generation/vllm_worker.py", line 300, in __init__
            self.llm = vllm.LLM(**kwargs)
        ValueError: Total number of attention heads (40) must be divisible by tensor parallel size (16).
        (VllmGenerationWorker pid=78, ip=10.0.0.4) [2026-11-21 15:40:00] Socket closed
        """,
        "must be divisible by tensor parallel size",
        "vllm_worker.py:300",
        "10.0.0.3",
    ),
    "an engine of vLLM": (
        """
        (EngineCore_0 pid=512) ERROR 11-21 15:30:01 [core.py:700] EngineCore failed to start.
        (EngineCore_0 pid=512) ERROR 11-21 15:30:01 [core.py:700] Traceback (most recent call last):
        (EngineCore_0 pid=512) ERROR 11-21 15:30:01 [core.py:700]   File "/x/vllm/v1/worker.py", line 77, in init_device
        (EngineCore_0 pid=512) ERROR 11-21 15:30:01 [core.py:700]     raise ValueError(
        (EngineCore_0 pid=512) ERROR 11-21 15:30:01 [core.py:700] ValueError: Free memory on device (3.1/79.1 GiB) on startup is less than desired
        (APIServer pid=500) Traceback (most recent call last):
        (APIServer pid=500)   File "/x/vllm/v1/engine/utils.py", line 800, in wait_for_engine_startup
        (APIServer pid=500)     raise RuntimeError("Engine core initialization failed. "
        (APIServer pid=500) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_0': 1}
        """,
        "Free memory on device",
        "worker.py:77",
        None,
    ),
    "memory of the node": (
        """
        [2026-11-21T15:37:40] step 7/100
        slurmstepd: error: Detected 1 oom_kill event in StepId=123.0. Some of the step tasks have been OOM Killed.
        srun: error: n2: task 1: Out Of Memory
        """,
        "oom_kill event",
        "line 3",
        None,
    ),
    "the time limit": (
        """
        step 99/1000
        slurmstepd: error: *** STEP 123.0 ON n1 CANCELLED AT 2026-11-21T15:37:42 DUE TO TIME LIMIT ***
        Traceback (most recent call last):
          File "/x/api.py", line 1, in run
            raise SignalException(f"Process {os.getpid()} got signal: {sigval}", sigval=sigval)
        torch.distributed.elastic.multiprocessing.api.SignalException: Process 4021 got signal: 15
        """,
        "DUE TO TIME LIMIT",
        None,
        "n1",
    ),
    "a node that failed": (
        """
        slurmstepd: error: *** JOB 123 ON n2 CANCELLED AT 2026-11-21T15:37:42 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***
        srun: error: Node failure on n2
        """,
        "DUE TO NODE FAILURE",
        None,
        "n2",
    ),
    "a segmentation fault": (
        """
        Fatal Python error: Segmentation fault

        Thread 0x00007f1 (most recent call first):
          File "/x/loader.py", line 9 in read
        srun: error: n1: task 0: Segmentation fault (core dumped)
        """,
        "Fatal Python error: Segmentation fault",
        None,
        None,
    ),
    "a bus error of a full /dev/shm": (
        """
        ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).
        Traceback (most recent call last):
          File "/x/dataloader.py", line 1275, in _try_get_data
            data = self._data_queue.get(timeout=timeout)
        RuntimeError: DataLoader worker (pid 4021) is killed by signal: Bus error. It is possible that it ran out
        """,
        "insufficient shared memory",
        None,
        None,
    ),
    "an image that is not there": (
        """
        pyxis: importing docker image: nvcr.io/nvidia/nemo-rl:v9
        slurmstepd: error: pyxis: child 4021 failed with error code: 1
        slurmstepd: error: pyxis: failed to import docker image
        slurmstepd: error: Failed to invoke spank plugin stack
        """,
        "pyxis: child 4021 failed",
        None,
        None,
    ),
    "a missing permission": (
        """
        Traceback (most recent call last):
          File "/x/train.py", line 4, in main
            out.mkdir()
        PermissionError: [Errno 13] Permission denied: '/lustre/other/ckpt'
        """,
        "PermissionError: [Errno 13] Permission denied: '/lustre/other/ckpt'",
        "train.py:4",
        None,
    ),
    "a warning with a traceback before": (
        """
        WARNING 11-21 15:00:00 [registry.py:9] Traceback (most recent call last):
        WARNING 11-21 15:00:00 [registry.py:9]   File "/x/optional.py", line 1, in load
        WARNING 11-21 15:00:00 [registry.py:9] ImportError: libfoo.so: cannot open shared object file
        Exception ignored in: <function Pool.__del__ at 0x7f>
        Traceback (most recent call last):
          File "/x/pool.py", line 5, in __del__
            self.close()
        AttributeError: 'Pool' object has no attribute '_state'
        nvidia-smi: command not found
        Traceback (most recent call last):
          File "/x/run.py", line 6, in main
            check()
        omegaconf.errors.ConfigAttributeError: Key 'num_promts' is not in struct
        """,
        "Key 'num_promts' is not in struct",
        "run.py:6",
        None,
    ),
    "a request that was tried again": (
        """
        Traceback (most recent call last):
          File "/x/judge.py", line 8, in ask
            post()
        TimeoutError: the judge did not answer; trying again
        step 1/10
        step 2/10
        step 3/10
        Traceback (most recent call last):
          File "/x/train.py", line 9, in step
            check()
        AssertionError
        """,
        "AssertionError",
        "train.py:9",
        None,
    ),
    "a port that is taken": (
        """
        Traceback (most recent call last):
          File "/x/store.py", line 5, in start
            TCPStore()
        torch.distributed.DistNetworkError: The server socket has failed to listen. port: 29500, EADDRINUSE
        """,
        "EADDRINUSE",
        "store.py:5",
        None,
    ),
    "processes of torchrun side by side": (
        """
        [rank1]: Traceback (most recent call last):
        [rank0]: Traceback (most recent call last):
        [rank1]:   File "/x/train.py", line 7, in step
        [rank0]:   File "/x/dist.py", line 2, in all_reduce
        [rank0]:     work.wait()
        [rank1]:     raise ValueError("batch 7 is empty")
        [rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:2222
        [rank1]: ValueError: batch 7 is empty
        E1121 15:37:42.1 4021 torch/distributed/elastic/multiprocessing/api.py:874] failed (exitcode: 1) local_rank: 1
        torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
        """,
        "ValueError: batch 7 is empty",
        "train.py:7",
        None,
    ),
    "nothing but a death": (
        """
        launch.sh: line 12:  4021 Killed                  python train.py
        """,
        "Killed",
        "line 2",
        None,
    ),
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return path


@pytest.mark.parametrize("case", ALONE)
def test_one_log_tells_its_first_cause(case: str, tmp_path: Path) -> None:
    text, what, where, node = ALONE[case]
    found = first_cause([write(tmp_path / "attempt-1.log", text)])
    assert found is not None
    assert what in str(found["what"])
    assert where is None or where in str(found["where"])
    assert node is None or found["node"] == node
    assert "attempt-1.log" in str(found["where"])


def test_a_timeout_on_three_nodes_is_not_the_cause_when_the_fourth_failed(tmp_path: Path) -> None:
    echoes = [
        write(tmp_path / "attempt-1.log", NCCL.format(r=0, m=47)),
        *(write(tmp_path / f"attempt-1.node-{r}.log", NCCL.format(r=r, m=47)) for r in (1, 2)),
    ]
    failed = write(
        tmp_path / "attempt-1.node-3.log",
        """
        nemotron: 2026-11-21 15:00:00 node 3 is gpu-0421 (10.0.0.7, 127.0.0.1)
        2026-11-21 15:37:30 INFO step 12/100
        [rank3]: Traceback (most recent call last):
        [rank3]:   File "/x/data.py", line 31, in __getitem__
        [rank3]:     row = self.rows[index]
        [rank3]: IndexError: list index out of range
        """,
    )
    found = first_cause([*echoes, failed])
    assert found is not None
    assert found["what"] == "IndexError: list index out of range"
    assert str(found["where"]).startswith("/x/data.py:31 in __getitem__ (attempt-1.node-3.log, line ")
    assert found["node"] == "gpu-0421 (node 3)"


def test_the_earliest_of_two_failures_is_the_cause_by_time_not_by_node(tmp_path: Path) -> None:
    def log(name: str, at: str, word: str) -> Path:
        return write(
            tmp_path / name,
            f"""
            2026-11-21 {at},000 - trainer - INFO - loading
            Traceback (most recent call last):
              File "/x/{word}.py", line 1, in load
                go()
            ValueError: {word}
            """,
        )

    later = log("attempt-1.log", "15:40:00", "later")
    earlier = log("attempt-1.node-1.log", "15:39:59", "earlier")
    found = first_cause([later, earlier])
    assert found is not None
    assert found["what"] == "ValueError: earlier"
    assert found["node"] == "node 1"


def test_an_address_in_a_line_becomes_the_name_of_the_node(tmp_path: Path) -> None:
    driver = write(tmp_path / "attempt-1.log", ALONE["an actor of Ray on another node"][0])
    other = write(
        tmp_path / "attempt-1.node-4.log",
        "nemotron: 2026-11-21 15:00:00 node 4 is n17 (10.0.0.7, 127.0.0.1)\n",
    )
    found = first_cause([driver, other])
    assert found is not None
    assert found["node"] == "n17 (node 4)"


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    quiet = write(tmp_path / "attempt-1.log", "loading\nstep 1/2\nstep 2/2\ndone\n")
    assert first_cause([quiet, tmp_path / "no.log"]) is None


def test_logs_and_lines_of_earlier_attempts_do_not_count(tmp_path: Path) -> None:
    old = write(tmp_path / "old.log", "ValueError: of the attempt before\n")
    os.utime(old, (time.time() - 900,) * 2)
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - 600))
    job = write(tmp_path / "job.log", f"{stamp} RuntimeError: of the attempt before\n")
    assert first_cause([old, job], since=time.time() - 60) is None
    assert first_cause([old, job]) is not None


def test_times_without_a_year_order_logs_too(tmp_path: Path) -> None:
    late = write(
        tmp_path / "attempt-1.log", "[E1121 15:40:00.5 x.cpp:1] CUDA error: an illegal memory access\n"
    )
    early = write(tmp_path / "attempt-1.node-1.log", "ERROR 11-21 15:39:00 [a.py:1] CUDA error: misaligned\n")
    found = first_cause([late, early])
    assert found is not None
    assert "misaligned" in str(found["what"])


def test_a_huge_log_is_read_in_bounded_time_and_memory(tmp_path: Path) -> None:
    log = tmp_path / "attempt-1.log"
    filler = (
        b"2026-11-21 15:00:00 INFO sample text of an ordinary line with numbers 1 2 3 4 5 6 7 8 9\n" * 12000
    )
    with log.open("wb") as file:
        file.seek(20 << 30)  # sparse: nothing is written there
        file.write(b"\n")
        for _ in range(60):
            file.write(filler)
        file.write(dedent(ALONE["out of memory on a GPU"][0]).encode())
        file.write(filler[: 90 * 100])
    begun = time.process_time()
    found = first_cause([log])
    assert time.process_time() - begun < 20
    assert found is not None
    assert "CUDA out of memory" in str(found["what"])
    assert "from its end" in str(found["where"])


def test_a_damaged_log_breaks_nothing(tmp_path: Path) -> None:
    log = tmp_path / "attempt-1.log"
    log.write_bytes(
        bytes(range(256)) * 200 + b"\nError\r\x1b[31mTraceback\x00 (most recent\n" + b"x" * 3_000_000
    )
    first_cause([log])
    log.write_bytes(b"")
    assert first_cause([log]) is None
    log.unlink()
    log.mkdir()
    assert first_cause([log]) is None
