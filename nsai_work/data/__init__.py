"""Training data: containers, row forms, what of a row is trained, mixtures, and reports of what was read.

bytes (``source``) -> rows (``containers``) -> examples (``forms``) -> datums (``rendering``) -> batches by step.
"""
