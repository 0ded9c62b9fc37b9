"""The supervisor: one process for a run and node, with torch's elastic agent in its main thread."""
