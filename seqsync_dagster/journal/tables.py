"""The journal's tables, and how an older journal becomes a current one.

    journal_schema    the version of these tables
    journal_lease     who may write a sync's state; one row per sync, for ever
    journal_run       runs begun; a closed run leaves its one small row
    journal_send      what an open run sent or is about to send, and how to find it again
    journal_outcome   the destination's word on rows of open runs, until settled
    journal_failure   syncs whose last run failed: since when and why; gone when mended
    journal_rest      syncs that have nothing to do, and until when
    journal_call      API calls of the last 24 hours by connection, where it has a budget
    journal_alert     what each channel was told of that is not over yet
    journal_letter    messages that are not delivered yet
    journal_step      steps under way of sequences that have alerts; one that was killed stays

On PostgreSQL they live in the warehouse's state schema (default ``seqsync``), on SQLite in the
file. Times are seconds since 1970 in UTC by the database's clock: ``to_timestamp(x)`` and
``datetime(x, 'unixepoch')`` show them.

There are no foreign keys on purpose: half a million outcomes would each pay for the check, and
every write already proves in its own transaction that its run is open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

SCHEMA = "seqsync"
"""PostgreSQL schema of the tables unless the journal's URL names another one; translated to none on SQLite."""

SCHEMA_VERSION = 5
"""Version that this code reads and writes. Raise it together with an entry in `MIGRATIONS`."""


def _add_calls(connection: sa.Connection) -> None:
    call.create(connection, checkfirst=True)


def _add_failures(connection: sa.Connection) -> None:
    failure.create(connection, checkfirst=True)


def _add_rests(connection: sa.Connection) -> None:
    rest.create(connection, checkfirst=True)


def _add_alerts(connection: sa.Connection) -> None:
    for table in (alert, letter, step):
        table.create(connection, checkfirst=True)


MIGRATIONS: Mapping[int, Callable[[sa.Connection], None]] = {
    1: _add_calls,
    2: _add_failures,
    3: _add_rests,
    4: _add_alerts,
}
"""From version -> the function that brings tables of that version to the next one.

It runs in the transaction that also writes the new version, and may count on no other process
changing the tables meanwhile.
"""

metadata = sa.MetaData(schema=SCHEMA)

_json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

schema_version = sa.Table(
    "journal_schema",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("applied_at", sa.Double, nullable=False),
    comment="Versions these tables have had; the highest is the current one.",
)

lease = sa.Table(
    "journal_lease",
    metadata,
    sa.Column("sequence", sa.Text, primary_key=True),
    sa.Column("sync", sa.Text, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False, comment="Grows by one at each acquisition."),
    sa.Column("token", sa.Text, comment="Secret of the acquisition; null = nobody holds the lease."),
    sa.Column("holder", sa.Text, comment="For people: which run holds it, or held it last."),
    sa.Column("acquired_at", sa.Double),
    sa.Column("heartbeat_at", sa.Double, comment="Last sign of life."),
    sa.Column("expires_at", sa.Double, comment="From then on anybody may take it over."),
    sa.Column("host", sa.Text, comment="Host name of the holder's process."),
    sa.Column("machine", sa.Text, comment="Kernel boot and pid namespace that `pid` is valid in."),
    sa.Column("pid", sa.BigInteger),
    sa.Column("process_start", sa.BigInteger, comment="Tells a process from a later one with its pid."),
    comment="Who may write a sync's state. Rows stay, so that epochs never repeat.",
)

run = sa.Table(
    "journal_run",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Text, nullable=False),
    sa.Column("sync", sa.Text, nullable=False),
    sa.Column("plan_id", sa.Text, comment="Null until the run has a plan."),
    sa.Column("epoch", sa.BigInteger, nullable=False, comment="Of the lease the run was begun under."),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("closed_at", sa.Double, comment="Null while open: begun, and not settled yet."),
    comment="Runs of syncs.",
)
# Partial: closed runs only ever accumulate, and nobody looks them up by sync.
sa.Index(
    "journal_run_open",
    run.c.sequence,
    run.c.sync,
    sqlite_where=run.c.closed_at.is_(None),
    postgresql_where=run.c.closed_at.is_(None),
)

send = sa.Table(
    "journal_send",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("request", _json, nullable=False, comment="What was asked of the destination."),
    sa.Column("token", _json, nullable=False, comment="How the destination finds it again."),
    sa.Column("finished", sa.Boolean, nullable=False, comment="The destination has had its last word."),
    comment="Sends of open runs.",
)

