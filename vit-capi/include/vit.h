#ifndef VIT_H
#define VIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Vision Transformers on CPUs: the C interface of vit-engine.
 *
 * Open a model, plan a forward pass, give it memory, run it:
 *
 *     vit_error error;
 *     vit_model *model;
 *     vit_plan plan;
 *     if (vit_model_open("google/vit-base-patch16-224", NULL, &model, &error) ||
 *         vit_model_plan(model, "logits", 1, 0, &plan, &error)) {
 *         fprintf(stderr, "%s\n", error.message);
 *         return 1;
 *     }
 *     void *arena = aligned_alloc(VIT_ALIGN, plan.arena_bytes);
 *     float *logits = malloc(plan.output_len * sizeof(float));
 *     vit_model_forward(model, &plan, pixels, pixels_len, arena, plan.arena_bytes, logits, plan.output_len, &error);
 *
 * Functions return VIT_OK, which is 0, or the kind of error, and then write a message into `error`, which may be NULL.
 * A model does not change, so any number of threads may use one, each with an arena, an output and an error of its own.
 * Nothing is allocated after a model was opened with one thread. Only vit_model_place keeps what it was given.
 *
 * The contract: a pointer is NULL or points to what it is for, in the stated size; what a call writes, nothing else
 * uses meanwhile; a model comes from this library and was not closed. Null and misaligned pointers, wrong lengths and
 * buffers of one call that overlap are errors. Freed memory cannot be recognised.
 *
 * The library for machines without an operating system lacks some functions; define VIT_BARE to hide them.
 */
#ifndef VIT_BARE
#define VIT_STD
#endif

// The version of this interface that the header is for. It changes when a program has to be compiled again.
#define VIT_ABI_VERSION 1

// The alignment in bytes of an arena, of a packed model in memory, and of the storage of vit_model_place.
#define VIT_ALIGN 64

// The bytes of storage that vit_model_place needs.
#define VIT_MODEL_BYTES 512

// A model.
typedef struct vit_model vit_model;

// What a call returns.
typedef int32_t vit_status;

// Why a call failed. The caller owns it.
typedef struct vit_error {
  // The status that the call returned.
  vit_status status;
  // What is wrong, in UTF-8 with a NUL at the end; a longer message is cut off.
  char message[508];
} vit_error;

// What a model is.
typedef struct vit_info {
  // Channels of an image.
  size_t channels;
  // Height of an image in pixels.
  size_t height;
  // Width of an image in pixels.
  size_t width;
  // Height of a patch in pixels.
  size_t patch_height;
  // Width of a patch in pixels.
  size_t patch_width;
  // Tokens: class token, distillation token, registers, patches.
  size_t tokens;
  // Width of a token.
  size_t dim;
  // Transformer layers.
  size_t depth;
  // Attention heads.
  size_t heads;
  // Outputs of the head; 0 without a head.
  size_t classes;
  // Elements of the embedding; 0 if the model has none.
  size_t embedding_len;
  // Bytes of the packed weights.
  size_t weight_bytes;
  // The precision of the weights: "f32", "f16", "bf16", "int8", "int4".
  char precision[16];
  // The instruction-set level that the model runs on, such as "avx2".
  char level[24];
} vit_info;

#if defined(VIT_STD)
// How a model is opened. All zero is a good choice.
typedef struct vit_options {
  // "f32", "f16", "bf16", "int8" or "int4"; NULL for that of a packed file, and f32 for other files.
  const char *precision;
  // An instruction-set level such as "avx2"; NULL for the best of this CPU.
  const char *level;
  // The family of the checkpoint, where its files do not tell; else NULL.
  const char *family;
  // Threads that share a forward pass, with the caller's; 0 for as many as this process may use.
  size_t threads;
  // Read the weights instead of mapping their file. A mapped file must not be shortened while the model is open.
  bool no_mmap;
} vit_options;
#endif

// What a forward pass computes, in which blocks, and the memory that it needs. vit_model_plan fills it.
typedef struct vit_plan {
  // The name of the output.
  char output[32];
  // Images in the batch.
  size_t batch;
  // Images that are computed together.
  size_t images;
  // Tokens in a block.
  size_t rows;
  // The bytes that the arena needs, exactly. It is aligned to VIT_ALIGN.
  size_t arena_bytes;
  // Floats in the output, for the whole batch.
  size_t output_len;
  // Multiply-accumulates of the pass.
  uint64_t macs;
} vit_plan;

// Reads pixels: the rows of pixels from `top` on of one image of the batch, as many as a patch is high, into `strip`,
// [channels, patch_height, width], `strip_len` floats, normalised as the model expects. Returns 0, or another number
// to stop the pass.
typedef int (*vit_read_rows)(void *context, size_t image, size_t top, float *strip, size_t strip_len);

// The call succeeded.
#define VIT_OK 0

// An argument is wrong: a null pointer, a wrong length, an unknown name, a plan of another model.
#define VIT_ARGUMENT 1

// A file is missing or cannot be read.
#define VIT_FILE 2

// The file is no model that is supported, or is damaged.
#define VIT_MODEL 3

// The memory is too small or misaligned, or the system has no more.
#define VIT_MEMORY 4

