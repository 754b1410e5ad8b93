/* Linked with -z nodelete: could never be unmapped. */
#define SIN "nodelete"
#include "sin.h"
