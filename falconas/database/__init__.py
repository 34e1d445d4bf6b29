"""PostgreSQL: sessions, nodes, the embedded server."""
