"""The commands of ``nsai-work``, one module per command or group of commands."""
