"""Clients: one core, a shell for threads and one for asyncio."""
