"""Reads a file of `vit embed` with pyarrow, and compares it with the same in .npy and .jsonl.

    python check.py x.parquet x.npy x.jsonl
"""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

parquet, npy, jsonl = sys.argv[1:]
table = pq.read_table(parquet)
description = json.loads(table.schema.metadata[b"vit"])
dim = description["dim"]
assert table.schema.field("path").type == pa.string(), table.schema
kind = table.schema.field("embedding").type
assert pa.types.is_fixed_size_list(kind) and kind.list_size == dim and kind.value_type == pa.float32(), kind
assert not table.schema.field("path").nullable and not table.schema.field("embedding").nullable
paths = table["path"].to_pylist()
rows = table["embedding"].combine_chunks().values.to_numpy().reshape(-1, dim)
assert len(paths) == len(rows) > 0

array, beside = np.load(npy), json.load(open(npy + ".json"))
assert array.dtype == np.float32 and np.array_equal(array, rows)
assert beside.pop("paths") == paths and beside.pop("rows") == len(rows) and beside == description

lines = [json.loads(line) for line in open(jsonl, encoding="utf-8")]
assert [line["path"] for line in lines] == paths
assert np.array_equal(np.array([line["embedding"] for line in lines], np.float32), rows)
beside = json.load(open(jsonl + ".json"))
assert beside.pop("rows") == len(rows) and beside == description
print(f"{len(rows)} rows of {dim}: pyarrow {pa.__version__} and NumPy read what vit embed wrote")
