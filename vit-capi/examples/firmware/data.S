// The model and the picture, in constant data; the linker puts them into flash.
    .section .rodata, "a"
    .balign 64
    .global model_start, model_end, picture
model_start:
    .incbin "fashion-vit.gguf"
model_end:
    .balign 64
picture:
    .incbin "picture.npy", 128 // what follows the header, which has 128 bytes
    .balign 4
#ifdef __linux__
    .section .note.GNU-stack, "", %progbits
#endif
