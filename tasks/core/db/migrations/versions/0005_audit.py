"""What is sealed and exported may be pruned from the ledger, and nothing else may.

Revision ID: 0005
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from tasks.core.db.grants import APP, grant_app

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    """
    CREATE TABLE tool_run_export (
        seal_id bigint NOT NULL
            CONSTRAINT fk_tool_run_export_seal_id_tool_run_seal REFERENCES tool_run_seal (id),
        host text NOT NULL,
        file text NOT NULL,
        exported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT pk_tool_run_export PRIMARY KEY (seal_id, host)
    )
    """,
    "COMMENT ON TABLE tool_run_export IS 'Which machine holds a file of which sealed batch.'",
    """
    CREATE TABLE tool_run_prune (
        seal_id bigint NOT NULL CONSTRAINT pk_tool_run_prune PRIMARY KEY
            CONSTRAINT fk_tool_run_prune_seal_id_tool_run_seal REFERENCES tool_run_seal (id),
        pruned_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "COMMENT ON TABLE tool_run_prune IS 'Batches whose events are gone; their seals stay.'",
    *(
        f"""
        CREATE TRIGGER {table}_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_insert_only()
        """
        for table in ("tool_run_export", "tool_run_prune")
    ),
    # Events: still never changed, and removed only under a seal that was exported and is noted as pruned, by whomever.
    "DROP TRIGGER tool_run_event_insert_only ON tool_run_event",
    """
    CREATE TRIGGER tool_run_event_insert_only BEFORE UPDATE OR TRUNCATE ON tool_run_event
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_insert_only()
    """,
    """
    CREATE FUNCTION tool_run_event_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        seal tool_run_seal%ROWTYPE;
    BEGIN
        SELECT * INTO seal FROM tool_run_seal s WHERE s.site = OLD.site AND s.from_seq <= OLD.seq
        ORDER BY s.from_seq DESC LIMIT 1;
        IF seal.id IS NULL OR seal.to_seq < OLD.seq
            OR NOT EXISTS (SELECT FROM tool_run_export x WHERE x.seal_id = seal.id)
            OR NOT EXISTS (SELECT FROM tool_run_prune p WHERE p.seal_id = seal.id)
        THEN
            RAISE EXCEPTION 'the ledger keeps what is not sealed, exported and pruned as a batch: % on % is refused',
                TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
        END IF;
        RETURN OLD;
    END $$
    """,
    """
    CREATE TRIGGER tool_run_event_is_kept BEFORE DELETE ON tool_run_event
    FOR EACH ROW EXECUTE FUNCTION tool_run_event_is_kept()
    """,
)

# Runs as its owner: the role `app` cannot delete an event otherwise. Whatever a worker claims, the last week stays.
PRUNE = """
    CREATE FUNCTION prune_tool_run_seal(pruned bigint) RETURNS bigint LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DECLARE
        seal tool_run_seal%ROWTYPE;
        removed bigint;
    BEGIN
        SELECT * INTO seal FROM tool_run_seal WHERE id = pruned;
        IF seal.id IS NULL OR seal.sealed_at > now() - interval '7 days'
            OR NOT EXISTS (SELECT FROM tool_run_export x WHERE x.seal_id = pruned)
            OR EXISTS (
                SELECT FROM tool_run_seal s WHERE s.site = seal.site AND s.from_seq < seal.from_seq
                    AND NOT EXISTS (SELECT FROM tool_run_prune p WHERE p.seal_id = s.id))
        THEN
            RAISE EXCEPTION 'a batch is pruned when it is a week old, exported, and all before it are pruned'
                USING ERRCODE = 'insufficient_privilege';
        END IF;
        INSERT INTO tool_run_prune (seal_id) VALUES (pruned) ON CONFLICT DO NOTHING;
        -- A run is shown whole or not at all: as long as one of its events is in a later batch, the others stay as well.
        DELETE FROM tool_run_event e WHERE e.site = seal.site AND e.seq <= seal.to_seq
            AND NOT EXISTS (SELECT FROM tool_run_event later WHERE later.tool_run_id = e.tool_run_id AND later.seq > seal.to_seq);
        GET DIAGNOSTICS removed = ROW_COUNT;
        RETURN removed;
    END $$
"""


def upgrade() -> None:
    """Note exports and prunings, and give the role `app` the one way to prune."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.execute(text(statement))
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    connection.execute(text(PRUNE.format(schema=schema)))
    connection.execute(text("REVOKE ALL ON FUNCTION prune_tool_run_seal(bigint) FROM PUBLIC"))
    if connection.scalar(text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)"), {"role": APP}):
        connection.execute(text(f"GRANT EXECUTE ON FUNCTION prune_tool_run_seal(bigint) TO {APP}"))
    grant_app(connection, {"tool_run_export": "SELECT, INSERT", "tool_run_prune": "SELECT"})
