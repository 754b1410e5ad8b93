/* An absolute address in the code: the loader would have to write into the text (64-bit machines).
 */
#define SIN "textrel"
#include <graft/graft.h>

extern const char textrel_target[];
__attribute__((used)) const char textrel_target[] = "x";

__asm__(".pushsection .text\n"
        ".balign 8\n"
        ".quad textrel_target\n"
        ".popsection\n");

#include "sin.h"
