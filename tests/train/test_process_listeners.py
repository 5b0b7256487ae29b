"""Where the processes of a run on one machine listen: on its loopback device, where no other machine reaches them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import psutil
from disturbed_runs import campaign_site, everybody


def listening(pid: int) -> list[str]:
    """Addresses at which the sockets of a process listen."""
    connections = psutil.Process(pid).net_connections(kind="tcp")
    return [connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN]


def test_a_run_of_two_ranks_listens_on_the_loopback_device_only(tmp_path: Path) -> None:
    site = campaign_site(tmp_path)
    site.config["run"]["stop_at_step"] = 200
    with site.train() as command:
        command.wait_until(lambda: site.last_step() >= 2)
        addresses = [address for pid in everybody(command) for address in listening(pid)]
    assert len(addresses) >= 2  # the store of rank 0, and gloo on each rank
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses), addresses


def test_a_run_of_one_rank_needs_no_port(tmp_path: Path) -> None:
    site = campaign_site(tmp_path)
    site.config["parallel"] = {}
    site.config["run"]["stop_at_step"] = 200
    with site.train() as command:
        command.wait_until(lambda: site.last_step() >= 2)
        addresses = [address for pid in everybody(command) for address in listening(pid)]
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses), addresses
