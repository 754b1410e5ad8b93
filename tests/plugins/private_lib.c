/* private_dep's library; no plugin. */
__attribute__((visibility("default"))) const char *private_text(void);

const char *private_text(void)
{
    return "private " VERSION "\n";
}
