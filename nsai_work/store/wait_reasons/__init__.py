"""Why jobs wait: the reasons, computed when jobs are read, and their recording by the maintenance."""
