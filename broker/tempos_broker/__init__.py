"""The tempos broker: sans-IO core, queues, membership, configuration, asyncio shell, control API."""
