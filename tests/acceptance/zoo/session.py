"""Scripts that leave something in the session, or take the transaction."""

import time

from _zoo.trace import leave

from falconas import Context, script


def set_memory(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET work_mem = '77MB'")
    return "done"


def set_search_path(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET search_path = pg_catalog")
    return "done"


def set_time_zone(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET TIME ZONE 'Asia/Kathmandu'")
    return "done"


def set_statement_timeout(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET statement_timeout = '1ms'")
    return "done"


def set_read_only(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET default_transaction_read_only = on")
    return "done"


def set_isolation(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET default_transaction_isolation = 'serializable'")
    return "done"


def set_tenant(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SELECT set_config('my.tenant', 'of another request', false)")
    return "done"


def set_role(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET ROLE pg_monitor")
    return "done"


def set_authorization(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET SESSION AUTHORIZATION zoo_visitor")
    return "done"


def advisory_lock(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SELECT pg_advisory_lock(7)")
    return "done"


def temporary_table(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("CREATE TEMP TABLE traces (item text)")  # hides the true one
    return "done"


def listen(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("LISTEN zoo")
    return "done"


def hold_cursor(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("DECLARE held CURSOR WITH HOLD FOR SELECT 1")
    return "done"


def sequence_value(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("CREATE TEMP SEQUENCE numbers")
    ctx.db.execute("SELECT nextval('numbers')")
    return "done"


def sql_prepare(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("PREPARE trap AS SELECT 'of another request'")
    return "done"


def discard_all(ctx: Context) -> str:
    """Take psycopg's prepared statements away; not possible in a transaction."""
    leave(ctx)
    ctx.db.execute("DISCARD ALL")
    return "done"


def deallocate_all(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("DEALLOCATE ALL")
    return "done"


def begin_typed(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("BEGIN")
    return "done"


@script(access="read", snapshot=False)
def begin_in_a_read(ctx: Context) -> str:
    ctx.db.execute("BEGIN")
    return "done"


@script(access="read", snapshot=False)
def transaction_left_open(ctx: Context) -> str:
    ctx.db.execute("SELECT 1; BEGIN; SELECT 2")
    return "done"


def commit_then_fail(ctx: Context) -> None:
    leave(ctx)
    ctx.db.execute("COMMIT")
    raise ValueError("after the commit")


def commit_hidden(ctx: Context) -> str:
    """Commit and begin again, so that the state is as before."""
    leave(ctx)
    ctx.db.execute("DO $$ BEGIN END $$; COMMIT AND CHAIN")
    return "done"


def error_swallowed(ctx: Context) -> str:
    leave(ctx)
    try:
        ctx.db.execute("SELECT 1 / 0")
    except Exception:
        pass
    return "done"


def close_connection(ctx: Context) -> str:
    leave(ctx)
    ctx.db._lease.session._connection.close()
    return "done"


def close_by_name(ctx: Context) -> str:
    leave(ctx)
    ctx.db.close()
    return "done"


def terminate_backend(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    return "done"


def idle_in_transaction(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
    time.sleep(0.2)
    ctx.db.execute("SELECT 1")
    return "done"


def too_long_in_transaction(ctx: Context) -> str:
    leave(ctx)
    ctx.db.execute("SET LOCAL transaction_timeout = '50ms'")
    time.sleep(0.2)
    ctx.db.execute("SELECT 1")
    return "done"
