"""Flows and the command line: what a person or a schedule starts."""

import os

# Prefect's server reports usage to its makers unless told not to; tilekit sends nothing anywhere
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
