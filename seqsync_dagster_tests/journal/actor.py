"""A process of its own that uses a journal on request, to be raced, stopped and killed.

Reads one JSON command per line and answers each with one JSON line. It opens the journal at the
first command, so that processes can be made to create the tables at the same moment.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


class Actor:
    """The test's end of the process."""

    def __init__(self, url: str, sequence: str, sync: str) -> None:
        arguments = [url, sequence, sync]
        self.process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Actor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.process.wait()

    def tell(self, command: str, **arguments: Any) -> None:
        """Send a command without waiting for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """The next answer: a value, or ``{"error": class, "message": text}``."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the actor ended without an answer"
        return json.loads(line)

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command and wait for its answer."""
        self.tell(command, **arguments)
        return self.answer()

    def kill(self) -> None:
        """End the process as the kernel does when memory runs out. Leaves a zombie on purpose."""
        self.process.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """Freeze the process, as a paused machine does."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a frozen process go on."""
        self.process.send_signal(signal.SIGCONT)


def _main(url: str, sequence: str, sync: str) -> None:
    from seqsync_dagster.errors import SeqsyncError
    from seqsync_dagster.journal import Journal, Lease, Scope
    from seqsync_dagster_tests.journal.frames import acknowledged

    def say(answer: Any) -> None:
        print(json.dumps(answer), flush=True)

    journal: Journal | None = None
    lease: Lease | None = None
    say("ready")
    for line in sys.stdin:
        arguments = json.loads(line)
        command = arguments.pop("command")
        try:
            journal = journal or Journal(url)
            if command == "acquire":
                lease = journal.acquire(Scope(sequence, sync), **arguments)
                say(lease.epoch)
                continue
            assert lease is not None
            if command == "begin":
                journal.begin(lease, **arguments)
            elif command == "check":
                lease.check()
            elif command == "record":
                journal.record(lease, arguments["run_id"], acknowledged(arguments["seqs"], arguments["word"]))
            elif command == "record for ever":
                batch = 0
                while True:
                    seqs = range(batch * 50, batch * 50 + 50)
                    journal.record(lease, arguments["run_id"], acknowledged(seqs, f"batch {batch}"))
                    say(batch)
                    batch += 1
            elif command == "close run":
                journal.close_run(lease, **arguments)
            say("done")
        except SeqsyncError as error:
            say({"error": type(error).__name__, "message": str(error)})


if __name__ == "__main__":
    _main(*sys.argv[1:])
