"""What a person asks for single rows of a run, checked and written down."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import sqlalchemy as sa

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.site import Work
from seqsync_dagster.errors import Unfulfillable
from seqsync_dagster.ledger import actions
from seqsync_dagster.ledger.fingerprint import Model, canonical, fingerprint, key_text
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.strict import nearest

# A statement takes 65,535 parameters at most on PostgreSQL.
_KEYS_AT_ONCE = 5_000


def check_action_syncs(sequence: SequenceSpec, options: RunOptions) -> None:
    """Raise `Unfulfillable` when an action names a sync that there is not."""
    names = [s.name for s in sequence.syncs]
    for action, asked in (
        (actions.REQUEUE, options.requeue),
        (actions.SKIP_ONCE, options.skip_once),
        (actions.SKIP_ALWAYS, options.skip_always),
    ):
        for name in asked:
            if name not in names:
                raise Unfulfillable(
                    f"{action}: {name!r} is no sync of {sequence.name}.{nearest(name, names)} "
                    f"Syncs: {', '.join(names)}. Nothing was sent."
                )


def record_actions(
    work: Work, connection: sa.Connection, tables: StateTables, model: Model, case_sensitive: bool
) -> None:
    """Append what this run asks for rows of its sync, and commit: a run that is killed now has been asked.

    Raises one `Unfulfillable` that names every key that is not in the model, or stands in two lists.
    """
    sync, asked = work.sync, work.options.actions_on(work.sync.name)
    wanted = {
        action: list(dict.fromkeys(k.strip() if case_sensitive else k.strip().lower() for k in keys))
        for action, keys in asked.items()
    }
    twice = sorted(k for k, n in Counter(k for keys in wanted.values() for k in keys).items() if n > 1)
    if twice:
        raise Unfulfillable(
            f"sync {sync.name}: {', '.join(twice)} in more than one of {', '.join(wanted)}. Say one thing of a row. "
            "Nothing was sent."
        )
    found: dict[str, int] = {}
    key = canonical(key_text([model.text(k) for k in sync.key]), case_sensitive)
    keys = [k for some in wanted.values() for k in some]
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        rows = sa.select(key.label("key"), fingerprint(model, sync)).select_from(model.relation).where(key.in_(some))
        found |= {row[0]: row[1] for row in connection.execute(rows)}
    lacking = {action: [k for k in some if k not in found] for action, some in wanted.items()}
    wrong = [f"{action}: {', '.join(some)}" for action, some in lacking.items() if some]
    if wrong:
        raise Unfulfillable(
            f"sync {sync.name}: the model {sync.source} has no row with the key {'; '.join(wrong)}. Keys are written "
            "as the ledger shows them, the parts of a composite key joined with ':'. Nothing was sent."
        )
    actions.record(
        connection,
        tables,
        work.site.sequence.name,
        sync.name,
        wanted,
        found,
        run_id=work.run_id.rpartition(".")[0],
        asked_by=work.holder,
        now=datetime.now(UTC),
    )
    connection.commit()
    for action, some in wanted.items():
        work.log(f"{sync.name}: {action}: {len(some)} rows, asked for by {work.holder}")
