/* Its constructor never returns. */
#define SIN "hang_in_constructor"
#include <unistd.h>

__attribute__((constructor)) static void hang(void)
{
    for (;;)
        pause();
}

#include "sin.h"
