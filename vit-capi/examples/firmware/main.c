// fashion-vit in int8 on a microcontroller, in C: the model stays in flash, the activations are in a static arena, and
// there is no heap. Prints the class and the bits of the logits. It runs on a host, too, which gives the same bits.
#define VIT_BARE
#include <vit.h>

#include "board.h"

// More bytes let more tokens share each weight that is read, which is faster.
#define ARENA_BYTES 32768

static _Alignas(VIT_ALIGN) unsigned char storage[VIT_MODEL_BYTES];
static _Alignas(VIT_ALIGN) unsigned char arena[ARENA_BYTES];
static vit_error error;

// The packed model, and the normalised pixels of one picture, [1, 28, 28]: data.S includes the files.
extern const unsigned char model_start[], model_end[];
extern const float picture[];

enum { WIDTH = 28, CLASSES = 10 };

// A camera would deliver the rows of one row of patches here, normalised.
static int read_rows(void *context, size_t image, size_t top, float *strip, size_t strip_len) {
    (void)image;
    const float *rows = (const float *)context + top * WIDTH;
    for (size_t i = 0; i < strip_len; i++) strip[i] = rows[i];
    return 0;
}

static int failed(void) {
    print("error: ");
    print(error.message);
    print("\n");
    return 1;
}

int main(void) {
    const vit_model *model;
    vit_plan plan;
    float logits[CLASSES];
    const size_t model_len = (size_t)(model_end - model_start);
    if (vit_model_place(storage, sizeof storage, model_start, model_len, &model, &error) ||
        vit_model_plan(model, "logits", 1, sizeof arena, &plan, &error) ||
        vit_model_forward_rows(model, &plan, read_rows, (void *)picture, arena, sizeof arena, logits, CLASSES, &error)) {
        return failed();
    }

    size_t best = 0;
    for (size_t class = 1; class < CLASSES; class++) {
        if (logits[class] > logits[best]) best = class;
    }
    print("class ");
    print((char[]){(char)('0' + best), 0});
    print(", logits");
    for (size_t class = 0; class < CLASSES; class++) {
        union {
            float number;
            uint32_t bits;
        } logit = {.number = logits[class]};
        char hex[10] = " ";
        for (int digit = 0; digit < 8; digit++) hex[1 + digit] = "0123456789abcdef"[logit.bits >> (28 - 4 * digit) & 15];
        print(hex);
    }
    print("\n");

    // Bad input is an error, not a fault.
    if (vit_model_place(storage, sizeof storage, model_start, model_len / 2, &model, &error) == VIT_OK) return 1;
    print("a truncated model: ");
    print(error.message);
    print("\n");
    return 0;
}
