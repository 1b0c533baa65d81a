"""`python -m seqsync_dagster.emulator --port 0 --store PATH`: its first line of output is its URL."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from seqsync_dagster.emulator.app import DISCONNECT, Emulator
from seqsync_dagster.emulator.store import Store


class _Protocol(H11Protocol):
    """Lets the application cut its connection, which ASGI has no word for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, DISCONNECT: transport.abort}


class _Server(uvicorn.Server):
    """Says where it is once it accepts connections."""

    url = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.url, flush=True)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m seqsync_dagster.emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=8765, help="0 takes any free port")
    parser.add_argument("--store", type=Path, required=True, help="the SQLite file that holds the org")
    parser.add_argument("--client-id", default="demo")
    parser.add_argument("--client-secret", default="demo-secret")
    parser.add_argument("--org-id", help="the organization id of a new store; random without it")
    parser.add_argument("--api-limit", type=int, default=100_000, help="DailyApiRequests")
    parser.add_argument("--production", action="store_true", help="a new store is a production org, not a sandbox")
    args = parser.parse_args()
    try:
        store = Store(args.store, args.org_id, production=args.production)
    except ValueError as error:
        parser.error(str(error))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", args.port))
    except OSError as error:
        parser.error(f"port {args.port}: {error.strerror}")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    emulator = Emulator(store, url, args.client_id, args.client_secret, args.api_limit)
    config = uvicorn.Config(
        emulator, interface="asgi3", proxy_headers=False, http=_Protocol, lifespan="on",
        log_level="warning", access_log=False, timeout_graceful_shutdown=1, timeout_keep_alive=60,
    )  # fmt: skip
    server = _Server(config)
    server.url = url
    # uvicorn raises the signal again once it has shut down; being asked to stop is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
