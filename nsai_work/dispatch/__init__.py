"""Dispatch: how a worker learns that there is work. Celery and kombu are known only here.

A message is a wake-up: it names a job and an fence, and any of them may be lost, doubled, late or rubbish without
harm, because the store decides what is run and by whom.
"""
