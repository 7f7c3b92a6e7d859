"""Transitions of a job's status: finish, requeue, cancel, retry, and what they mean for dependent jobs."""
