"""The questions of docs/performance.md; see ../bench_speed.py."""
