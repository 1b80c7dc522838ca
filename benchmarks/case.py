"""Calls a function and prints what it returns as JSON: python -m benchmarks.case MODULE:FUNCTION JSON"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import traceback


def main(name: str, arguments: str) -> int:
    """The result, or the reason why there is none, is the last line of standard output."""
    module, function = name.split(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no result
            result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().splitlines() or [""]
        print(json.dumps({"error": f"{type(error).__name__}: {said[-1]}"[:300]}))
        return 1
    print(json.dumps({"result": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
