"""Runs a module with another build of the native code: `python scripts/with_native.py LIBRARY MODULE ARGS...`

`make sanitize` uses it to run the tests on a build with AddressSanitizer and UBSan beside the ordinary one.
"""

import importlib.util
import runpy
import sys

import farthing

library, module, *arguments = sys.argv[1:]
spec = importlib.util.spec_from_file_location("farthing._native", library)
if spec is None or spec.loader is None:
    sys.exit(f"{library} is not an extension module")
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
sys.modules["farthing._native"] = farthing._native = native  # type: ignore[attr-defined]
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
