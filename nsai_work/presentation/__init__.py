"""The texts and JSON forms of jobs, events and the queue, as the command line and the page show them."""
