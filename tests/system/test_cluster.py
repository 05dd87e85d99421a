"""A category on a local Ray cluster of two nodes, one of which is killed in mid-run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from verifier.errors import InputError
from verifier.network.graph import feedforward
from verifier.network.onnx_writer import write_onnx
from verifier.vnncomp.category import read_category
from verifier.vnncomp.journal import Journal
from verifier.vnncomp.runner import InstanceFinished, InstanceLost, InstanceStarted, Settings, run_category

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'pwl-verifier[cluster]'")

PROPERTY = """(declare-const X_0 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0)) (assert (<= X_0 1))
(assert (>= Y_0 {limit}))
"""
SLOW = """
import sys, time
if "verifier.vnncomp.run_instance" in sys.orig_argv:
    time.sleep(2)
"""


@pytest.mark.slow
def test_a_killed_node_loses_nothing_and_nothing_runs_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    from verifier.vnncomp.cluster import RayExecutor

    folder = tmp_path / "tiny"
    folder.mkdir()
    write_onnx(feedforward([[[1.0]], [[1.0]]], [[0.0], [0.0]]), folder / "net.onnx")
    expected = {}
    for k in range(8):
        limit = 0.5 if k % 2 else 1.5
        (folder / f"p{k}.vnnlib").write_text(PROPERTY.format(limit=limit))
        expected[k] = "sat" if k % 2 else "unsat"
    (folder / "instances.csv").write_text("\n".join(f"net.onnx,p{k}.vnnlib,60" for k in range(8)) + "\n")

    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

    category = read_category(folder)
    cluster = Cluster()
    killed_during: list[int] = []
    try:
        small = {"object_store_memory": 80 * 2**20}
        cluster.add_node(num_cpus=1, **small)
        victim = cluster.add_node(num_cpus=1, **small)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        executor = RayExecutor(category, Settings(engine="highs"))
        assert executor.slots == 2

        events: list[object] = []
        finished_before: list[int] = []

        def listen(event: object) -> None:
            events.append(event)
            if isinstance(event, InstanceFinished) and event.done == 3 and not killed_during:
                finished_before.extend(e.instance.number for e in events if isinstance(e, InstanceFinished))
                killed_during.append(event.done)
                timer.start()

        timer = threading.Timer(0.7, lambda: cluster.remove_node(victim, allow_graceful=False))
        began = time.monotonic()
        with Journal(tmp_path / "journal.sqlite", category) as journal:
            records = run_category(category, category.instances, journal, executor, listen)
            starts = journal.starts()
        timer.join()
    finally:
        ray.shutdown()
        cluster.shutdown()

    assert killed_during == [3]
    assert time.monotonic() - began < 200
    assert {number: record.result for number, record in records.items()} == expected
    assert all(record.witness == "valid" for record in records.values() if record.result == "sat")
    lost = [event.instance.number for event in events if isinstance(event, InstanceLost)]
    ended = [event.instance.number for event in events if isinstance(event, InstanceFinished)]
    begun = [event.instance.number for event in events if isinstance(event, InstanceStarted)]
    assert sorted(ended) == list(range(8))
    assert sorted(begun) == sorted([*range(8), *lost])
    assert starts == {k: 1 + lost.count(k) for k in range(8)}
    assert not set(lost) & set(finished_before)
    assert len({record.worker for record in records.values()}) == 2
    assert all(record.seconds >= 2 for record in records.values())
    assert 1 <= len(lost) <= 2


def test_a_cluster_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    from verifier.vnncomp.cluster import RayExecutor

    (tmp_path / "instances.csv").write_text("net.onnx,p.vnnlib,60\n")
    with pytest.raises(InputError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        RayExecutor(read_category(tmp_path), Settings(), "127.0.0.1:1")
