// What a worker does that helps with a model.

/**
 * Makes an instance of the module over the memory of the model's, says that it is ready, and helps with forward passes for
 * as long as the worker lives. `stack` is the end of its stack, `local` where what is local to its thread begins.
 */
export function help({ module, memory, stack, local }, ready) {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  exports.__stack_pointer.value = stack;
  exports.__wasm_init_tls(local);
  ready();
  try {
    exports.vit_help();
  } catch (error) {
    // A trap. The thread of the model would wait for this one for ever.
    exports.vit_lost();
    throw error;
  }
}
