#!/usr/bin/env python3
"""Fails when a folder of src/ includes what it must not know. The table is the rule; see CONTRIBUTING.md."""
import pathlib
import re
import sys

# Folder -> our folders that it may include, and libraries that it must not.
FOLDERS = {
    "common": ({"common"}, r"grpc|google/protobuf|shardd/v1|boost/(asio|beast)"),
    "events": ({"common", "events"}, r"grpc|boost/|\.grpc\.pb\.h"),
    "gateway": ({"common", "gateway"}, r"grpc|google/protobuf|shardd/v1"),
    "rescale": ({"common", "rescale"}, r"grpc|google/protobuf|shardd/v1|boost/"),
    "simulator": ({"common", "simulator"}, r"grpc|google/protobuf|shardd/v1"),
    "server": ({"common", "events", "gateway", "rescale", "server", "simulator"}, r"boost/beast/websocket"),
}
# Folder -> who alone may include it, beyond the folder itself.
ONLY_FROM = {"simulator": "server/main.cc"}
# Heavy or replaceable libraries that stand behind one file each.
ONE_PLACE = {r"simdjson\.h": {"gateway", "events/snapshot_types.cc", "rescale/event_key.cc"}, r"spdlog/": {"common/log.cc"}, r"CLI/": {"server/config.cc", "simulator/main.cc"}}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)
root = pathlib.Path(__file__).parent.parent / "src"
problems = []
for path in sorted(root.rglob("*")):
    if path.suffix not in {".h", ".cc"}:
        continue
    name = path.relative_to(root).as_posix()
    folder = name.split("/")[0]
    allowed, banned = FOLDERS[folder]
    for include in INCLUDE.findall(path.read_text()):
        target = include.split("/")[0]
        if target in FOLDERS and "/" in include:
            if target not in allowed:
                problems.append(f"src/{name}: {folder} must not know {target} ({include})")
            if target in ONLY_FROM and folder != target and name != ONLY_FROM[target]:
                problems.append(f"src/{name}: only src/{ONLY_FROM[target]} may include {include}")
        elif re.match(banned, include):
            problems.append(f"src/{name}: {folder} must not include {include}")
        for library, places in ONE_PLACE.items():
            if re.match(library, include) and name not in places and folder not in places:
                problems.append(f"src/{name}: {include} belongs into {', '.join(sorted(places))}")
print("\n".join(problems) or "layers: every include goes the right way", file=sys.stderr if problems else sys.stdout)
sys.exit(1 if problems else 0)
