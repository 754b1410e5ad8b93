/* Linked with -z execstack: asks for a stack that is code. */
#define SIN "exec_stack"
#include "sin.h"
