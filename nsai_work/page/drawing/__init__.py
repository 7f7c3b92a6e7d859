"""Geometry of the page's drawings: axes, loss curves, time lines. Does no I/O; templates turn it into SVG."""
