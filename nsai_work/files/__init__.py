"""Files and folders outside the store: the home folder, paths that users give, input files, key files."""
