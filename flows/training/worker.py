"""One of several processes of a training on several devices: torchrun -m flows.training.worker CONFIG.toml"""

from __future__ import annotations

import argparse
import sys

from flows.training.run import fit, prepare
from tilekit.errors import InputError, RunError


def main() -> None:
    """Train this process's share; what fails is one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m flows.training.worker", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--init-from")
    arguments = parser.parse_args()
    try:
        fit(prepare(arguments.config, arguments.init_from))
    except (InputError, RunError) as error:
        sys.exit(f"tilekit: {error}")


if __name__ == "__main__":
    main()
