"""Deletes the run folder of the running run, and fails: what it tells of that has no place to go to."""

import os
import shutil


def main():
    shutil.rmtree(os.environ["NB_ELASTIC_RUN_DIR"])
    raise ValueError("no batch")
