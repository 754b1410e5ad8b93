/* The plugin "sin" without a sin: what serves before the others try to take its place. */
#define SIN "good"
#include "sin.h"
