"""The kernel's half of the dashboard: views of runs, served from their folders to the pages that show them."""
