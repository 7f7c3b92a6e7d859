"""The rows of blobs: which there are, which jobs name them, and their pieces where the database keeps them."""
