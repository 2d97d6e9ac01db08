// Classifies a picture: classify MODEL PICTURE
//
//     cc classify.c $(pkg-config --cflags --libs vit) -o classify
#include <vit.h>

#include <stdio.h>
#include <stdlib.h>

// The bytes of a file, which the caller frees; NULL if it cannot be read.
static void *read_file(const char *path, size_t *len) {
    FILE *file = fopen(path, "rb");
    void *bytes = NULL;
    if (file && fseek(file, 0, SEEK_END) == 0) {
        const long end = ftell(file);
        if (end >= 0 && fseek(file, 0, SEEK_SET) == 0 && (bytes = malloc((size_t)end + 1))) {
            *len = fread(bytes, 1, (size_t)end, file);
        }
    }
    if (file) fclose(file);
    return bytes;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: classify MODEL PICTURE\n");
        return 2;
    }
    if (vit_abi_version() != VIT_ABI_VERSION) {
        fprintf(stderr, "the library is of another version than the header\n");
        return 1;
    }
    size_t len = 0;
    void *picture = read_file(argv[2], &len);
    if (!picture) {
        perror(argv[2]);
        return 1;
    }

    vit_error error = {0};
    vit_info info;
    vit_plan plan;
    vit_model *model = NULL;
    float *pixels = NULL, *logits = NULL;
    void *arena = NULL;
    if (vit_model_open(argv[1], NULL, &model, &error) || vit_model_info(model, &info, &error) ||
        vit_model_plan(model, "logits", 1, 0, &plan, &error)) {
        goto end;
    }
    const size_t pixels_len = info.channels * info.height * info.width;
    pixels = malloc(pixels_len * sizeof *pixels);
    logits = malloc(plan.output_len * sizeof *logits);
    // C11 wants a size that is a multiple of the alignment; an arena always is one.
    arena = aligned_alloc(VIT_ALIGN, plan.arena_bytes);
    if (!pixels || !logits || !arena) {
        fprintf(stderr, "out of memory\n");
        error.status = VIT_MEMORY;
        goto end;
    }
    if (vit_model_preprocess(model, picture, len, pixels, pixels_len, &error) ||
        vit_model_forward(model, &plan, pixels, pixels_len, arena, plan.arena_bytes, logits, plan.output_len, &error)) {
        goto end;
    }

    size_t best = 0;
    for (size_t class = 1; class < info.classes; class++) {
        if (logits[class] > logits[best]) best = class;
    }
    const char *label = vit_model_label(model, best);
    printf("%s: class %zu, %s, logit %.6f\n", argv[2], best, label ? label : "without a name", logits[best]);

end:
    if (error.status) fprintf(stderr, "%s\n", error.message);
    free(arena);
    free(logits);
    free(pixels);
    free(picture);
    vit_model_close(model);
    return error.status ? 1 : 0;
}
