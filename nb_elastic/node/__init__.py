"""The node program: runs one node's share of a run that a driver elsewhere leads."""