outcome = sa.Table(
    "journal_outcome",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("dest_id", sa.Text),
    sa.Column("created", sa.Boolean),
    sa.Column("code", sa.Text, comment="Null = acknowledged."),
    sa.Column("message", sa.Text),
    sa.Column("error_class", sa.Text),
    comment="The destination's word on rows of open runs; the last one on each row.",
    # The rows stand in the primary key itself: half the writes, and pages in order of seq.
    sqlite_with_rowid=False,
)

call = sa.Table(
    "journal_call",
    metadata,
    sa.Column("connection", sa.Text, primary_key=True, comment="Name of the connection to a destination."),
    sa.Column("slot", sa.BigInteger, primary_key=True, autoincrement=False, comment="Begin of a quarter of an hour."),
    sa.Column("calls", sa.BigInteger, nullable=False, comment="Made then, less those given back."),
    comment="API calls of connections that have a budget, for a day.",
)

failure = sa.Table(
    "journal_failure",
    metadata,
    sa.Column("sequence", sa.Text, primary_key=True),
    sa.Column("sync", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True, comment="fatal: the run broke off; rejected: too many rows refused."),
    sa.Column("since", sa.Double, nullable=False, comment="First failure without a run in order since."),
    sa.Column("failed_at", sa.Double, nullable=False, comment="Last failure."),
    sa.Column("holder", sa.Text, nullable=False, comment="For people: the run that failed first."),
    sa.Column("reason", sa.Text, nullable=False, comment="Why, in the last failure's own words."),
    sa.Column("refused", sa.BigInteger, nullable=False, comment="Rows refused in the last failure,"),
    sa.Column("judged", sa.BigInteger, nullable=False, comment="of so many that were sent."),
    sa.Column("every", sa.Boolean, nullable=False, comment="Every row that was sent was refused."),
    comment="Syncs that have failed and are not mended.",
)

rest = sa.Table(
    "journal_rest",
    metadata,
    sa.Column("sequence", sa.Text, primary_key=True),
    sa.Column("sync", sa.Text, primary_key=True),
    sa.Column("build", sa.Text, nullable=False, comment="Materialisation of the model that was compared."),
    sa.Column("digest", sa.Text, nullable=False, comment="Of the sequence's YAML, and of where its rows lie."),
    sa.Column("compared_at", sa.Double, nullable=False),
    sa.Column("due_at", sa.Double, comment="When a refused row is tried again; null = none is."),
    sa.Column("arrivals", sa.BigInteger, nullable=False, comment="Destination ids the ledger had received."),
    sa.Column("parents", sa.Text, nullable=False, comment="JSON: the same of each parent."),
    sa.Column("finish_due", sa.Boolean, nullable=False),
    sa.Column("counts", sa.Text, nullable=False, comment="JSON."),
    comment="Syncs that have nothing to do as long as this holds.",
)

alert = sa.Table(
    "journal_alert",
    metadata,
    sa.Column("sequence", sa.Text, primary_key=True),
    sa.Column("sync", sa.Text, primary_key=True, comment="Empty: the sequence as a whole."),
    sa.Column("channel", sa.Text, primary_key=True, comment="Digest of the channel's address."),
    sa.Column("condition", sa.Text, primary_key=True),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("raised_at", sa.Double, comment="When it was told; null: it has begun, and may pass by itself."),
    sa.Column("judged", sa.BigInteger, nullable=False, comment="Rows that were sent when rows were refused."),
    comment="What channels were told of that is not over.",
)

letter = sa.Table(
    "journal_letter",
    metadata,
    sa.Column("letter", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False, comment="Digest of the channel's address."),
    sa.Column("made_at", sa.Double, nullable=False),
    sa.Column("text", sa.Text, nullable=False, comment="JSON."),
    sa.Column("claimed_until", sa.Double, comment="Until then somebody is sending it."),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, comment="Why the last try failed."),
    comment="Messages of alerts that are not delivered yet.",
)

step = sa.Table(
    "journal_step",
    metadata,
    sa.Column("sequence", sa.Text, primary_key=True),
    sa.Column("sync", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, primary_key=True, comment="Dagster's."),
    sa.Column("began_at", sa.Double, nullable=False),
    comment="Steps under way; one that has had no last word was killed.",
)
