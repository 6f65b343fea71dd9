"""Alembic runs this; the connection comes from `residency.server.database.connect`."""

from __future__ import annotations

from alembic import context

from residency.server.database.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
