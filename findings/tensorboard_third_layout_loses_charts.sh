#!/usr/bin/env bash
# tensorboard 2.21.0, Custom Scalars: the layouts of all runs are merged into one page. Expected: a category that several
# runs have shows the charts of all of them. Seen: so it is where the run that comes first has the category; where it
# has not, the charts of the second run that has it are lost, without a word. The same three runs by other names:
#   the run without it last: ['one', 'two']   the run without it first: ['one']
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder" && "$folder/bin/pip" install --quiet tensorboard==2.21.0 numpy==2.4.6 "setuptools<81"
"$folder/bin/python" - "$folder" <<'PYTHON'
import json, sys, time, urllib.request
from pathlib import Path
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.custom_scalar import layout_pb2 as pb, metadata
from tensorboard.program import TensorBoard
from tensorboard.summary.writer.event_file_writer import EventFileWriter

def charts_of_shared(runs):
    """`runs`: name -> (category, chart). The charts that the page has under the category `shared`."""
    folder = Path(sys.argv[1], "-".join(runs))
    for run, (category, chart) in runs.items():
        lines = pb.MultilineChartContent(tag=[chart])
        categories = [pb.Category(title=category, chart=[pb.Chart(title=chart, multiline=lines)])]
        layout = TensorProto(dtype="DT_STRING", string_val=[pb.Layout(category=categories).SerializeToString()])
        value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=metadata.create_summary_metadata(), tensor=layout)
        writer = EventFileWriter(str(folder / run))
        writer.add_event(Event(wall_time=time.time(), step=0, summary=Summary(value=[value])))
        writer.close()
    server = TensorBoard()
    server.configure(logdir=str(folder), port=0, load_fast="false")
    address = server.launch() + "data/plugin/custom_scalars/layout"
    for _ in range(100):
        page = json.load(urllib.request.urlopen(address))
        if len(page.get("category", [])) == 2:
            break
        time.sleep(0.2)
    time.sleep(2)
    page = json.load(urllib.request.urlopen(address))
    return [chart["title"] for category in page["category"] if category["title"] == "shared" for chart in category["chart"]]

last = charts_of_shared({"b": ("shared", "one"), "c": ("shared", "two"), "d": ("own", "three")})
first = charts_of_shared({"a": ("own", "three"), "b": ("shared", "one"), "c": ("shared", "two")})
print("the run without it last:", last, "  the run without it first:", first)
assert (last, first) == (["one", "two"], ["one"])
PYTHON
