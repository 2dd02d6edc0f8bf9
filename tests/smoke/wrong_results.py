"""`benchmarks.workflows`, or with WRONG=raw_app raw Celery's tasks, with results that are wrong by one."""

from __future__ import annotations

import os
from pathlib import Path

import benchmarks

_path = Path(benchmarks.__path__[0]) / f"{os.environ['WRONG']}.py"
_source = _path.read_text(encoding="utf-8")
for _right in ("return value", "return total + value", "return sum(values)"):
    _source = _source.replace(_right, f"return 1 + {_right.removeprefix('return ')}")
exec(compile(_source, str(_path), "exec"))
