"""The reasons why jobs wait, computed when jobs are read, and their recording by the maintenance."""
