// Counts what is allocated after a model was opened with one thread: nothing. allocations MODEL
//
// The linker puts the functions below in place of the C library's: --wrap=malloc, calloc, realloc, posix_memalign.
#include <vit.h>

#include <stdio.h>
#include <stdlib.h>

static size_t allocations;

void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_realloc(void *, size_t);
int __real_posix_memalign(void **, size_t, size_t);

void *__wrap_malloc(size_t bytes) { return allocations++, __real_malloc(bytes); }
void *__wrap_calloc(size_t count, size_t bytes) { return allocations++, __real_calloc(count, bytes); }
void *__wrap_realloc(void *old, size_t bytes) { return allocations++, __real_realloc(old, bytes); }
int __wrap_posix_memalign(void **to, size_t alignment, size_t bytes) {
    return allocations++, __real_posix_memalign(to, alignment, bytes);
}

static _Alignas(VIT_ALIGN) unsigned char arena[1 << 20];

int main(int argc, char **argv) {
    vit_error error;
    vit_model *model;
    vit_plan plan;
    vit_info info;
    const vit_options options = {.threads = 1};
    static float pixels[28 * 28], output[64];
    if (argc != 2 || vit_model_open(argv[1], &options, &model, &error)) return 2;
    const size_t opening = allocations;
    const char *outputs[] = {"logits", "embedding"};
    for (int i = 0; i < 2; i++) {
        if (vit_model_info(model, &info, &error) || vit_model_plan(model, outputs[i], 1, 0, &plan, &error) ||
            vit_model_forward(model, &plan, pixels, 28 * 28, arena, sizeof arena, output, plan.output_len, &error)) {
            fprintf(stderr, "%s\n", error.message);
            return 2;
        }
    }
    // Errors do not allocate either.
    if (vit_model_plan(model, "nothing", 1, 0, &plan, &error) != VIT_ARGUMENT) return 2;
    const size_t later = allocations - opening;
    vit_model_close(model);
    printf("%zu allocations while the model was opened, %zu after\n", opening, later);
    return opening == 0 || later != 0;
}