// The callback that reads pixels failed, or a picture cannot be read.
#define VIT_PIXELS 5

// A bug in the library. The model can no longer be trusted.
#define VIT_BUG 6

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of this interface that the library has. A program compares it with VIT_ABI_VERSION.
uint32_t vit_abi_version(void);

// Makes a model of a packed file in memory (`vit convert` writes one), without allocating: the weights stay where they
// are, on a microcontroller in flash. It runs on the calling thread.
//
// `storage` has VIT_MODEL_BYTES bytes or more and is aligned to VIT_ALIGN, as is `packed`. Both must stay as they are
// while the model is used; it needs no closing. `*model` points into `storage`.
vit_status vit_model_place(void *storage,
                           size_t storage_len,
                           const void *packed,
                           size_t packed_len,
                           const struct vit_model **model,
                           struct vit_error *error);

// Writes what a model is to `info`.
vit_status vit_model_info(const struct vit_model *model,
                          struct vit_info *info,
                          struct vit_error *error);

#if defined(VIT_STD)
// Opens a model: a folder from a model hub, a safetensors file beside its config.json, a packed file, or "org/name" in
// the local cache of the Hugging Face hub. `options` may be NULL. vit_model_close frees it.
vit_status vit_model_open(const char *path,
                          const struct vit_options *options,
                          struct vit_model **model,
                          struct vit_error *error);
#endif

#if defined(VIT_STD)
// Opens a packed file in memory. The bytes are copied, and need no alignment; vit_model_place uses them in place.
// `options` may be NULL. vit_model_close frees the model.
vit_status vit_model_open_bytes(const void *packed,
                                size_t packed_len,
                                const struct vit_options *options,
                                struct vit_model **model,
                                struct vit_error *error);
#endif

#if defined(VIT_STD)
// Frees a model that was opened. NULL, and a model of vit_model_place, are left alone.
void vit_model_close(struct vit_model *model);
#endif

#if defined(VIT_STD)
// The name of a class, in UTF-8; NULL if it has none. It lives as long as the model.
const char *vit_model_label(const struct vit_model *model, size_t index);
#endif

// Plans a forward pass over `batch` images. Nothing is allocated.
//
// `output` is what it computes, per image:
//     "logits"          classes
//     "embedding"       embedding_len: one vector for the image
//     "class"           dim: the class token after the final norm
//     "patches"         patches x dim
//     "registers"       registers x dim
//     "layer:N"         tokens x dim: all tokens after N layers; 0 is the input of the first
//     "layers"          (depth + 1) x tokens x dim
//     "attention:N"     heads x tokens x tokens: the probabilities in layer N, counted from 1
//     "attention"       depth x heads x tokens x tokens
//     "pool-attention"  heads x tokens: those of an attention pool
//
// `budget` is the most bytes that the arena may have, 0 for the fastest blocks. If it is too small, the message states
// the smallest. The results do not depend on it.
vit_status vit_model_plan(const struct vit_model *model,
                          const char *output,
                          size_t batch,
                          size_t budget,
                          struct vit_plan *plan,
                          struct vit_error *error);

// Computes the plan's output for images in memory.
//
// `pixels` holds `pixels_len` floats, [batch, channels, height, width], normalised as the model expects. `arena` has
// the plan's arena_bytes or more and is aligned to VIT_ALIGN; its contents do not matter. `output` has the plan's
// output_len floats. The three must not overlap. After an error `output` may be partly written.
vit_status vit_model_forward(const struct vit_model *model,
                             const struct vit_plan *plan,
                             const float *pixels,
                             size_t pixels_len,
                             void *arena,
                             size_t arena_len,
                             float *output,
                             size_t output_len,
                             struct vit_error *error);

// The same as vit_model_forward, with pixels from a callback, so that a whole image need not be in memory. `read` is
// called with `context` for every row of patches once, image by image, from top to bottom: on one thread at a time, but
// perhaps not the caller's.
vit_status vit_model_forward_rows(const struct vit_model *model,
                                  const struct vit_plan *plan,
                                  vit_read_rows read,
                                  void *context,
                                  void *arena,
                                  size_t arena_len,
                                  float *output,
                                  size_t output_len,
                                  struct vit_error *error);

#if defined(VIT_STD)
// Decodes a picture file in memory (PNG, JPEG, WebP, GIF, BMP, TIFF), and resizes, crops and normalises it as the
// model's files say: what vit_model_forward takes for one image. `pixels` has channels x height x width floats.
vit_status vit_model_preprocess(const struct vit_model *model,
                                const void *file,
                                size_t file_len,
                                float *pixels,
                                size_t pixels_len,
                                struct vit_error *error);
#endif

#if defined(VIT_STD)
// The same for a picture that is decoded already: 8-bit `samples`, [height, width, channels] with the channels of the
// model, which for 3 are red, green, blue.
vit_status vit_model_preprocess_samples(const struct vit_model *model,
                                        const uint8_t *samples,
                                        size_t height,
                                        size_t width,
                                        float *pixels,
                                        size_t pixels_len,
                                        struct vit_error *error);
#endif

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VIT_H */
