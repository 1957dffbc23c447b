"""The shared fixtures do what the other tests rely on."""

import random
import socket

import mlx.core as mx
import pytest

drawn = []


@pytest.mark.parametrize("turn", [0, 1])
def test_every_test_starts_from_the_same_random_state(turn):
    drawn.append((random.random(), mx.random.uniform().item()))
    assert drawn[0] == drawn[-1]


def test_connection_to_another_machine_is_refused():
    with socket.socket() as client, pytest.raises(AssertionError, match="connect to"):
        client.connect(("192.0.2.1", 80))


def test_connection_to_this_machine_is_allowed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
