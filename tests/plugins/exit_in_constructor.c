/* Its constructor ends the process, with the status of success. */
#define SIN "exit_in_constructor"
#include <unistd.h>

__attribute__((constructor)) static void leave(void)
{
    _exit(0);
}

#include "sin.h"
