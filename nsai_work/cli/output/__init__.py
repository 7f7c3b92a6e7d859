"""The output of commands: data on stdout; views, progress and errors for people."""
