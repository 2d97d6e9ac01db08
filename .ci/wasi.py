"""Runs a WebAssembly program in wasmtime: python wasi.py PROGRAM.wasm [ARGUMENT...]

It gets the variables VIT_* and PROPTEST_*, and the folder that it is started in.
"""
import os
import re
import sys

import wasmtime

config = wasmtime.Config()
config.wasm_relaxed_simd = True
engine = wasmtime.Engine(config)
wasi = wasmtime.WasiConfig()
wasi.argv = sys.argv[1:]
wasi.env = [(name, value) for name, value in os.environ.items() if re.match("(VIT|PROPTEST)_", name)]
wasi.preopen_dir(os.getcwd(), os.getcwd())
wasi.inherit_stdout()
wasi.inherit_stderr()
store = wasmtime.Store(engine)
store.set_wasi(wasi)
linker = wasmtime.Linker(engine)
linker.define_wasi()
instance = linker.instantiate(store, wasmtime.Module.from_file(engine, sys.argv[1]))
try:
    instance.exports(store)["_start"](store)
except wasmtime.ExitTrap as exit:
    sys.exit(exit.code)
