"""A local Ray is this machine's alone."""

import ipaddress
import os

import psutil
import pytest
import ray

from benchmarks.heads import children

pytestmark = pytest.mark.slow


def test_a_local_ray_listens_on_loopback_alone(ray_up):
    ray.get(ray.remote(lambda: None).remote())  # a worker is up, too
    places = set()
    for process in [psutil.Process(), *children(os.getpid(), "")]:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                places.add(ipaddress.ip_address(connection.laddr.ip))
    assert places
    assert all((getattr(ip, "ipv4_mapped", None) or ip).is_loopback for ip in places), places
