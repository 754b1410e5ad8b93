/* Linked with a RUNPATH of $ORIGIN/lib, which means another folder once the file is staged. */
#define SIN "origin_runpath"
#include "sin.h"
