"""Instances on many machines through Ray (optional extra ``pwl-verifier[cluster]``).

The journal stays with the driver, which alone decides what is run: Ray's own retries are off, and an instance
whose worker or node dies comes back to the driver, to be run again. Files travel with the task, so that machines
need no common file system, only this package.
"""

from __future__ import annotations

import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from verifier.errors import InputError
from verifier.vnncomp.category import Category, Instance, network_files, resolve
from verifier.vnncomp.journal import Record
from verifier.vnncomp.runner import Executor, Settings, WorkerLostError, run_process


def _run_files(category: str, instance: Instance, files: dict[str, bytes], settings: Settings) -> tuple[Record, str]:
    """On a worker: write the instance's files, run it, and say where it ran."""
    import ray

    with tempfile.TemporaryDirectory(prefix="verifier-cluster-") as place:
        for name, data in files.items():
            file = Path(place, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        record = run_process(category, Path(place), instance, settings)
    return record, f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:8]}"


class RayExecutor(Executor):
    """Instances as tasks on a Ray cluster, each with as many CPUs as it has threads.

    Args:
        address: of the cluster; "auto" for the one of this machine, None to start one here.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, category: Category, settings: Settings, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("--cluster needs Ray", fix="pip install 'pwl-verifier[cluster]'") from None
        self.ray: Any = ray
        self.category, self.settings = category, settings
        self._own = not ray.is_initialized()
        if self._own:
            _reach(address)
            try:
                ray.init(address=address, log_to_driver=False, include_dashboard=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise InputError(f"no Ray cluster at {address!r}: {error}") from None
        self._task: Any = ray.remote(num_cpus=settings.threads, max_retries=0)(_run_files)
        self._running: dict[Any, Instance] = {}

    @property
    def slots(self) -> int:
        """Instances that the cluster, as it is now, can run at once."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 0)) // self.settings.threads)

    @property
    def free(self) -> int:
        return self.slots - len(self._running)

    def submit(self, instance: Instance) -> None:
        files = {}
        for name in (*network_files(instance.onnx), instance.vnnlib):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise InputError(f"{name} is outside the category's folder", place=str(self.category.folder))
            path = resolve(self.category.folder / name)
            files[name + ".gz" if path.name.endswith(".gz") and not name.endswith(".gz") else name] = path.read_bytes()
        task = self._task.remote(self.category.name, instance, files, self.settings)
        self._running[task] = instance

    def wait(self) -> list[tuple[Instance, Record | WorkerLostError]]:
        if not self._running:
            return []
        done, _ = self.ray.wait(list(self._running), num_returns=1, timeout=1.0)
        ended: list[tuple[Instance, Record | WorkerLostError]] = []
        for task in done:
            instance = self._running.pop(task)
            try:
                record, worker = self.ray.get(task)
                ended.append((instance, replace(record, worker=worker)))
            except self.ray.exceptions.RayTaskError as error:
                reason = f"the task failed: {error.cause or error}"
                ended.append((instance, Record(number=instance.number, result="error", seconds=0.0, reason=reason)))
            except self.ray.exceptions.RayError as error:
                ended.append((instance, WorkerLostError(f"{type(error).__name__}: {str(error).splitlines()[0]}")))
        return ended

    def close(self) -> None:
        for task in self._running:
            self.ray.cancel(task, force=True)
        self._running.clear()
        if self._own:
            self.ray.shutdown()


def _reach(address: str | None) -> None:
    """Fail at once, with the address, where Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise InputError(f"no Ray cluster at {address}: {error}", fix="start one: ray start --head") from None
