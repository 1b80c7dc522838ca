"""The jobs: each a task that a worker runs on one block, and a function that runs it over an image."""
