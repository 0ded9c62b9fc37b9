"""One process that runs a launch on many nodes: to the kernel it looks like a supervisor, to the nodes like their kernel."""
