"""Engines place supervisors on nodes; a registry of strings names them."""
