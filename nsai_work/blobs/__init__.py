"""The blob store: the input files of jobs by the digest of their content, in one place for each database.

``pieces`` cuts and compresses, a place (``folder``, ``url``, ``table``) keeps the pieces, ``shelf`` writes and
reads whole files, and ``cache`` keeps what a worker has read. The rows that say which blobs there are belong to
``nsai_work.store.blobs``.
"""
