"""The database engine: connections, transactions, group commit, bulk writes, notifications, migrations."""
