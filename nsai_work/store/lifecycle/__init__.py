"""Status transitions of jobs: finish, requeue, cancel, retry, and their effect on dependent jobs."""
