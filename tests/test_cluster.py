"""A local Ray is this machine's alone."""

import ipaddress
import os
import socket

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


def test_a_local_ray_asks_no_other_rays_dashboard(ray_up):
    """Ray names 127.0.0.1:8265 where it has no dashboard itself; another Ray may listen there."""
    from ray.dashboard.utils import ray_address_to_api_server_url

    url = ray_address_to_api_server_url(ray.get_runtime_context().gcs_address)
    host, _, port = url.removeprefix("http://").partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
