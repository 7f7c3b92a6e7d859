"""The clients: one implementation on coroutines, used blocking or awaited."""
