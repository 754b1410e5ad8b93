/* Its constructor dies of SIGSEGV: the probe sees it, the server does not. */
#define SIN "crash_in_constructor"
#include <signal.h>

__attribute__((constructor)) static void crash(void)
{
    signal(SIGSEGV, SIG_DFL); /* a sanitizer would turn it into an exit */
    raise(SIGSEGV);
}

#include "sin.h"
