"""The number of connections, found on imagined networks: a function from the number to bytes a second."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nbloader._hub.connections import MOST_CONNECTIONS, Connections

MB = 1e6


def download(network: Callable[[int], float], seconds: float, first: int = 1) -> Connections:
    """Receive bytes twenty times a second."""
    connections = Connections(first)
    for tick in range(round(seconds * 20)):
        connections.received(tick / 20, round(network(connections.allowed) / 20))
    return connections


def test_a_network_that_gives_each_connection_its_share_gets_as_many_as_there_may_be() -> None:
    assert download(lambda count: count * 40 * MB, 30).allowed == MOST_CONNECTIONS


@pytest.mark.parametrize("seconds", [6, 9, 60])
def test_a_link_that_one_connection_fills_keeps_few(seconds: float) -> None:
    assert download(lambda count: 50 * MB, seconds).allowed <= 2


def test_a_link_that_four_connections_fill_keeps_about_four() -> None:
    assert download(lambda count: min(count * 40, 160) * MB, 9).allowed in (4, 8)


def test_a_link_that_gets_wider_is_used() -> None:
    connections = Connections(1)
    for tick in range(20 * 60):
        limit = 50 if tick < 200 else 500
        connections.received(tick / 20, round(min(connections.allowed * 40, limit) * MB / 20))
    assert connections.allowed >= 8


def test_a_server_that_wants_fewer_gets_fewer_for_good() -> None:
    connections = Connections(8)
    connections.refused()
    assert connections.allowed == 4
    for tick in range(20 * 60):
        connections.received(tick / 20, round(connections.allowed * 40 * MB / 20))
    assert connections.allowed == 4
    for _ in range(5):
        connections.refused()
    assert connections.allowed == 1
