// What a board provides.
#ifndef BOARD_H
#define BOARD_H

// Prints a text: through the debugger on a microcontroller, to standard output on a host.
void print(const char *text);

#endif
