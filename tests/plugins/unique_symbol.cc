/*
 * A static of a template that is visible outside: g++ makes it an STB_GNU_UNIQUE symbol, of which a
 * process has one, for all versions, for ever. clang++ does not, so there the assembler is asked
 * for such a symbol.
 */
#define SIN "unique_symbol"
#include <graft/graft.h>

#ifdef __clang__
__asm__(".pushsection .data\n"
        ".globl sin_unique\n"
        ".type sin_unique, %gnu_unique_object\n"
        ".size sin_unique, 4\n"
        "sin_unique: .long 0\n"
        ".popsection\n");
#endif

template <class T> struct __attribute__((visibility("default"))) counter {
    static int value;
};
template <class T> int counter<T>::value = 0;

static graft_next handler(graft_req *req, void *)
{
    graft_printf(req, "unique_symbol %d\n", ++counter<int>::value);
    return GRAFT_DONE;
}

#define HANDLER handler
#include "sin.h"
