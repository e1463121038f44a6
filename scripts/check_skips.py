#!/usr/bin/env python3
"""Fails when CTest skipped a test that scripts/allowed-skips.txt does not name, or ran none at all.

Usage: check_skips.py JUNIT.xml
"""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

allowed_file = pathlib.Path(__file__).parent / "allowed-skips.txt"
allowed = {line.split("#")[0].strip() for line in allowed_file.read_text().splitlines()} - {""}

cases = list(ElementTree.parse(sys.argv[1]).getroot().iter("testcase"))
skipped = {case.get("name") for case in cases if case.find("skipped") is not None}
unexpected = sorted(skipped - allowed)
for name in unexpected:
    print(f"skipped, and not in {allowed_file.name}: {name}", file=sys.stderr)
if not cases:
    print("no test ran", file=sys.stderr)
sys.exit(1 if unexpected or not cases else 0)
