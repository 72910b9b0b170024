"""Sites and the ledger of tool runs.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from tasks.core.db.grants import grant_app

revision = "0001"
down_revision = None

# One statement each. Kept as SQL: a revision must not change when a model does.
STATEMENTS = (
    """
    CREATE TABLE site (
        id integer GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_site PRIMARY KEY,
        name text NOT NULL CONSTRAINT uq_site_name UNIQUE,
        description text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE tool_run_event (
        seq bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_tool_run_event PRIMARY KEY,
        id uuid NOT NULL CONSTRAINT uq_tool_run_event_id UNIQUE,
        tool_run_id uuid NOT NULL,
        site text NOT NULL,
        kind text NOT NULL CONSTRAINT ck_tool_run_event_kind
            CHECK (kind IN ('queued', 'refused', 'started', 'finished', 'unknown')),
        at timestamptz NOT NULL,
        tool text NOT NULL,
        service text NOT NULL,
        safety text NOT NULL,
        target text NOT NULL DEFAULT '',
        allowed_by text,
        request_id text,
        flow_run_id uuid,
        task_run_id uuid,
        who text,
        attempt integer NOT NULL DEFAULT 1,
        duration_s double precision,
        outcome text CONSTRAINT ck_tool_run_event_outcome
            CHECK (outcome IN ('completed', 'failed', 'refused', 'timed_out', 'cancelled')),
        error_class text,
        error_message text,
        result jsonb CONSTRAINT ck_tool_run_event_result_size CHECK (octet_length(result::text) <= 98304),
        params jsonb CONSTRAINT ck_tool_run_event_params_size CHECK (octet_length(params::text) <= 98304),
        trace_id text,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        rank smallint NOT NULL GENERATED ALWAYS AS (
            CASE kind WHEN 'queued' THEN 0 WHEN 'started' THEN 1 WHEN 'unknown' THEN 2 ELSE 3 END
        ) STORED,
        CONSTRAINT ck_tool_run_event_outcome_kind CHECK ((outcome IS NOT NULL) = (kind IN ('refused', 'finished')))
    )
    """,
    "COMMENT ON COLUMN tool_run_event.rank IS 'Order of the events of one attempt; clocks and replays do not keep it.'",
    "CREATE INDEX ix_tool_run_event_run ON tool_run_event (tool_run_id, attempt DESC, rank DESC, at DESC, seq DESC)",
    "CREATE INDEX ix_tool_run_event_at ON tool_run_event (at DESC)",
    "CREATE INDEX ix_tool_run_event_site_seq ON tool_run_event (site, seq)",
    "CREATE INDEX ix_tool_run_event_request_id ON tool_run_event (request_id) WHERE request_id IS NOT NULL",
    "CREATE INDEX ix_tool_run_event_flow_run_id ON tool_run_event (flow_run_id) WHERE flow_run_id IS NOT NULL",
    "CREATE INDEX ix_tool_run_event_started ON tool_run_event (at) WHERE kind = 'started'",
    """
    CREATE TABLE tool_run_counter (
        site text NOT NULL,
        tool text NOT NULL,
        outcome text NOT NULL,
        hour timestamptz NOT NULL,
        count bigint NOT NULL,
        duration_sum_s double precision NOT NULL,
        CONSTRAINT pk_tool_run_counter PRIMARY KEY (site, tool, outcome, hour)
    )
    """,
    "CREATE INDEX ix_tool_run_counter_hour ON tool_run_counter (hour)",
    """
    CREATE TABLE tool_run_seal (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_tool_run_seal PRIMARY KEY,
        site text NOT NULL,
        from_seq bigint NOT NULL,
        to_seq bigint NOT NULL,
        events integer NOT NULL CONSTRAINT ck_tool_run_seal_events CHECK (events > 0),
        previous_hash text NOT NULL,
        hash text NOT NULL,
        sealed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT ck_tool_run_seal_range CHECK (from_seq <= to_seq),
        CONSTRAINT uq_tool_run_seal_site_from_seq UNIQUE (site, from_seq),
        CONSTRAINT uq_tool_run_seal_site_previous_hash UNIQUE (site, previous_hash)
    )
    """,
    # The latest event of each run. `NOT EXISTS` rather than DISTINCT ON: "the newest 50" then reads 50 runs, not all.
    """
    CREATE VIEW tool_run AS
    SELECT e.tool_run_id AS id, e.site, e.tool, e.service, e.safety, e.target,
        coalesce(e.outcome, CASE e.kind WHEN 'started' THEN 'running' ELSE e.kind END) AS state,
        e.outcome, e.attempt, e.duration_s, e.error_class, e.error_message, e.result,
        coalesce(e.params, (
            SELECT p.params FROM tool_run_event p WHERE p.tool_run_id = e.tool_run_id AND p.params IS NOT NULL
            ORDER BY p.seq DESC LIMIT 1)) AS params,
        coalesce(e.allowed_by, (
            SELECT p.allowed_by FROM tool_run_event p WHERE p.tool_run_id = e.tool_run_id AND p.allowed_by IS NOT NULL
            ORDER BY p.seq DESC LIMIT 1)) AS allowed_by,
        e.request_id, e.flow_run_id, e.task_run_id, e.who, e.trace_id,
        (SELECT min(at) FROM tool_run_event WHERE tool_run_id = e.tool_run_id AND kind = 'queued') AS queued_at,
        (SELECT min(at) FROM tool_run_event WHERE tool_run_id = e.tool_run_id AND kind = 'started') AS started_at,
        CASE WHEN e.outcome IS NOT NULL THEN e.at END AS finished_at,
        e.at AS updated_at
    FROM tool_run_event e
    WHERE NOT EXISTS (
        SELECT FROM tool_run_event later
        WHERE later.tool_run_id = e.tool_run_id
            AND (later.attempt, later.rank, later.at, later.seq) > (e.attempt, e.rank, e.at, e.seq))
    """,
    # --- insert-only, for the owner as well ---
    """
    CREATE FUNCTION ledger_is_insert_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the ledger is insert-only: % on % is refused', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege';
    END $$
    """,
    *(
        f"""
        CREATE TRIGGER {table}_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_insert_only()
        """
        for table in ("tool_run_event", "tool_run_seal")
    ),
    # --- the sealer must know that no event with a smaller seq is still to be committed ---
    # Writers hold this lock shared from before they draw a seq until they commit; the sealer takes it alone, briefly.
    """
    CREATE FUNCTION tool_run_event_in_flight() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(1397311308);
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER tool_run_event_in_flight BEFORE INSERT ON tool_run_event
    FOR EACH STATEMENT EXECUTE FUNCTION tool_run_event_in_flight()
    """,
)

# Runs as its owner: the role `app` counts by inserting events, and cannot change a counter otherwise.
COUNT = """
    CREATE FUNCTION tool_run_event_count() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    BEGIN
        INSERT INTO tool_run_counter AS c (site, tool, outcome, hour, count, duration_sum_s)
        VALUES (NEW.site, NEW.tool, coalesce(NEW.outcome, NEW.kind), date_trunc('hour', NEW.at, 'UTC'),
            1, coalesce(NEW.duration_s, 0))
        ON CONFLICT (site, tool, outcome, hour) DO UPDATE
            SET count = c.count + 1, duration_sum_s = c.duration_sum_s + excluded.duration_sum_s;
        RETURN NULL;
    END $$
"""
COUNTED = """
    CREATE TRIGGER tool_run_event_count AFTER INSERT ON tool_run_event
    FOR EACH ROW WHEN (NEW.kind IN ('refused', 'finished', 'unknown')) EXECUTE FUNCTION tool_run_event_count()
"""


def upgrade() -> None:
    """Make the tables, and let the role `app` add to them."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.execute(text(statement))
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    connection.execute(text(COUNT.format(schema=schema)))
    connection.execute(text(COUNTED))
    grant_app(
        connection,
        {
            "site": "SELECT, INSERT, UPDATE",
            "tool_run_event": "SELECT, INSERT",
            "tool_run": "SELECT",
            "tool_run_counter": "SELECT",
            "tool_run_seal": "SELECT, INSERT",
            "signalbox_revision": "SELECT",
        },
    )
