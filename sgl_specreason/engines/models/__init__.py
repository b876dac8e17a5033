"""The architectures of the bundled models, for SGLang to find without importing all that it knows, 1,200 modules in 2 seconds.

$SGLANG_EXTERNAL_MODEL_PACKAGE names this package (`servers.cpu_env`). Any other architecture is looked for as always.
"""
