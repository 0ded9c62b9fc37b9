"""Renderers draw snapshots of a run; each is fed and never asks."""
