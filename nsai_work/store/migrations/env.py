"""Alembic's environment. ``nsai_work.store.engine.migrate`` passes the connection, already in a transaction."""

from alembic import context

from nsai_work.store.engine.migrate import VERSION_TABLE
from nsai_work.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
